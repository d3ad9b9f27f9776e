//! NodePorts: two pods cannot have one port of the node.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use std::sync::Arc;

pub const NAME: &str = "NodePorts";

pub struct NodePorts;

#[derive(Clone)]
struct Ports(Arc<PodInfo>);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        if pod.host_ports.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Ask(Box::new(Ports(Arc::clone(pod))))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdded | ClusterEvent::PodDeleted)
    }
}

impl Filter for Ports {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let taken = |wanted| node.used_ports.iter().any(|used| used.conflicts(wanted));
        if self.0.host_ports.iter().any(taken) {
            return Err(Rejection::unschedulable(
                "node(s) didn't have free ports for the requested pod ports",
            ));
        }
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}
