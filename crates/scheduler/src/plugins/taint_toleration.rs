//! TaintToleration: a pod goes only where it tolerates every taint of effect NoSchedule and NoExecute, and rather
//! where it tolerates those of effect PreferNoSchedule.

use crate::framework::{
    ClusterEvent, Filter, Plugin, PreFilter, Rejection, Score, Verdict, default_normalize,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::taints::{tolerates, tolerates_one};
use k8s_openapi::api::core::v1::{Taint, Toleration};
use std::sync::Arc;

pub const NAME: &str = "TaintToleration";

pub struct TaintToleration;

/// The first taint of effect NoSchedule or NoExecute that is not tolerated.
pub(super) fn untolerated<'a>(node: &'a NodeInfo, tolerations: &[Toleration]) -> Option<&'a Taint> {
    node.taints()
        .iter()
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .find(|t| !tolerates(tolerations, t))
}

#[derive(Clone)]
struct Tolerations(Arc<PodInfo>);

impl Tolerations {
    fn list(&self) -> &[Toleration] {
        self.0.spec().tolerations.as_deref().unwrap_or(&[])
    }
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        3
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        PreFilter::Ask(Box::new(Tolerations(Arc::clone(pod))))
    }

    fn pre_score(
        &self,
        pod: &Arc<PodInfo>,
        _: &Snapshot,
        feasible: &[Arc<NodeInfo>],
    ) -> Option<Box<dyn Score>> {
        // Without such taints every node scores the same.
        let any = feasible
            .iter()
            .any(|n| n.taints().iter().any(|t| t.effect == "PreferNoSchedule"));
        any.then(|| Box::new(Tolerations(Arc::clone(pod))) as Box<dyn Score>)
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::NodeAdded | ClusterEvent::NodeTaints | ClusterEvent::PodItself
        )
    }
}

impl Filter for Tolerations {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        match untolerated(node, self.list()) {
            Some(_) => Err(Rejection::unresolvable("node(s) had untolerated taint(s)")),
            None => Ok(()),
        }
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

impl Score for Tolerations {
    fn score(&self, node: &NodeInfo) -> i64 {
        let relevant: Vec<&Toleration> = self
            .list()
            .iter()
            .filter(|t| matches!(t.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
            .collect();
        let intolerable = node
            .taints()
            .iter()
            .filter(|t| t.effect == "PreferNoSchedule" && !relevant.iter().any(|r| tolerates_one(r, t)))
            .count();
        i64::try_from(intolerable).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, true);
    }
}
