//! What the server makes of a pod before it is judged.

use crate::fields::{list, list_mut, present, same, text, texts};
use crate::pod_spec::{app_armor, qos};
use crate::strategy::bump_generation;
use machinery::{Map, Value, meta};

/// A new pod is pending, has its class, and its label keys are selectors.
pub(super) fn for_create(pod: &mut Value) {
    let class = pod.get("spec").map_or("BestEffort", qos::class);
    let mut status = Map::new();
    status.insert("phase", "Pending");
    status.insert("qosClass", class);
    if pod
        .get("spec")
        .is_some_and(|spec| !list(spec, "schedulingGates").is_empty())
    {
        status.insert("conditions", Value::Array(vec![gated()]));
    }
    pod.set_path(&["status"], status);
    pod.set_path(&["metadata", "generation"], 1);
    merge_label_keys(pod);
    app_armor::annotations_to_fields(pod);
}

/// Every change of the spec counts.
pub(super) fn count_changes(new: &mut Value, old: &Value) {
    if !same(new, old, &["spec"]) {
        bump_generation(new, old);
    }
}

fn gated() -> Value {
    let mut condition = Map::new();
    condition.insert(
        "message",
        "Scheduling is blocked due to non-empty scheduling gates",
    );
    condition.insert("reason", "SchedulingGated");
    condition.insert("status", "False");
    condition.insert("type", "PodScheduled");
    condition.into()
}

/// `matchLabelKeys` and `mismatchLabelKeys` become requirements of the selectors beside them.
fn merge_label_keys(pod: &mut Value) {
    let wanted = |spec: &Value| {
        present(spec, "affinity").is_some() || !list(spec, "topologySpreadConstraints").is_empty()
    };
    if !pod.get("spec").is_some_and(wanted) {
        return;
    }
    let labels = meta::labels(pod).cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_path_mut(&["affinity", kind]) else {
            continue;
        };
        for term in list_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge(term, &labels);
        }
        for preferred in list_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = preferred.get_mut("podAffinityTerm") {
                merge(term, &labels);
            }
        }
    }
    for constraint in list_mut(spec, "topologySpreadConstraints") {
        merge(constraint, &labels);
    }
}

fn merge(term: &mut Value, labels: &Map) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in texts(term, field) {
            if let Some(value) = labels.get(key) {
                let mut requirement = Map::new();
                requirement.insert("key", key);
                requirement.insert("operator", operator);
                requirement.insert("values", Value::Array(vec![value.clone()]));
                added.push(Value::Object(requirement));
            }
        }
    }
    // A term without a selector selects nothing, and goes on to.
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else {
        return;
    };
    if added.is_empty() {
        return;
    }
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.append(&mut added),
        None => {
            selector.insert("matchExpressions", Value::Array(added));
        }
    }
}

/// What a write of the status may not take away.
pub(super) fn keep_observed(new: &mut Value, old: &Value) {
    let old_status = old.get("status").unwrap_or(&Value::Null);
    let Some(status) = new.get_mut("status") else {
        return;
    };
    if text(status, "qosClass").is_empty() && !text(old_status, "qosClass").is_empty() {
        status.set_path(&["qosClass"], text(old_status, "qosClass"));
    }
    let observed = |value: &Value| {
        value
            .get("observedGeneration")
            .and_then(Value::as_i64)
            .unwrap_or(0)
    };
    if observed(status) == 0 && observed(old_status) != 0 {
        status.set_path(&["observedGeneration"], observed(old_status));
    }
    // Conditions of one type are matched up in their order.
    let mut seen: Vec<String> = Vec::new();
    for condition in list_mut(status, "conditions") {
        let kind = text(condition, "type").to_owned();
        let nth = seen.iter().filter(|other| **other == kind).count();
        let before = list(old_status, "conditions")
            .iter()
            .filter(|c| text(c, "type") == kind)
            .nth(nth);
        seen.push(kind);
        let generation = before.map_or(0, observed);
        if observed(condition) == 0 && generation != 0 {
            condition.set_path(&["observedGeneration"], generation);
        }
    }
}
