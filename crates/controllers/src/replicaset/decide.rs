//! What a ReplicaSet needs: how many pods to make, which to delete, what its status is.

use crate::pods::{self, Availability, availability};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// At most so many pods are made or deleted in one go.
pub(crate) const BURST: usize = 500;

#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// How the pods have to change. `active` are the set's own, `related` all pods of sets of the same owner.
pub(crate) fn change(replicas: i32, active: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Change {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => Change::Nothing,
        Ordering::Less => Change::Create((wanted - active.len()).min(BURST)),
        Ordering::Greater => {
            let count = (active.len() - wanted).min(BURST);
            Change::Delete(least_worth(active, related, count, now))
        }
    }
}

/// The pods whose loss costs least, as upstream ranks them.
pub(crate) fn least_worth(
    active: &[Arc<Pod>],
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count >= active.len() {
        return active.to_vec();
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| pods::is_active(p)) {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, &Arc<Pod>)> = active
        .iter()
        .map(|pod| (Rank::of(pod, &on_node, now), pod))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    ranked
        .into_iter()
        .take(count)
        .map(|(_, pod)| Arc::clone(pod))
        .collect()
}

/// Smaller goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    doubled_up: Reverse<usize>,
    /// Logarithmic, so that of pods of nearly the same age any may go.
    ready_for: i64,
    restarts: Reverse<i32>,
    age: i64,
    uid: String,
}

impl Rank {
    fn of(pod: &Pod, on_node: &HashMap<&str, usize>, now: Timestamp) -> Self {
        let node = pods::node_name(pod);
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
        let statuses = pod.status.as_ref();
        let restarts = statuses
            .into_iter()
            .flat_map(|s| {
                s.container_statuses
                    .iter()
                    .flatten()
                    .chain(s.init_container_statuses.iter().flatten())
            })
            .map(|c| c.restart_count)
            .max();
        Self {
            assigned: !node.is_empty(),
            phase: match pods::phase(pod) {
                "Unknown" => 1,
                "Running" => 2,
                _ => 0,
            },
            ready: pods::is_ready(pod),
            deletion_cost: cost.and_then(|c| c.parse().ok()).unwrap_or(0),
            doubled_up: Reverse(on_node.get(node).copied().unwrap_or(0)),
            ready_for: pods::ready_since(pod).map_or(-1, |since| logarithm(since, now)),
            restarts: Reverse(restarts.unwrap_or(0)),
            age: pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(-1, |t| logarithm(t.0, now)),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

fn logarithm(since: Timestamp, now: Timestamp) -> i64 {
    let seconds = now.duration_since(since).as_secs();
    if seconds <= 0 {
        -1
    } else {
        i64::from(seconds.ilog2())
    }
}

/// The status, and when to look again because a pod becomes available by time alone.
pub(crate) fn status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: Option<usize>,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let template = spec
        .template
        .as_ref()
        .and_then(|t| t.metadata.as_ref()?.labels.as_ref());
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let (mut labelled, mut ready, mut available, mut next) = (0, 0, 0, None::<Duration>);
    for pod in active {
        let labels = pod.metadata.labels.as_ref();
        let all = template.is_none_or(|t| t.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)));
        labelled += i32::from(all);
        match availability(pod, min_ready, now) {
            Availability::NotReady => {}
            Availability::In(left) => {
                ready += 1;
                next = Some(next.map_or(left, |n| n.min(left)));
            }
            Availability::Available => {
                ready += 1;
                available += 1;
            }
        }
    }
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|c| c.type_ == "ReplicaFailure");
    match (failure, known) {
        (Some((reason, message)), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(at)) => {
            conditions.remove(at);
        }
        _ => {}
    }
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(labelled),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        terminating_replicas: terminating.map(count),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    };
    (status, next)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// Whether writing the new status would change anything; an absent number is a zero.
pub(crate) fn differs(old: Option<&ReplicaSetStatus>, new: &ReplicaSetStatus) -> bool {
    let Some(old) = old else { return true };
    let number = |n: Option<i32>| n.unwrap_or(0);
    old.replicas != new.replicas
        || number(old.fully_labeled_replicas) != number(new.fully_labeled_replicas)
        || number(old.ready_replicas) != number(new.ready_replicas)
        || number(old.available_replicas) != number(new.available_replicas)
        || old.terminating_replicas != new.terminating_replicas
        || old.observed_generation != new.observed_generation
        || old.conditions.as_deref().unwrap_or(&[]) != new.conditions.as_deref().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().expect("time")
    }

    fn pod(name: &str, node: &str, ready_since: Option<&str>, more: Value) -> Arc<Pod> {
        let mut annotations = json!({});
        if let Some(cost) = more.get("cost") {
            annotations["controller.kubernetes.io/pod-deletion-cost"] = cost.clone();
        }
        let created = more
            .get("created")
            .cloned()
            .unwrap_or(json!("2026-01-01T00:00:00Z"));
        let ready = if ready_since.is_some() { "True" } else { "False" };
        let restarts = more.get("restarts").cloned().unwrap_or(json!(0));
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "annotations": annotations, "creationTimestamp": created, "labels": {"app": "a"}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": more.get("phase").cloned().unwrap_or(json!("Running")),
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": ready_since}],
                    "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]}
            }))
            .expect("pod"),
        )
    }

    #[test]
    fn the_least_worthy_goes_first() {
        let long = Some("2026-01-01T00:00:00Z");
        let short = Some("2026-01-01T00:59:00Z");
        let check = |pods: &[Arc<Pod>], expected: &[&str]| {
            let gone = least_worth(pods, pods, expected.len(), now());
            let names: Vec<_> = gone
                .iter()
                .map(|p| p.metadata.name.clone().unwrap_or_default())
                .collect();
            assert_eq!(names, expected);
        };
        let fine = |name: &str, node: &str| pod(name, node, long, json!({}));
        check(
            &[fine("a", "n"), pod("b", "", None, json!({"phase": "Pending"}))],
            &["b"],
        );
        check(&[fine("a", "n"), pod("b", "n", None, json!({}))], &["b"]);
        check(
            &[fine("a", "n"), pod("b", "m", long, json!({"cost": "-5"}))],
            &["b"],
        );
        check(&[fine("a", "n"), fine("b", "m"), fine("c", "m")], &["b"]);
        check(&[fine("a", "n"), pod("b", "m", short, json!({}))], &["b"]);
        check(
            &[fine("a", "n"), pod("b", "m", long, json!({"restarts": 3}))],
            &["b"],
        );
        check(
            &[
                fine("a", "n"),
                pod("b", "m", long, json!({"created": "2026-01-01T00:59:00Z"})),
            ],
            &["b"],
        );
    }

    #[test]
    fn counts_and_times() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"generation": 3},
            "spec": {"replicas": 3, "minReadySeconds": 120, "selector": {}, "template": {"metadata": {"labels": {"app": "a"}}}}
        }))
        .expect("set");
        let pods = [
            pod("a", "n", Some("2026-01-01T00:00:00Z"), json!({})),
            pod("b", "n", Some("2026-01-01T00:59:00Z"), json!({})),
            pod("c", "n", None, json!({})),
        ];
        let (new, next) = status(&set, &pods, Some(1), None, now());
        assert_eq!((new.replicas, new.fully_labeled_replicas), (3, Some(3)));
        assert_eq!((new.ready_replicas, new.available_replicas), (Some(2), Some(1)));
        assert_eq!(new.observed_generation, Some(3));
        assert_eq!(next, Some(Duration::from_secs(60)));
        assert!(!differs(Some(&new), &new.clone()));
        let (failed, _) = status(
            &set,
            &pods,
            Some(0),
            Some(("FailedCreate", "no quota".to_owned())),
            now(),
        );
        assert_eq!(failed.conditions.as_ref().map(Vec::len), Some(1));
        assert!(differs(Some(&new), &failed));
    }

    #[test]
    fn changes() {
        let a = pod("a", "n", None, json!({}));
        assert_eq!(change(1, &[Arc::clone(&a)], &[], now()), Change::Nothing);
        assert_eq!(change(900, &[], &[], now()), Change::Create(500));
        assert_eq!(change(0, &[Arc::clone(&a)], &[], now()), Change::Delete(vec![a]));
    }
}
