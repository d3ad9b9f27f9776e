//! NodeResourcesBalancedAllocation: rather nodes whose CPU and memory stay used in like measure.

use crate::framework::{MAX_NODE_SCORE, Plugin, Score};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use std::sync::Arc;

pub const NAME: &str = "NodeResourcesBalancedAllocation";

pub struct NodeResourcesBalancedAllocation;

struct Balance(Arc<PodInfo>);

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &[Arc<NodeInfo>]) -> Option<Box<dyn Score>> {
        // A pod that asks for nothing does not change any balance.
        (!pod.best_effort).then(|| Box::new(Balance(Arc::clone(pod))) as Box<dyn Score>)
    }
}

impl Score for Balance {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (wants, used, has) = (&self.0.requests, &node.requested, &node.allocatable);
        let with = balance(
            (used.milli_cpu + wants.milli_cpu, has.milli_cpu),
            (used.memory + wants.memory, has.memory),
        );
        let without = balance((used.milli_cpu, has.milli_cpu), (used.memory, has.memory));
        MAX_NODE_SCORE / 2 + (MAX_NODE_SCORE / 2 + with - without) / 2
    }
}

/// 100 when both are used in the same measure, 50 when one is full and the other empty.
fn balance(cpu: (i64, i64), memory: (i64, i64)) -> i64 {
    #[allow(clippy::cast_precision_loss)] // A share needs no more digits than a double has.
    let share = |(used, has): (i64, i64)| (has != 0).then(|| (used as f64 / has as f64).min(1.0));
    let deviation = match (share(cpu), share(memory)) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    #[allow(clippy::cast_possible_truncation)] // Between 50 and 100.
    let score = ((1.0 - deviation) * 100.0) as i64;
    score
}

#[cfg(test)]
mod tests {
    use super::balance;

    #[test]
    fn balances() {
        assert_eq!(balance((5, 10), (50, 100)), 100);
        assert_eq!(balance((10, 10), (0, 100)), 50);
        assert_eq!(balance((10, 0), (0, 100)), 100);
        assert_eq!(balance((30, 10), (0, 100)), 50, "more than all is all");
    }
}
