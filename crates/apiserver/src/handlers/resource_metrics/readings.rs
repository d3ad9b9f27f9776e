//! What kubelets say their pods use, and what follows from two of their answers.
//!
//! CPU time is a counter, so usage is told between two readings. A container that began between them, or whose
//! counter went back (it was started anew), has no usage yet, and neither has its pod.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::collections::HashMap;

/// A kubelet's `/stats/summary`, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Summary {
    #[serde(default)]
    node: Figures,
    #[serde(default)]
    pods: Vec<PodFigures>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodFigures {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Container {
    name: String,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Figures {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// What something uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// The end of the time it is told of.
    pub(super) at: Timestamp,
    pub(super) window: SignedDuration,
    /// Billionths of a core.
    pub(super) cpu: u64,
    /// Bytes.
    pub(super) memory: u64,
}

/// What a node and its pods use.
#[derive(Debug, Default)]
pub(super) struct NodeUsage {
    pub(super) node: Option<Usage>,
    /// By namespace and name: the pod's uid and its containers.
    pods: HashMap<(String, String), PodUsage>,
}

#[derive(Debug)]
pub(super) struct PodUsage {
    pub(super) uid: String,
    pub(super) containers: Vec<(String, Usage)>,
}

impl NodeUsage {
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<&PodUsage> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// What was used from one reading to the next.
    pub(super) fn between(before: &Summary, after: &Summary) -> Self {
        let known: HashMap<&str, &PodFigures> =
            before.pods.iter().map(|p| (p.pod_ref.uid.as_str(), p)).collect();
        let pods = after.pods.iter().filter_map(|pod| {
            let before = known.get(pod.pod_ref.uid.as_str())?;
            let containers: Option<Vec<(String, Usage)>> = pod
                .containers
                .iter()
                .map(|container| {
                    let before = before.containers.iter().find(|c| c.name == container.name)?;
                    let usage = usage(&before.figures, &container.figures)?;
                    Some((container.name.clone(), usage))
                })
                .collect();
            let usage = PodUsage {
                uid: pod.pod_ref.uid.clone(),
                containers: containers.filter(|c| !c.is_empty())?,
            };
            Some(((pod.pod_ref.namespace.clone(), pod.pod_ref.name.clone()), usage))
        });
        Self {
            node: usage(&before.node, &after.node),
            pods: pods.collect(),
        }
    }
}

fn usage(before: &Figures, after: &Figures) -> Option<Usage> {
    let (first, last) = (before.cpu?, after.cpu?);
    let window = last.time.duration_since(first.time);
    let nanos = u128::try_from(window.as_nanos()).ok().filter(|n| *n > 0)?;
    let used = last
        .usage_core_nano_seconds?
        .checked_sub(first.usage_core_nano_seconds?)?;
    let cpu = u128::from(used) * 1_000_000_000 / nanos;
    Some(Usage {
        at: last.time,
        window,
        cpu: u64::try_from(cpu).unwrap_or(u64::MAX),
        memory: after.memory?.working_set_bytes?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A container and its CPU time.
    type Told = (&'static str, Option<u64>);
    /// A pod's uid and its containers.
    type Pods<'a> = &'a [(&'a str, &'a [Told])];

    fn summary(second: u32, pods: Pods<'_>) -> Summary {
        let time = format!("2026-01-01T00:00:{second:02}Z");
        let figures = |cpu: Option<u64>| json!({"cpu": {"time": time, "usageCoreNanoSeconds": cpu}, "memory": {"time": time, "workingSetBytes": 4096}});
        let pods: Vec<_> = pods
            .iter()
            .map(|(uid, containers)| {
                let containers: Vec<_> = containers
                    .iter()
                    .map(|(name, cpu)| {
                        let mut container = figures(*cpu);
                        container["name"] = json!(name);
                        container
                    })
                    .collect();
                json!({"podRef": {"name": "p", "namespace": "n", "uid": uid}, "containers": containers})
            })
            .collect();
        let mut node = figures(Some(u64::from(second) * 500_000_000));
        node["nodeName"] = json!("node");
        serde_json::from_value(json!({"node": node, "pods": pods})).expect("summary")
    }

    #[test]
    fn usage_is_told_between_two_readings() {
        let check = |before: Pods<'_>, after: Pods<'_>, expected: Option<&[u64]>| {
            let found = NodeUsage::between(&summary(10, before), &summary(20, after));
            assert_eq!(found.node.expect("node").cpu, 500_000_000);
            let cpu: Option<Vec<u64>> = found
                .pod("n", "p")
                .map(|p| p.containers.iter().map(|(_, u)| u.cpu).collect());
            assert_eq!(cpu.as_deref(), expected, "{before:?} {after:?}");
        };
        let (a, b) = (("a", Some(1_000_000_000)), ("b", Some(0)));
        let a_later = ("a", Some(3_000_000_000));
        check(&[("u", &[a])], &[("u", &[a_later])], Some(&[200_000_000]));
        check(
            &[("u", &[a, b])],
            &[("u", &[a_later, b])],
            Some(&[200_000_000, 0]),
        );
        check(&[("u", &[a])], &[("u", &[a_later, b])], None);
        check(&[("u", &[a_later])], &[("u", &[a])], None);
        check(&[("other", &[a])], &[("u", &[a_later])], None);
        check(&[("u", &[a])], &[("u", &[("a", None)])], None);
        check(&[("u", &[])], &[("u", &[])], None);
    }

    #[test]
    fn a_window_is_as_long_as_the_kubelet_says() {
        let found = NodeUsage::between(&summary(10, &[]), &summary(25, &[]));
        let node = found.node.expect("node");
        assert_eq!(node.window, SignedDuration::from_secs(15));
        assert_eq!(node.memory, 4096);
        assert!(
            NodeUsage::between(&summary(10, &[]), &summary(10, &[]))
                .node
                .is_none()
        );
    }
}
