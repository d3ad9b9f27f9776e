//! Affinity to nodes and to other pods.

use super::topology::label_keys;
use crate::At;
use crate::check;
use crate::fields::{int, list, present, text, texts};
use machinery::field::ErrorList;
use machinery::{Value, names};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Judges a pod's affinity.
pub(super) fn affinity(affinity: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(node) = present(affinity, "nodeAffinity") {
        node_affinity(node, &at.child("nodeAffinity"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        if let Some(pods) = present(affinity, kind) {
            pod_affinity(pods, &at.child(kind), errors);
        }
    }
}

fn node_affinity(affinity: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(selector) = present(affinity, REQUIRED) {
        node_selector(selector, &at.child(REQUIRED), errors);
    }
    let preferred = at.child(PREFERRED);
    for (index, term) in list(affinity, PREFERRED).iter().enumerate() {
        let at = preferred.index(index);
        weight(term, &at, errors);
        if let Some(preference) = term.get("preference") {
            // A value that is no label can match no node, which does no harm here.
            self::term(preference, false, &at.child("preference"), errors);
        }
    }
}

fn weight(term: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(at.child("weight").invalid(weight, "must be in the range 1-100"));
    }
}

/// Judges a selector of nodes.
pub fn node_selector(selector: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.child("nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(at.required("must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(term, &at.index(index), errors);
    }
}

/// Judges one of the terms of which one must match.
pub fn node_selector_term(term: &Value, at: &At<'_>, errors: &mut ErrorList) {
    self::term(term, true, at, errors);
}

fn term(term: &Value, judge_values: bool, at: &At<'_>, errors: &mut ErrorList) {
    let expressions = at.child("matchExpressions");
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(requirement, judge_values, &expressions.index(index), errors);
    }
    let fields = at.child("matchFields");
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        node_field(requirement, &fields.index(index), errors);
    }
}

fn node_requirement(requirement: &Value, judge_values: bool, at: &At<'_>, errors: &mut ErrorList) {
    let count = list(requirement, "values").len();
    let values = at.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if count == 0 => {
            errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            errors
                .push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Gt" | "Lt" if count != 1 => {
            errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(
            at.child("operator")
                .invalid(other, "not a valid selector operator"),
        ),
    }
    check::qualified(text(requirement, "key"), &at.child("key"), errors);
    if judge_values {
        for (index, value) in texts(requirement, "values").enumerate() {
            check::each(names::label_value(value), value, &values.index(index), errors);
        }
    }
}

fn node_field(requirement: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let values = at.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            if list(requirement, "values").len() != 1 {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(values.required(why));
            }
        }
        other => errors.push(
            at.child("operator")
                .invalid(other, "not a valid selector operator"),
        ),
    }
    match text(requirement, "key") {
        "metadata.name" => {
            for (index, name) in texts(requirement, "values").enumerate() {
                check::subdomain(name, &values.index(index), errors);
            }
        }
        other => errors.push(at.child("key").invalid(other, "not a valid field selector key")),
    }
}

fn pod_affinity(affinity: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let required = at.child(REQUIRED);
    for (index, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &required.index(index), errors);
    }
    let preferred = at.child(PREFERRED);
    for (index, weighted) in list(affinity, PREFERRED).iter().enumerate() {
        let at = preferred.index(index);
        weight(weighted, &at, errors);
        if let Some(term) = weighted.get("podAffinityTerm") {
            pod_term(term, &at.child("podAffinityTerm"), errors);
        }
    }
}

fn pod_term(term: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for field in ["labelSelector", "namespaceSelector"] {
        check::label_selector(present(term, field), &at.child(field), errors);
    }
    for namespace in texts(term, "namespaces") {
        check::label(namespace, &at.child("namespace"), errors);
    }
    label_keys(term, at, errors);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(at.child("topologyKey").required("can not be empty"));
    }
    check::qualified(key, &at.child("topologyKey"), errors);
}
