//! What a request takes of a device's capacities (KEP-5075): what it asks for, rounded as the device wants it.

use super::taken::Amounts;
use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, CapacityRequirements, Device, DeviceCapacity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::{Format, Quantity};

fn parse(text: &Text) -> Quantity {
    // The API server has checked it.
    text.0.parse().unwrap_or(Quantity::ZERO)
}

/// What a request would take of each capacity.
pub(super) fn consumed(request: Option<&CapacityRequirements>, device: &Device) -> Amounts {
    let capacities = device.capacity.iter().flatten();
    capacities
        .map(|(name, capacity)| (name.clone(), take(asked(request, name), capacity)))
        .collect()
}

/// Whether the device has what a request asks for, beside what others take of it.
pub(super) fn suffices(request: Option<&CapacityRequirements>, device: &Device, others: &[&Amounts]) -> bool {
    let none = std::collections::BTreeMap::new();
    let capacities = device.capacity.as_ref().unwrap_or(&none);
    let mut names = request.and_then(|r| r.requests.as_ref()).into_iter().flatten();
    if !names.all(|(name, _)| capacities.contains_key(name)) {
        return false;
    }
    capacities.iter().all(|(name, capacity)| {
        let taken = take(asked(request, name), capacity);
        let sum = others
            .iter()
            .filter_map(|o| o.get(name))
            .fold(taken, |a, b| a + *b);
        allowed(taken, capacity.request_policy.as_ref()) && sum <= parse(&capacity.value)
    })
}

fn asked(request: Option<&CapacityRequirements>, name: &str) -> Option<Quantity> {
    request?.requests.as_ref()?.get(name).map(parse)
}

fn take(asked: Option<Quantity>, capacity: &DeviceCapacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(asked) = asked else {
        let default = policy.and_then(|p| p.default.as_ref());
        return parse(default.unwrap_or(&capacity.value));
    };
    let Some(policy) = policy else { return asked };
    if let Some(range) = &policy.valid_range {
        let min = parse(&range.min);
        let Some(step) = range.step.as_ref().map(parse).filter(|_| asked >= min) else {
            return asked.max(min);
        };
        let (step, least) = (step.value().max(1), min.value());
        let steps = (asked.value() - least + step - 1) / step;
        return Quantity::from_units(least + steps * step, Format::BinarySi);
    }
    let mut values = policy.valid_values.iter().flatten().map(parse);
    values.find(|value| asked <= *value).unwrap_or(asked)
}

fn allowed(taken: Quantity, policy: Option<&CapacityRequestPolicy>) -> bool {
    let Some(policy) = policy else { return true };
    if policy.default.as_ref().is_some_and(|d| parse(d) == taken) {
        return true;
    }
    if let Some(range) = &policy.valid_range {
        let under = range.max.as_ref().is_none_or(|max| taken <= parse(max));
        let step = range.step.as_ref().map(|s| parse(s).value().max(1));
        let on_step = step.is_none_or(|step| (taken.value() - parse(&range.min).value()) % step == 0);
        return under && on_step;
    }
    let values = policy.valid_values.as_deref().unwrap_or(&[]);
    values.is_empty() || values.iter().any(|value| parse(value) == taken)
}
