//! From the kubelet's status to the one to write, and to the patch that writes it. Pure.
//!
//! Follows upstream's `mergePodStatus` and `normalizeStatus`. The patch is a strategic merge patch that names
//! the pod's UID, so a namesake made in the meantime is never touched, and carries nothing that is equal.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::conditions::{CONTAINERS_READY, DISRUPTION, OWNED, READY};
use crate::pod::{PodExt, condition, is_terminal};

const MESSAGE_BYTES: usize = 12 * 1024;

/// Gives conditions their transition times, keeps the start time, cuts times to seconds and messages to size.
pub fn normalize(pod: &Pod, status: &mut PodStatus, old: &PodStatus, now: Timestamp) {
    for c in status.conditions.iter_mut().flatten() {
        if !OWNED.contains(&c.type_.as_str()) && c.type_ != DISRUPTION {
            continue;
        }
        c.last_transition_time = match condition(old, &c.type_) {
            Some(before) if before.status == c.status => before.last_transition_time.clone(),
            _ => Some(Time(now)),
        };
    }
    if old.start_time.is_some() {
        status.start_time = old.start_time.clone();
    } else if status.start_time.is_none() {
        status.start_time = Some(Time(now));
    }
    status.observed_generation = status.observed_generation.max(old.observed_generation);
    let containers = pod.containers().len() + pod.init_containers().len() + pod.ephemeral_containers().len();
    let bytes = MESSAGE_BYTES / containers.max(1);
    for c in status.conditions.iter_mut().flatten() {
        whole_seconds(&mut c.last_probe_time);
        whole_seconds(&mut c.last_transition_time);
    }
    whole_seconds(&mut status.start_time);
    let lists = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for container in lists.into_iter().flatten().flatten() {
        normalize_container(container, bytes);
    }
}

fn normalize_container(container: &mut ContainerStatus, bytes: usize) {
    for state in [&mut container.state, &mut container.last_state]
        .into_iter()
        .flatten()
    {
        let ContainerState {
            running, terminated, ..
        } = state;
        if let Some(running) = running {
            whole_seconds(&mut running.started_at);
        }
        if let Some(end) = terminated {
            whole_seconds(&mut end.started_at);
            whole_seconds(&mut end.finished_at);
            if let Some(message) = &mut end.message
                && message.len() > bytes
            {
                message.truncate(message.floor_char_boundary(bytes));
            }
        }
    }
}

fn whole_seconds(time: &mut Option<Time>) {
    if let Some(Time(at)) = time
        && let Ok(whole) = Timestamp::from_second(at.as_second())
    {
        *at = whole;
    }
}

/// What to write over `written`: other writers' conditions stay theirs, and a pod shows no terminal phase while
/// something of it may run.
pub fn merge(pod: &Pod, written: &PodStatus, new: &PodStatus, may_run: bool) -> PodStatus {
    let mut merged = new.clone();
    let ending = !is_terminal(written.phase.as_deref().unwrap_or_default())
        && is_terminal(new.phase.as_deref().unwrap_or_default());
    let owned = |c: &&PodCondition| OWNED.contains(&c.type_.as_str());
    let mut conditions: Vec<PodCondition> = written
        .conditions
        .iter()
        .flatten()
        .filter(|c| !owned(c))
        .cloned()
        .collect();
    conditions.extend(new.conditions.iter().flatten().filter(owned).cloned());
    if ending
        && !may_run
        && let Some(disruption) = condition(new, DISRUPTION)
    {
        conditions.retain(|c| c.type_ != DISRUPTION);
        conditions.push(disruption.clone());
    }
    merged.resource_claim_statuses = written.resource_claim_statuses.clone();
    merged.extended_resource_claim_status = written.extended_resource_claim_status.clone();
    merged.node_allocatable_resource_claim_statuses =
        written.node_allocatable_resource_claim_statuses.clone();
    merged.nominated_node_name = written.nominated_node_name.clone();
    if ending && may_run {
        merged.phase = written.phase.clone();
        merged.reason = written.reason.clone();
        merged.message = written.message.clone();
    }
    let phase = merged.phase.as_deref().unwrap_or_default();
    if is_terminal(phase) {
        let reason = if phase == "Failed" {
            "PodFailed"
        } else {
            "PodCompleted"
        };
        for c in &mut conditions {
            if (c.type_ == READY || c.type_ == CONTAINERS_READY) && c.status == "True" {
                c.status = "False".to_owned();
                c.reason = Some(reason.to_owned());
                c.observed_generation = pod.generation();
            }
        }
    }
    merged.conditions = Some(conditions);
    merged
}

/// The patch from `written` to `merged`; nothing when they are equal.
pub fn patch(uid: &str, written: &PodStatus, merged: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(written), serde_json::to_value(merged))
    else {
        // These types always become objects.
        return None;
    };
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let change = match (key.as_str(), value) {
            ("conditions", Value::Array(new)) => keyed(old.get(key), new, "type"),
            ("podIPs" | "hostIPs", Value::Array(items)) => replaced(items),
            // Where nothing is there to replace, a directive would take the whole value with it.
            (_, Value::Object(_)) if old.contains_key(key) => with_directive(value),
            _ => value.clone(),
        };
        status.insert(key.clone(), change);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        status.insert(key.clone(), Value::Null);
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": status}))
}

/// Changed and new elements whole, vanished ones deleted by key.
fn keyed(old: Option<&Value>, new: &[Value], key: &str) -> Value {
    let old = old
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let find = |list: &[Value], item: &Value| list.iter().find(|i| i.get(key) == item.get(key)).cloned();
    let mut changes: Vec<Value> = new
        .iter()
        .filter_map(|item| {
            let before = find(old, item);
            if before.as_ref() == Some(item) {
                return None;
            }
            let mut item = item.clone();
            if let (Some(Value::Object(before)), Value::Object(after)) = (before, &mut item) {
                for field in before.keys() {
                    after.entry(field.clone()).or_insert(Value::Null);
                }
            }
            Some(item)
        })
        .collect();
    changes.extend(
        old.iter()
            .filter(|item| find(new, item).is_none())
            .map(|item| json!({"$patch": "delete", key: item.get(key)})),
    );
    Value::Array(changes)
}

fn replaced(items: &[Value]) -> Value {
    let mut list = items.to_vec();
    list.push(json!({"$patch": "replace"}));
    Value::Array(list)
}

fn with_directive(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(map) = &mut value {
        map.insert("$patch".to_owned(), json!("replace"));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_map_that_was_not_there_comes_without_directive() {
        let new = status(json!({"allocatedResources": {"cpu": "80m"}}));
        let change = patch("u", &PodStatus::default(), &new).unwrap();
        assert_eq!(change["status"], json!({"allocatedResources": {"cpu": "80m"}}));
        let newer = status(json!({"allocatedResources": {"memory": "1Mi"}}));
        let change = patch("u", &new, &newer).unwrap();
        let expected = json!({"allocatedResources": {"$patch": "replace", "memory": "1Mi"}});
        assert_eq!(change["status"], expected);
    }

    #[test]
    fn patches_carry_only_what_differs() {
        let old = status(json!({
            "phase": "Pending",
            "conditions": [{"type": "Ready", "status": "False", "reason": "X"}, {"type": "Gone", "status": "True"},
                           {"type": "Same", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.1"}]
        }));
        let new = status(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Same", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.2"}]
        }));
        assert_eq!(patch("u", &old, &old), None);
        let expected = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "reason": null}, {"$patch": "delete", "type": "Gone"}],
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "replace"}]
        }});
        assert_eq!(patch("u", &old, &new), Some(expected));
    }

    #[test]
    fn no_terminal_phase_while_something_may_run() {
        let pod = Pod::default();
        let written =
            status(json!({"phase": "Running", "conditions": [{"type": "example.com/x", "status": "True"}]}));
        let new = status(json!({"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "True"}]}));
        let merged = merge(&pod, &written, &new, true);
        assert_eq!(merged.phase.as_deref(), Some("Running"));
        let merged = merge(&pod, &written, &new, false);
        assert_eq!(merged.phase.as_deref(), Some("Succeeded"));
        assert_eq!(
            condition(&merged, "Ready").unwrap().reason.as_deref(),
            Some("PodCompleted")
        );
        assert!(condition(&merged, "example.com/x").is_some());
    }

    #[test]
    fn transition_times_move_only_with_the_status() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut old = status(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        normalize(&Pod::default(), &mut old, &PodStatus::default(), at(100));
        let mut same = status(json!({"conditions": [{"type": "Ready", "status": "True", "reason": "r"}]}));
        normalize(&Pod::default(), &mut same, &old, at(200));
        assert_eq!(
            condition(&same, "Ready").unwrap().last_transition_time,
            Some(Time(at(100)))
        );
        assert_eq!(same.start_time, Some(Time(at(100))));
        let mut other = status(json!({"conditions": [{"type": "Ready", "status": "False"}]}));
        normalize(&Pod::default(), &mut other, &old, at(300));
        assert_eq!(
            condition(&other, "Ready").unwrap().last_transition_time,
            Some(Time(at(300)))
        );
    }
}
