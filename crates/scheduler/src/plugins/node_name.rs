//! NodeName: a pod that names its node goes nowhere else.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use std::sync::Arc;

pub const NAME: &str = "NodeName";

pub struct NodeName;

#[derive(Clone)]
struct Named(String);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        match pod.spec().node_name.as_deref() {
            None | Some("") => PreFilter::Skip,
            Some(name) => PreFilter::Ask(Box::new(Named(name.to_owned()))),
        }
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        event == ClusterEvent::NodeAdded
    }
}

impl Filter for Named {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if *node.name == *self.0 {
            return Ok(());
        }
        Err(Rejection::unresolvable(
            "node(s) didn't match the requested node name",
        ))
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}
