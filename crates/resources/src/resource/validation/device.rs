//! A device: its attributes, capacities, taints and counters.

use super::{fits, names};
use crate::At;
use crate::check;
use crate::fields::{entries, flag, list, present, same, text, texts};
use crate::pod_spec::validation::node_selector;
use machinery::field::ErrorList;
use machinery::quantity::Quantity;
use machinery::{Value, names as rules};

pub(super) const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const MOST_CONDITIONS: usize = 4;
const MOST_TAINTS: usize = 16;
const MOST_ATTRIBUTES: usize = 32;
const MOST_CONSUMED: usize = 2;
const MOST_COUNTERS: usize = 32;
const MOST_OPTIONS: usize = 10;
const LONGEST_VALUE: usize = 64;

/// Judges a device of a slice; `old` is the device of the same name before.
pub(super) fn device(
    device: &Value,
    old: Option<&Value>,
    own_nodes: bool,
    at: &At<'_>,
    errors: &mut ErrorList,
) {
    check::label(text(device, "name"), &at.child("name"), errors);
    let (attributes, capacities) = (entries(device, "attributes"), entries(device, "capacity"));
    let count = attributes.len() + capacities.len();
    if count > MOST_ATTRIBUTES {
        let why = format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}");
        errors.push(at.invalid(count as i64, why));
    }
    let here = at.child("attributes");
    for (name, value) in attributes {
        names::qualified(name, &here, errors);
        attribute(value, &here.key(name), errors);
    }
    let here = at.child("capacity");
    for (name, capacity) in capacities {
        names::qualified(name, &here, errors);
        let shared = flag(device, "allowMultipleAllocations");
        self::capacity(capacity, shared, &here.key(name), errors);
    }
    if !old.is_some_and(|old| same(device, old, &["taints"])) {
        let here = at.child("taints");
        if fits(list(device, "taints").len(), MOST_TAINTS, &here, errors) {
            for (index, one) in list(device, "taints").iter().enumerate() {
                taint(one, &here.index(index), errors);
            }
        }
    }
    consumed(device, &at.child("consumesCounters"), errors);
    nodes(device, own_nodes, at, errors);
    binding_conditions(device, at, errors);
}

fn attribute(attribute: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let given = |field: &&str| present(attribute, field).is_some();
    let single = ["bool", "int", "string", "version"]
        .iter()
        .filter(|field| given(field))
        .count();
    let lists = ["bools", "ints", "strings", "versions"];
    if let Some(value) = present(attribute, "string").and_then(Value::as_str) {
        string(value, &at.child("string"), errors);
    }
    if let Some(value) = present(attribute, "version").and_then(Value::as_str) {
        version(value, &at.child("version"), errors);
    }
    for field in lists.iter().filter(|field| given(field)) {
        let here = at.child(field);
        if list(attribute, field).is_empty() {
            let shown = attribute.get(field).cloned().unwrap_or_default();
            errors.push(here.invalid(shown, "must not be empty if specified"));
        }
        for (index, value) in texts(attribute, field).enumerate() {
            if *field == "versions" {
                version(value, &here.index(index), errors);
            } else {
                string(value, &here.index(index), errors);
            }
        }
    }
    match single + lists.iter().filter(|field| given(field)).count() {
        1 => {}
        0 => errors.push(at.invalid("", "exactly one value must be specified")),
        _ => errors.push(at.invalid(attribute.clone(), "exactly one value must be specified")),
    }
}

fn string(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    if value.len() > LONGEST_VALUE {
        errors.push(at.too_long(LONGEST_VALUE as i64));
    }
}

fn version(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    if !is_version(value) {
        let why = "must be a string compatible with semver.org spec 2.0.0";
        errors.push(at.invalid(value, why));
    }
    string(value, at, errors);
}

fn is_version(value: &str) -> bool {
    let (rest, build) = match value.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (value, None),
    };
    let (core, pre) = match rest.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (rest, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| {
            pre.split('.')
                .all(|part| word(part) && (!digits(part) || number(part)))
        })
        && build.is_none_or(|build| build.split('.').all(word))
}

fn capacity(capacity: &Value, shared: bool, at: &At<'_>, errors: &mut ErrorList) {
    let Some(policy) = present(capacity, "requestPolicy") else {
        return;
    };
    let at = at.child("requestPolicy");
    if !shared {
        errors.push(at.forbidden("allowMultipleAllocations must be true"));
        return;
    }
    let whole = quantity(capacity, "value").unwrap_or(Quantity::ZERO);
    let values = list(policy, "validValues");
    let range = present(policy, "validRange");
    if !values.is_empty() && range.is_some() {
        let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same \
                   time";
        errors.push(at.forbidden(why));
        return;
    }
    let default = quantity(policy, "default");
    match (values.is_empty(), range, default) {
        (true, None, _) => {}
        (false, _, None) => errors.push(
            at.child("default")
                .required("required when validValues is defined"),
        ),
        (true, Some(_), None) => {
            errors.push(
                at.child("default")
                    .required("required when validRange is defined"),
            );
        }
        (false, _, Some(default)) => options(values, default, whole, &at.child("validValues"), errors),
        (true, Some(range), Some(default)) => {
            self::range(range, default, whole, &at.child("validRange"), errors);
        }
    }
}

fn quantity(holder: &Value, field: &str) -> Option<Quantity> {
    text(holder, field).parse().ok()
}

fn options(values: &[Value], default: Quantity, whole: Quantity, at: &At<'_>, errors: &mut ErrorList) {
    let options: Vec<Quantity> = values
        .iter()
        .filter_map(|value| value.as_str()?.parse().ok())
        .collect();
    for (index, pair) in options.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let why = "values must be sorted in ascending order";
            errors.push(at.index(index + 1).invalid(pair[1].to_string(), why));
        }
    }
    if fits(options.len(), MOST_OPTIONS, at, errors) {
        for (index, option) in options.iter().enumerate() {
            if *option > whole {
                let why = format!("option is larger than capacity value: {whole}");
                errors.push(at.index(index).invalid(option.to_string(), why));
            }
        }
        for (index, option) in options.iter().enumerate() {
            if options[..index]
                .iter()
                .any(|other| other.value() == option.value())
            {
                errors.push(at.index(index).duplicate(option.value().to_string()));
            }
        }
    }
    if !options.contains(&default) {
        let why = "default value is not valid according to the requestPolicy";
        errors.push(at.invalid(default.to_string(), why));
    }
}

fn range(range: &Value, default: Quantity, whole: Quantity, at: &At<'_>, errors: &mut ErrorList) {
    let Some(min) = quantity(range, "min") else {
        errors.push(at.child("min").required("required when validRange is defined"));
        return;
    };
    let here = at.child("min");
    if min > whole {
        let why = format!("min is larger than capacity value: {whole}");
        errors.push(here.invalid(min.to_string(), why));
    }
    if default < min {
        errors.push(here.invalid(default.to_string(), format!("default is less than min: {min}")));
    }
    let max = quantity(range, "max");
    if let Some(max) = max {
        let here = at.child("max");
        if min > max {
            errors.push(here.invalid(min.to_string(), format!("min is larger than max: {max}")));
        }
        if max > whole {
            let why = format!("max is larger than capacity value: {whole}");
            errors.push(here.invalid(max.to_string(), why));
        }
        if default > max {
            errors.push(here.invalid(default.to_string(), format!("default is more than max: {max}")));
        }
    }
    let Some(step) = quantity(range, "step") else {
        return;
    };
    let here = at.child("step");
    let first = min + step;
    if first > whole {
        let why = format!("one step {first} is larger than capacity value: {whole}");
        errors.push(here.invalid(step.to_string(), why));
    }
    for value in [Some(default), max].into_iter().flatten() {
        let rest = (value.value() - min.value()).checked_rem(step.value());
        if rest != Some(0) {
            let why = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.push(here.invalid(value.to_string(), why));
        }
    }
}

fn taint(taint: &Value, at: &At<'_>, errors: &mut ErrorList) {
    check::qualified(text(taint, "key"), &at.child("key"), errors);
    let value = text(taint, "value");
    check::each(rules::label_value(value), value, &at.child("value"), errors);
    check::required_one_of(text(taint, "effect"), &EFFECTS, &at.child("effect"), errors);
}

fn consumed(device: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let all = list(device, "consumesCounters");
    if !fits(all.len(), MOST_CONSUMED, at, errors) {
        return;
    }
    for (index, one) in all.iter().enumerate() {
        let at = at.index(index);
        match text(one, "counterSet") {
            "" => errors.push(at.child("counterSet").required("")),
            name => check::label(name, &at.child("counterSet"), errors),
        }
        counters(one, &at.child("counters"), errors);
    }
    for (index, one) in all.iter().enumerate() {
        let set = text(one, "counterSet");
        if all[..index].iter().any(|other| text(other, "counterSet") == set) {
            errors.push(at.index(index).duplicate(set));
        }
    }
}

/// Counters by name; there must be one.
pub(super) fn counters(holder: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let counters = entries(holder, "counters");
    if counters.is_empty() {
        errors.push(at.required(""));
    } else if fits(counters.len(), MOST_COUNTERS, at, errors) {
        for (name, _) in counters {
            check::label(name, at, errors);
        }
    }
}

fn nodes(device: &Value, own: bool, at: &At<'_>, errors: &mut ErrorList) {
    let name = present(device, "nodeName").and_then(Value::as_str);
    let selector = present(device, "nodeSelector");
    let all = present(device, "allNodes").and_then(Value::as_bool);
    if !own {
        if name.is_some() || selector.is_some() || all.is_some() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set \
                       to true in the ResourceSlice spec";
            errors.push(at.invalid(Value::Null, why));
        }
        return;
    }
    let mut given: Vec<&str> = Vec::new();
    match name {
        None => {}
        Some("") => errors.push(at.child("nodeName").invalid("", "must not be empty")),
        Some(name) => {
            given.push("`nodeName`");
            check::subdomain(name, &at.child("nodeName"), errors);
        }
    }
    if let Some(selector) = selector {
        given.push("`nodeSelector`");
        node_selector(selector, &at.child("nodeSelector"), errors);
    }
    match all {
        None => {}
        Some(true) => given.push("`allNodes`"),
        Some(false) => {
            let why = "must be either unset or set to true";
            errors.push(at.child("allNodes").invalid(false, why));
        }
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                       `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.push(at.required(ONE)),
        1 => {}
        _ => errors.push(at.invalid(format!("{{{}}}", given.join(", ")), ONE)),
    }
}

/// Conditions that say when a device is ready, and when it never will be: both or none.
pub(super) fn binding_conditions(holder: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const READY: &str = "bindingConditions";
    const FAILED: &str = "bindingFailureConditions";
    let both: Vec<(&str, Vec<&str>)> = [READY, FAILED]
        .into_iter()
        .map(|field| (field, texts(holder, field).collect()))
        .collect();
    for (field, all) in &both {
        let at = at.child(field);
        if fits(all.len(), MOST_CONDITIONS, &at, errors) {
            for (index, name) in all.iter().enumerate() {
                check::qualified(name, &at.index(index), errors);
            }
        }
    }
    for (field, all) in &both {
        let at = at.child(field);
        for (index, name) in all.iter().enumerate() {
            if all[..index].contains(name) {
                errors.push(at.index(index).duplicate(*name));
            }
            if *field == FAILED && both[0].1.contains(name) {
                let why = "bindingFailureConditions must not overlap with bindingConditions";
                errors.push(at.index(index).invalid(*name, why));
            }
        }
    }
    for (index, other) in [(0, 1), (1, 0)] {
        let ((field, own), (name, others)) = (&both[index], &both[other]);
        if own.is_empty() && !others.is_empty() {
            let shown = holder.get(field).cloned().unwrap_or_default();
            errors.push(
                at.child(field)
                    .invalid(shown, format!("{field} are required to use {name}")),
            );
        }
    }
}
