//! What a Node must be, and what of it may change.

use crate::At;
use crate::check;
use crate::fields::{entries, list, list_at, present, text, text_at, texts};
use crate::ip;
use crate::pod_spec::validation::{quantity_value, taint_effect};
use ipnet::IpNet;
use machinery::field::{Error, ErrorList};
use machinery::{Value, names};
use std::cmp::Ordering;

/// Judges a node, new or changed.
pub(super) fn node(node: &Value, errors: &mut ErrorList) {
    let spec = node.get("spec").unwrap_or(&Value::Null);
    taints(spec, errors);
    resources(node, errors);
    if let Some(capacity) = node.get_path(&["status", "nodeInfo", "swap", "capacity"]) {
        // Upstream's path is not the field's.
        let at = At::new("metadata.nodeSwapStatus.capacity");
        check::positive(capacity.as_i64().unwrap_or(0), &at, errors);
    }
    features(node, errors);
    let ranges: Vec<&str> = texts(spec, "podCIDRs").collect();
    let at = At::new("spec.podCIDRs");
    for (index, range) in ranges.iter().enumerate() {
        if let Some(wrong) = ip::wrong_network(range) {
            errors.push(at.index(index).invalid(*range, wrong));
        }
    }
    if ranges.len() > 1 {
        let is_v6 = |range: &&str| range.parse::<IpNet>().is_ok_and(|net| net.addr().is_ipv6());
        let both = ranges.iter().any(is_v6) && !ranges.iter().all(is_v6);
        if !both || ranges.len() > 2 {
            let why = "may specify no more than one CIDR for each IP family";
            errors.push(at.invalid(ranges, why));
        }
    }
}

/// Judges an update of a node.
pub(super) fn change(new: &Value, old: &Value, errors: &mut ErrorList) {
    const PODS: [&str; 2] = ["spec", "podCIDRs"];
    let addresses = list_at(new, &["status", "addresses"]);
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].iter().any(|other| other.semantic_eq(address)) {
            let at = At::new("status.addresses");
            errors.push(at.index(index).duplicate(address.clone()));
        }
    }
    let (now, before) = (list_at(new, &PODS), list_at(old, &PODS));
    let at = At::new("spec");
    let forbidden = |field: &str, what: &str| {
        at.child(field).forbidden(format!(
            "node updates may not change {what} except from \"\" to valid"
        ))
    };
    if !before.is_empty() && before.len() != now.len() {
        errors.push(forbidden("podCIDRs", "podCIDR"));
    } else if !before.is_empty() {
        let changed = before.iter().zip(now).filter(|(before, now)| before != now);
        errors.extend(changed.map(|_| forbidden("podCIDRs", "podCIDR")));
    }
    let id = |node| text_at(node, &["spec", "providerID"]);
    if !id(old).is_empty() && id(old) != id(new) {
        errors.push(forbidden("providerID", "providerID"));
    }
    if text_at(new, &["spec", "externalID"]) != text_at(old, &["spec", "externalID"]) {
        errors.push(at.child("externalID").forbidden("may not be updated"));
    }
}

/// Upstream's path of taints is not the field's.
fn taints(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("metadata.taints");
    let all = list(spec, "taints");
    for (index, taint) in all.iter().enumerate() {
        let at = at.index(index);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        check::qualified(key, &at.child("key"), errors);
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(at.child("value").invalid(value, wrong.join(";")));
        }
        if effect.is_empty() {
            errors.push(at.child("effect").required(""));
        } else {
            taint_effect(effect, &at.child("effect"), errors);
        }
        let same = |other: &Value| text(other, "key") == key && text(other, "effect") == effect;
        if all[..index].iter().any(same) {
            errors.push(Error {
                detail: "taints must be unique by key and effect pair".to_owned(),
                ..at.duplicate(taint.clone())
            });
        }
    }
}

fn resources(node: &Value, errors: &mut ErrorList) {
    let status = node.get("status").unwrap_or(&Value::Null);
    for field in ["capacity", "allocatable"] {
        let at = At::new("status");
        let at = at.child(field);
        for (name, amount) in entries(status, field) {
            quantity_value(name, amount, &at.child(name), errors);
        }
    }
}

/// Names of features in groups: sorted, each once.
fn features(node: &Value, errors: &mut ErrorList) {
    let status = node.get("status").unwrap_or(&Value::Null);
    if present(status, "declaredFeatures").is_none() {
        return;
    }
    let at = At::new("status.declaredFeatures");
    let mut before: Option<&str> = None;
    for (index, name) in texts(status, "declaredFeatures").enumerate() {
        let at = at.index(index);
        match before.map(|before| before.cmp(name)) {
            Some(Ordering::Equal) => errors.push(at.duplicate(name)),
            Some(Ordering::Greater) => errors.push(at.invalid(name, "list must be sorted alphabetically")),
            _ => {}
        }
        if name.len() > 253 {
            let why = format!("invalid feature name {name:?}: must be no more than 253 characters");
            errors.push(at.invalid(name, why));
        } else if !is_feature(name) {
            let why = format!(
                "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments \
                 separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric \
                 characters and slashes"
            );
            errors.push(at.invalid(name, why));
        }
        before = Some(name);
    }
}

fn is_feature(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|c| c.is_ascii_alphanumeric())
        })
}
