//! The slices in which drivers publish devices.

use super::{device, fits, names};
use crate::At;
use crate::check;
use crate::fields::{entries, int_at, list, list_at, present, text, text_at};
use crate::pod_spec::validation::node_selector;
use machinery::Value;
use machinery::field::ErrorList;

const MOST_DEVICES: usize = 128;
/// With taints, counters or lists there is more to a device.
const MOST_RICH_DEVICES: usize = 64;
const MOST_COUNTER_SETS: usize = 8;
const ONE: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

/// Judges a new slice.
pub(in crate::resource) fn slice_spec(slice: &Value, errors: &mut ErrorList) {
    judge(slice, None, errors);
}

/// Judges a slice that changed.
pub(in crate::resource) fn slice_change(new: &Value, old: &Value, errors: &mut ErrorList) {
    judge(new, Some(old), errors);
}

fn judge(slice: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = slice.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    names::driver(text(spec, "driver"), &at.child("driver"), errors);
    let here = at.child("pool");
    names::pool(text_at(spec, &["pool", "name"]), &here.child("name"), errors);
    let count = int_at(spec, &["pool", "resourceSliceCount"]).unwrap_or(0);
    check::positive(count, &here.child("resourceSliceCount"), errors);
    if let Some(generation) = int_at(spec, &["pool", "generation"]).filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to zero";
        errors.push(here.child("generation").invalid(generation, why));
    }
    if let Some(old) = old {
        for path in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
            let value = |slice: &Value| slice.get("spec").and_then(|spec| spec.get_path(path)).cloned();
            let shown = path.join(".");
            check::immutable(
                value(slice).as_ref(),
                value(old).as_ref(),
                &at.child(&shown),
                errors,
            );
        }
    }
    nodes(spec, &at, errors);
    if present(spec, "sharedCounters").is_some() && present(spec, "devices").is_some() {
        errors.push(at.invalid("", "only one of `sharedCounters` or `devices` is allowed"));
    }
    devices(spec, old, &at.child("devices"), errors);
    counter_sets(spec, &at.child("sharedCounters"), errors);
}

fn nodes(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let mut given: Vec<String> = Vec::new();
    match present(spec, "nodeName").and_then(Value::as_str) {
        None => {}
        Some("") => {
            let why = "must be either unset or set to a non-empty string";
            errors.push(at.child("nodeName").invalid("", why));
        }
        Some(name) => {
            given.push("`nodeName`".to_owned());
            check::subdomain(name, &at.child("nodeName"), errors);
        }
    }
    if let Some(selector) = present(spec, "nodeSelector") {
        given.push("`nodeSelector`".to_owned());
        let here = at.child("nodeSelector");
        node_selector(selector, &here, errors);
        let terms = list(selector, "nodeSelectorTerms");
        if terms.len() != 1 {
            let why = "must have exactly one node selector term";
            errors.push(
                here.child("nodeSelectorTerms")
                    .invalid(Value::Array(terms.to_vec()), why),
            );
        }
    }
    for field in ["allNodes", "perDeviceNodeSelection"] {
        match present(spec, field).and_then(Value::as_bool) {
            None => {}
            Some(true) => given.push(format!("`{field}`")),
            Some(false) => {
                let why = "must be either unset or set to true";
                errors.push(at.child(field).invalid(false, why));
            }
        }
    }
    match given.len() {
        0 => errors.push(at.required(ONE)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", given.join(", "));
            errors.push(at.invalid(shown, format!("{ONE}, but multiple fields are set")));
        }
    }
}

fn devices(spec: &Value, old: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    let devices = list(spec, "devices");
    let is_rich = |device: &Value| {
        let lists = ["bools", "ints", "strings", "versions"];
        let mut attributes = entries(device, "attributes").iter();
        !list(device, "taints").is_empty()
            || !list(device, "consumesCounters").is_empty()
            || attributes.any(|(_, value)| lists.iter().any(|field| present(value, field).is_some()))
    };
    let most = if devices.iter().any(is_rich) {
        MOST_RICH_DEVICES
    } else {
        MOST_DEVICES
    };
    if !fits(devices.len(), most, at, errors) {
        return;
    }
    let before = old
        .map(|old| list_at(old, &["spec", "devices"]))
        .unwrap_or_default();
    let own_nodes = spec.get("perDeviceNodeSelection") == Some(&Value::Bool(true));
    for (index, one) in devices.iter().enumerate() {
        let old = before.iter().find(|old| text(old, "name") == text(one, "name"));
        device::device(one, old, own_nodes, &at.index(index), errors);
    }
    repeated(devices, at, errors);
}

fn counter_sets(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let sets = list(spec, "sharedCounters");
    if !fits(sets.len(), MOST_COUNTER_SETS, at, errors) {
        return;
    }
    for (index, set) in sets.iter().enumerate() {
        let at = at.index(index);
        match text(set, "name") {
            "" => errors.push(at.child("name").required("")),
            name => check::label(name, &at.child("name"), errors),
        }
        device::counters(set, &at.child("counters"), errors);
    }
    repeated(sets, at, errors);
}

fn repeated(named: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    for (index, one) in named.iter().enumerate() {
        let name = text(one, "name");
        if named[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(at.index(index).duplicate(name));
        }
    }
}
