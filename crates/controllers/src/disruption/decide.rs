//! How many disruptions a budget allows, from the pods and how many there should be.

use crate::int_or_percent::{Round, resolve};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A pod whose eviction was granted is taken for gone for so long.
const DELETED_WITHIN: SignedDuration = SignedDuration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

/// What was found out about a budget.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) healthy: i32,
    pub(super) desired: i32,
    pub(super) expected: i32,
    pub(super) disrupted: BTreeMap<String, Time>,
    /// Pods whose eviction was granted and that are still here.
    pub(super) not_deleted: Vec<Arc<Pod>>,
    pub(super) again: Option<Duration>,
}

pub(super) fn count(
    budget: &PodDisruptionBudget,
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    expected: i32,
    now: Timestamp,
) -> Counted {
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => (expected - resolve(Some(max), expected, Round::Up)).max(0),
        (None, Some(IntOrString::Int(number))) => *number,
        (None, share) => resolve(share.as_ref(), expected, Round::Up),
    };
    let mut counted = Counted {
        desired,
        expected,
        ..Counted::default()
    };
    let noted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    for pod in pods {
        if pods::is_terminating(pod) {
            continue;
        }
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let granted = noted.and_then(|n| n.get(name));
        let left = granted.map(|at| DELETED_WITHIN - now.duration_since(at.0));
        match (granted, left.map(Duration::try_from)) {
            // At the very end of its time it is late: there would be nothing left to wait for.
            (Some(at), Some(Ok(left))) if !left.is_zero() => {
                counted.disrupted.insert(name.to_owned(), at.clone());
                counted.again = Some(counted.again.map_or(left, |known| known.min(left)));
            }
            (granted, _) => {
                if granted.is_some() {
                    counted.not_deleted.push(Arc::clone(pod));
                }
                counted.healthy += i32::from(pods::is_ready(pod));
            }
        }
    }
    counted
}

/// The status to write; `None` if it stands there.
pub(super) fn changed(
    budget: &PodDisruptionBudget,
    counted: &Counted,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let allowed = match counted.healthy - counted.desired {
        allowed if counted.expected > 0 && allowed > 0 => allowed,
        _ => 0,
    };
    let old = budget.status.clone().unwrap_or_default();
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let generation = budget.metadata.generation;
    let new = PodDisruptionBudgetStatus {
        current_healthy: Some(counted.healthy),
        desired_healthy: Some(counted.desired),
        expected_pods: Some(counted.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(counted.disrupted.clone()).filter(|d| !d.is_empty()),
        observed_generation: generation,
        conditions: Some(with_condition(
            &old,
            status,
            reason,
            String::new(),
            generation,
            now,
        )),
    };
    let plain = PodDisruptionBudgetStatus {
        disrupted_pods: old.disrupted_pods.clone().filter(|d| !d.is_empty()),
        ..old
    };
    (plain != new).then_some(new)
}

/// The status when counting failed: nothing is allowed.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    reason: String,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let conditions = with_condition(&old, "False", "SyncFailed", reason, old.observed_generation, now);
    PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        conditions: Some(conditions),
        ..old
    }
}

fn with_condition(
    old: &PodDisruptionBudgetStatus,
    status: &str,
    reason: &str,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|c| c.type_ == ALLOWED);
    let since = known
        .map(|at| &conditions[at])
        .filter(|c| c.status == status)
        .map_or_else(|| Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    conditions
}

/// Since when a running pod is said to be about to be disrupted by somebody other than its kubelet.
pub(super) fn announced(pod: &Pod) -> Option<Timestamp> {
    if pods::is_terminating(pod) || pods::is_finished(pod) {
        return None;
    }
    let condition = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True")?;
    if condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map(|t| t.0);
    Some(since.unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).expect("pod"))
    }

    fn budget(spec: &Value, disrupted: &Value) -> PodDisruptionBudget {
        let budget = json!({"metadata": {"name": "b", "generation": 1}, "spec": spec,
            "status": {"disruptedPods": disrupted, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0, "disruptionsAllowed": 0}});
        serde_json::from_value(budget).expect("budget")
    }

    #[test]
    fn arithmetic() {
        let check = |spec: Value, healthy: usize, sick: usize, expected: i32, allowed: i32| {
            let budget = budget(&spec, &json!({}));
            let mut pods: Vec<_> = (0..healthy).map(|i| pod(&format!("h{i}"), true)).collect();
            pods.extend((0..sick).map(|i| pod(&format!("s{i}"), false)));
            let now = NOW.parse().expect("time");
            let counted = count(&budget, budget.spec.as_ref().expect("spec"), &pods, expected, now);
            let status = changed(&budget, &counted, now).expect("changed");
            assert_eq!(status.disruptions_allowed, Some(allowed), "{spec}");
            let settled = PodDisruptionBudget {
                status: Some(status),
                ..budget
            };
            assert_eq!(changed(&settled, &counted, now), None, "{spec}");
        };
        check(json!({"minAvailable": 2}), 3, 0, 3, 1);
        check(json!({"minAvailable": 2}), 2, 1, 3, 0);
        check(json!({"minAvailable": "28%"}), 3, 0, 10, 0);
        check(json!({"minAvailable": "28%"}), 4, 0, 10, 1);
        check(json!({"maxUnavailable": 1}), 3, 0, 3, 1);
        check(json!({"maxUnavailable": "10%"}), 5, 0, 5, 1);
        check(json!({"maxUnavailable": 5}), 3, 0, 3, 3);
        check(json!({"minAvailable": 0}), 0, 0, 0, 0);
    }

    #[test]
    fn a_granted_eviction_counts_until_it_should_have_happened() {
        let disrupted = json!({"going": "2026-01-01T00:09:00Z", "stuck": "2026-01-01T00:07:00Z", "late": "2026-01-01T00:08:00Z", "gone": NOW});
        let budget = budget(&json!({"minAvailable": 1}), &disrupted);
        let pods = [pod("going", true), pod("stuck", true), pod("late", true)];
        let now = NOW.parse().expect("time");
        let counted = count(&budget, budget.spec.as_ref().expect("spec"), &pods, 3, now);
        assert_eq!(counted.healthy, 2);
        assert_eq!(counted.disrupted.keys().collect::<Vec<_>>(), ["going"]);
        assert_eq!(counted.not_deleted.len(), 2);
        assert_eq!(counted.again, Some(Duration::from_secs(60)));
    }
}
