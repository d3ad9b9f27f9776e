//! NodeUnschedulable: cordoned nodes take only pods that tolerate the cordon's taint.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::taints::tolerates;
use k8s_openapi::api::core::v1::Taint;
use std::sync::Arc;

pub const NAME: &str = "NodeUnschedulable";

pub struct NodeUnschedulable;

#[derive(Clone)]
struct Cordon {
    tolerated: bool,
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or(&[]);
        PreFilter::Ask(Box::new(Cordon {
            tolerated: tolerates(tolerations, &taint),
        }))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::NodeAdded
                | ClusterEvent::NodeUnschedulable
                | ClusterEvent::NodeTaints
                | ClusterEvent::PodItself
        )
    }
}

impl Filter for Cordon {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node.is_unschedulable() && !self.tolerated {
            return Err(Rejection::unresolvable("node(s) were unschedulable"));
        }
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}
