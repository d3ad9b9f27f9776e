//! Resources of the pod as a whole: what is not said follows from the containers (KEP-2837).

use super::resources::quantity;
use crate::fields::{list, present, text};
use machinery::quantity::Quantity;
use machinery::{Map, Value};
use std::collections::BTreeMap;

/// Fills the pod's own requests and limits, if it has any of either.
pub fn fill_resources(spec: &mut Value) {
    let Some(own) = present(spec, "resources") else {
        return;
    };
    let side = |name: &str| {
        own.get(name)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let (mut limits, mut requests) = (side("limits"), side("requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for (name, amount) in aggregate(spec, "limits") {
        if name.starts_with("hugepages-") && !requests.contains_key(&name) && !limits.contains_key(&name) {
            limits.insert(name, amount.to_string());
        }
    }
    if !limits.is_empty() {
        for (name, amount) in aggregate(spec, "requests") {
            if matches!(name.as_str(), "cpu" | "memory") && !requests.contains_key(&name) {
                requests.insert(name, amount.to_string());
            }
        }
        for (name, amount) in &limits {
            let supported = matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
            if supported && !requests.contains_key(name) {
                requests.insert(name.clone(), amount.clone());
            }
        }
    }
    put(spec, "limits", limits);
    put(spec, "requests", requests);
}

fn put(spec: &mut Value, side: &str, list: Map) {
    if !list.is_empty() {
        spec.set_path(&["resources", side], list);
    }
}

/// What the containers need together: the running ones' sum, or more while an init container runs.
pub fn aggregate(spec: &Value, side: &str) -> BTreeMap<String, Quantity> {
    let mut total = BTreeMap::new();
    for container in list(spec, "containers") {
        add(&mut total, container, side);
    }
    let mut restartable = BTreeMap::new();
    let mut peak = BTreeMap::new();
    for container in list(spec, "initContainers") {
        let mut now = restartable.clone();
        add(&mut now, container, side);
        if text(container, "restartPolicy") == "Always" {
            add(&mut total, container, side);
            restartable = now.clone();
        }
        raise(&mut peak, now);
    }
    raise(&mut total, peak);
    total
}

fn add(total: &mut BTreeMap<String, Quantity>, container: &Value, side: &str) {
    let amounts = container.get_path(&["resources", side]);
    for name in amounts.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        let sum = total.entry(name.to_string()).or_insert(Quantity::ZERO);
        *sum = *sum + quantity(amounts, name);
    }
}

fn raise(total: &mut BTreeMap<String, Quantity>, others: BTreeMap<String, Quantity>) {
    for (name, amount) in others {
        let most = total.entry(name).or_insert(amount);
        *most = (*most).max(amount);
    }
}
