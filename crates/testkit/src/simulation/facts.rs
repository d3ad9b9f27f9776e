//! What objects say, read from the stored values.

use machinery::{Value, meta};

/// How a pod that was healthy stopped being so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By the eviction API, which asks budgets.
    Evicted,
    /// Somebody who owns it deleted it.
    Deleted,
    /// Its node or its taints, preemption, or itself.
    Lapsed,
}

/// The number at a path.
pub(super) fn number(object: &Value, path: &[&str]) -> Option<i64> {
    object.get_path(path).and_then(Value::as_i64)
}

/// The controlling owner's kind and uid.
pub(super) fn controller(object: &Value) -> Option<(&str, &str)> {
    let owner = meta::owner_references(object)
        .iter()
        .find(|o| o.get("controller").and_then(Value::as_bool) == Some(true))?;
    Some((owner.get_str_path(&["kind"])?, owner.get_str_path(&["uid"])?))
}

pub(super) fn is_leaving(object: &Value) -> bool {
    meta::deletion_timestamp(object).is_some()
}

/// The condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.get_path(&["status", "conditions"])?.as_array()?;
    conditions
        .iter()
        .find(|c| c.get_str_path(&["type"]) == Some(kind))
}

pub(super) fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).and_then(|c| c.get_str_path(&["status"])) == Some("True")
}

pub(super) fn phase(pod: &Value) -> &str {
    pod.get_str_path(&["status", "phase"]).unwrap_or("Pending")
}

pub(super) fn is_finished(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Ready, and not on its way out.
pub(super) fn is_healthy(pod: &Value) -> bool {
    !is_leaving(pod) && phase(pod) == "Running" && holds(pod, "Ready")
}

/// Neither ended nor on its way out.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_leaving(pod) && !is_finished(pod)
}

/// How a change ended a pod's health, if it did.
pub(super) fn ending(old: Option<&Value>, new: Option<&Value>) -> Option<Ending> {
    if !old.is_some_and(is_healthy) || new.is_some_and(is_healthy) {
        return None;
    }
    let Some(new) = new.filter(|pod| is_leaving(pod)) else {
        return Some(Ending::Lapsed);
    };
    let disrupted = condition(new, "DisruptionTarget").and_then(|c| c.get_str_path(&["reason"]));
    Some(match disrupted {
        Some("EvictionByEvictionAPI") => Ending::Evicted,
        Some(_) => Ending::Lapsed,
        None => Ending::Deleted,
    })
}

/// A whole number or a percentage of a total; percentages are rounded up or down.
pub(super) fn share(value: Option<&Value>, of: i64, round_up: bool) -> Option<i64> {
    let value = value?;
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    let up = if round_up { 99 } else { 0 };
    Some((of * percent + up) / 100)
}

/// How many pods of a Deployment may be missing, and how many there may be too many, during a rollout.
pub(super) fn rollout_limits(deployment: &Value) -> (i64, i64) {
    let replicas = number(deployment, &["spec", "replicas"]).unwrap_or(1);
    let field = |name: &str| deployment.get_path(&["spec", "strategy", "rollingUpdate", name]);
    let missing = share(field("maxUnavailable"), replicas, false).unwrap_or(0);
    let surge = share(field("maxSurge"), replicas, true).unwrap_or(0);
    // Both may not be nothing.
    (if missing == 0 && surge == 0 { 1 } else { missing }, surge)
}
