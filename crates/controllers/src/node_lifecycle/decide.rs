//! What a node's silence and conditions mean: pure functions over nodes and times.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions the kubelet answers for.
const KUBELETS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Condition, its status, and the taint that goes with it.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub(super) fn conditions(node: &Node) -> &[NodeCondition] {
    let status = node.status.as_ref();
    status.and_then(|s| s.conditions.as_deref()).unwrap_or(&[])
}

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    conditions(node).iter().find(|c| c.type_ == kind)
}

/// `True`, `False` or `Unknown`; `None` for a node that never said anything.
pub(super) fn readiness(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

pub(super) fn is_ready(node: &Node) -> bool {
    readiness(node) == Some("True")
}

/// The conditions of a node that has been silent too long; `None` when they say so already.
pub(super) fn silenced(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut all = conditions(node).to_vec();
    for kind in KUBELETS {
        match all.iter_mut().find(|c| c.type_ == kind) {
            None => all.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(known) if known.status != "Unknown" => {
                known.status = "Unknown".to_owned();
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    (all != conditions(node)).then_some(all)
}

/// Whether a node's taint of effect NoExecute has to come, and may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evicting {
    /// All nodes are silent: the fault is rather ours.
    Never,
    /// Not yet, for nodes are emptied one after the other.
    Later,
    Now,
}

/// The taints the node should have; `None` when it has them.
pub(super) fn taints(node: &Node, evicting: Evicting, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let present: Vec<Taint> = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = TAINTS
        .iter()
        .filter(|(kind, status, _)| condition(node, kind).is_some_and(|c| c.status == *status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if spec.is_some_and(|s| s.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let evicts = |key: &str| present.iter().any(|t| t.key == key && t.effect == "NoExecute");
    // Once a node is being emptied, which of the two taints says so may change at any time.
    let tainted = evicts(NOT_READY) || evicts(UNREACHABLE);
    let allowed = match evicting {
        Evicting::Never => false,
        Evicting::Later => tainted,
        Evicting::Now => true,
    };
    match readiness(node) {
        Some("False") if allowed => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") if allowed => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let is_ours = |t: &Taint| match t.effect.as_str() {
        "NoSchedule" => t.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| *key == t.key),
        "NoExecute" => t.key == NOT_READY || t.key == UNREACHABLE,
        _ => false,
    };
    let has = |t: &Taint| {
        wanted
            .iter()
            .any(|(key, effect)| *key == t.key && *effect == t.effect)
    };
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|t| !is_ours(t) || has(t))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|t| t.key == *key && t.effect == *effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != present).then_some(taints)
}

/// Whether the node is to be emptied and is not yet.
pub(super) fn needs_eviction(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let tainted = taints
        .into_iter()
        .flatten()
        .any(|t| t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE));
    !tainted && matches!(readiness(node), Some("False" | "Unknown"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneState {
    Normal,
    /// More than half are not ready.
    Partial,
    /// None is ready.
    Full,
}

pub(super) fn zone_of(node: &Node) -> String {
    let label = |key: &str| {
        let labels = node.metadata.labels.as_ref();
        labels.and_then(|l| l.get(key)).cloned().unwrap_or_default()
    };
    format!(
        "{}:{}",
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone")
    )
}

/// The state and size of every zone.
pub(super) fn zones<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<String, (ZoneState, usize)> {
    const THRESHOLD: (usize, usize) = (55, 100);
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let labels = node.metadata.labels.as_ref();
        if labels.is_some_and(|l| l.contains_key("node.kubernetes.io/exclude-disruption")) {
            continue;
        }
        let (ready, not) = counts.entry(zone_of(node)).or_default();
        if is_ready(node) {
            *ready += 1;
        } else {
            *not += 1;
        }
    }
    let state = |(ready, not): (usize, usize)| {
        if ready == 0 && not > 0 {
            ZoneState::Full
        } else if not > 2 && not * THRESHOLD.1 >= THRESHOLD.0 * (ready + not) {
            ZoneState::Partial
        } else {
            ZoneState::Normal
        }
    };
    counts
        .into_iter()
        .map(|(zone, c)| (zone, (state(c), c.0 + c.1)))
        .collect()
}

/// The time between the emptying of two nodes of a zone; `None` for none at all.
pub(super) fn eviction_interval(state: ZoneState, size: usize) -> Option<Duration> {
    const LARGE: usize = 50;
    match state {
        ZoneState::Normal | ZoneState::Full => Some(Duration::from_secs(10)),
        ZoneState::Partial if size > LARGE => Some(Duration::from_secs(100)),
        ZoneState::Partial => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(ready: &str, taints: Value) -> Node {
        let conditions =
            json!([{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "True"}]);
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": conditions}});
        serde_json::from_value(node).expect("node")
    }

    fn words(taints: Option<Vec<Taint>>) -> Option<String> {
        let short = |t: &Taint| {
            let key = t.key.trim_start_matches("node.kubernetes.io/").to_owned();
            format!("{key}:{}", t.effect.trim_start_matches("No"))
        };
        taints.map(|t| t.iter().map(short).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn taints_follow_conditions() {
        let disk = json!({"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"});
        let other = json!({"key": "mine", "effect": "NoExecute"});
        let lost = json!({"key": UNREACHABLE, "effect": "NoExecute"});
        let check = |ready: &str, have: Value, evicting: Evicting, expected: Option<&str>| {
            let have = taints(&node(ready, have), evicting, Timestamp::UNIX_EPOCH);
            assert_eq!(words(have).as_deref(), expected, "{ready} {evicting:?}");
        };
        check("True", json!([disk]), Evicting::Now, None);
        check(
            "True",
            json!([other]),
            Evicting::Now,
            Some("mine:Execute disk-pressure:Schedule"),
        );
        check(
            "Unknown",
            json!([disk]),
            Evicting::Now,
            Some("disk-pressure:Schedule unreachable:Schedule unreachable:Execute"),
        );
        check(
            "Unknown",
            json!([disk]),
            Evicting::Later,
            Some("disk-pressure:Schedule unreachable:Schedule"),
        );
        check(
            "False",
            json!([lost, disk]),
            Evicting::Later,
            Some("disk-pressure:Schedule not-ready:Schedule not-ready:Execute"),
        );
        check(
            "Unknown",
            json!([lost, disk]),
            Evicting::Never,
            Some("disk-pressure:Schedule unreachable:Schedule"),
        );
        check(
            "True",
            json!([lost, disk]),
            Evicting::Now,
            Some("disk-pressure:Schedule"),
        );
    }

    #[test]
    fn silence_is_noted_once() {
        let mut silent = node("True", json!([]));
        let conditions = silenced(&silent, Timestamp::UNIX_EPOCH).expect("new");
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|c| c.status == "Unknown"));
        silent.status.as_mut().expect("status").conditions = Some(conditions);
        assert!(silenced(&silent, Timestamp::MAX).is_none());
    }

    #[test]
    fn zones_have_states() {
        let check = |ready: usize, not: usize, expected: ZoneState| {
            let nodes: Vec<Node> = (0..ready + not)
                .map(|i| node(if i < ready { "True" } else { "False" }, json!([])))
                .collect();
            assert_eq!(
                zones(nodes.iter()).values().next(),
                Some(&(expected, ready + not))
            );
        };
        check(3, 0, ZoneState::Normal);
        check(1, 2, ZoneState::Normal);
        check(2, 3, ZoneState::Partial);
        check(0, 1, ZoneState::Full);
    }
}
