//! Resource lists: rounding to thousandths, and requests taken from limits.

use machinery::quantity::Quantity;
use machinery::{Map, Value};

/// Rounds every quantity of a list up to thousandths, as upstream does on every read.
pub fn round(resources: Option<&mut Value>) {
    let Some(resources) = resources.and_then(Value::as_object_mut) else {
        return;
    };
    for value in resources.values_mut() {
        // In canonical form only these two suffixes are finer than a thousandth.
        let finer = value.as_str().filter(|text| text.ends_with(['n', 'u']));
        if let Some(Ok(quantity)) = finer.map(str::parse::<Quantity>) {
            *value = Quantity::from_millis(quantity.milli_value()).to_string().into();
        }
    }
}

/// Rounds the limits and requests of a `ResourceRequirements`.
pub fn round_requirements(requirements: Option<&mut Value>) {
    if let Some(requirements) = requirements {
        round(requirements.get_mut("limits"));
        round(requirements.get_mut("requests"));
    }
}

/// Requests what a limit is set for and no request.
pub fn request_limits(requirements: Option<&mut Value>) {
    let Some(requirements) = requirements.and_then(Value::as_object_mut) else {
        return;
    };
    let Some(limits) = requirements.get("limits").and_then(Value::as_object) else {
        return;
    };
    let missing: Vec<_> = match requirements.get("requests").and_then(Value::as_object) {
        Some(requests) => limits
            .iter()
            .filter(|(name, _)| !requests.contains_key(name))
            .collect(),
        None => limits.iter().collect(),
    };
    if missing.is_empty() {
        return;
    }
    let missing: Map = missing
        .into_iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let requests = requirements.object_entry("requests");
    for (name, value) in missing {
        requests.insert(name, value);
    }
}

/// The quantity of a list's entry; zero when absent.
pub fn quantity(list: Option<&Value>, name: &str) -> Quantity {
    list.and_then(|list| list.get(name))
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or(Quantity::ZERO)
}
