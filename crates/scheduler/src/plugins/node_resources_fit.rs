//! NodeResourcesFit: a node must have free what the pod asks for, and the emptier it is the better
//! (strategy LeastAllocated over CPU and memory, with defaults for containers that ask for nothing).

use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Rejection, Score, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use std::borrow::Cow;
use std::sync::Arc;

pub const NAME: &str = "NodeResourcesFit";

pub struct NodeResourcesFit;

#[derive(Clone)]
struct Fit(Arc<PodInfo>);

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        PreFilter::Ask(Box::new(Fit(Arc::clone(pod))))
    }

    fn pre_score(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &[Arc<NodeInfo>]) -> Option<Box<dyn Score>> {
        Some(Box::new(Fit(Arc::clone(pod))))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::NodeAdded
                | ClusterEvent::NodeAllocatable
                | ClusterEvent::PodDeleted
                | ClusterEvent::PodItself
        )
    }
}

impl Filter for Fit {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let (wants, has, used) = (&self.0.requests, &node.allocatable, &node.requested);
        let mut lacking: Vec<Cow<'static, str>> = Vec::new();
        let mut resolvable = true;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > has.pods {
            lacking.push("Too many pods".into());
        }
        let mut check = |name: Cow<'static, str>, wants: i64, has: i64, used: i64| {
            if wants > 0 && wants > has - used {
                resolvable &= wants <= has;
                lacking.push(name);
            }
        };
        check(
            "Insufficient cpu".into(),
            wants.milli_cpu,
            has.milli_cpu,
            used.milli_cpu,
        );
        check(
            "Insufficient memory".into(),
            wants.memory,
            has.memory,
            used.memory,
        );
        check(
            "Insufficient ephemeral-storage".into(),
            wants.ephemeral_storage,
            has.ephemeral_storage,
            used.ephemeral_storage,
        );
        for (name, amount) in &wants.scalars {
            if *amount > has.scalar(name) - used.scalar(name) {
                check(
                    format!("Insufficient {name}").into(),
                    *amount,
                    has.scalar(name),
                    used.scalar(name),
                );
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Rejection {
            error: false,
            resolvable,
            reasons: lacking,
        })
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

impl Score for Fit {
    fn score(&self, node: &NodeInfo) -> i64 {
        let pod = &self.0;
        let pairs = [
            (
                node.non_zero_milli_cpu + pod.non_zero_milli_cpu,
                node.allocatable.milli_cpu,
            ),
            (
                node.non_zero_memory + pod.non_zero_memory,
                node.allocatable.memory,
            ),
        ];
        let known: Vec<i64> = pairs
            .iter()
            .filter(|(_, has)| *has != 0)
            .map(|(requested, has)| least_requested(*requested, *has))
            .collect();
        match i64::try_from(known.len()) {
            Ok(count) if count > 0 => known.iter().sum::<i64>() / count,
            _ => 0,
        }
    }
}

fn least_requested(requested: i64, capacity: i64) -> i64 {
    if requested > capacity {
        return 0;
    }
    // Memory of an exabyte times 100 does not fit into 64 bits.
    i64::try_from(i128::from(capacity - requested) * i128::from(MAX_NODE_SCORE) / i128::from(capacity))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(cpu: &str, pods: &str) -> NodeInfo {
        let mut info = NodeInfo::new("n");
        let allocatable = json!({"cpu": cpu, "memory": "1Gi", "pods": pods});
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}});
        info.set_node(Arc::new(serde_json::from_value(node).expect("node")));
        info
    }

    fn pod(requests: serde_json::Value) -> Arc<PodInfo> {
        let containers = json!([{"name": "c", "resources": {"requests": requests}}]);
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": containers}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("pod"))))
    }

    #[test]
    fn fits_or_says_what_lacks() {
        let check =
            |requests: serde_json::Value, cpu: &str, pods: &str, expected: Result<(), (bool, &[&str])>| {
                let have = Fit(pod(requests.clone())).filter(&node(cpu, pods));
                let have = have.map_err(|r| (r.resolvable, r.reasons));
                let expected = expected.map_err(|(r, w)| {
                    (
                        r,
                        w.iter().map(|w| Cow::Owned((*w).to_owned())).collect::<Vec<_>>(),
                    )
                });
                assert_eq!(have, expected, "{requests}");
            };
        check(json!({"cpu": "1"}), "1", "1", Ok(()));
        check(json!({"cpu": "1"}), "1", "0", Err((true, &["Too many pods"])));
        check(
            json!({"cpu": "2", "memory": "2Gi"}),
            "1",
            "9",
            Err((false, &["Insufficient cpu", "Insufficient memory"])),
        );
        check(
            json!({"x.com/gpu": "1"}),
            "1",
            "9",
            Err((false, &["Insufficient x.com/gpu"])),
        );
        check(json!({}), "0", "9", Ok(()));
    }

    #[test]
    fn the_emptier_the_better() {
        let fit = Fit(pod(json!({"cpu": "1", "memory": "512Mi"})));
        assert_eq!(fit.score(&node("4", "9")), (75 + 50) / 2);
        let mut full = node("4", "9");
        full.add_pod(pod(json!({"cpu": "4", "memory": "1Gi"})));
        assert_eq!(fit.score(&full), 0);
    }
}
