//! What a plugin is: pure questions about a pod and a snapshot, asked in upstream's order.
//!
//! `pre_enqueue` → `pre_filter` gives a [`Filter`] → asked for node after node → `pre_score` gives a [`Score`] →
//! asked for every feasible node, then normalised. What a plugin worked out for one pod lives in the box it
//! returns and dies with the cycle; a plugin itself holds no per-pod state.

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use futures::future::BoxFuture;
use hashbrown::HashSet;
use std::borrow::Cow;
use std::sync::Arc;

/// The best score a node can get from a plugin after normalisation.
pub const MAX_NODE_SCORE: i64 = 100;

/// Why a node, or every node, is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Whether removing pods from the node could change it.
    pub resolvable: bool,
    /// Whether the question could not be answered at all: then no other node is asked.
    pub error: bool,
    pub reasons: Vec<Cow<'static, str>>,
}

impl Rejection {
    pub fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            resolvable: true,
            error: false,
            reasons: vec![reason.into()],
        }
    }

    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            resolvable: false,
            error: false,
            reasons: vec![reason.into()],
        }
    }

    pub fn error(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error: true,
            ..Self::unresolvable(reason)
        }
    }
}

/// A node is feasible, or why not.
pub type Verdict = Result<(), Rejection>;

/// What a plugin has to say before nodes are looked at.
pub enum PreFilter {
    /// It has no opinion on this pod.
    Skip,
    /// It wants to be asked for each node.
    Ask(Box<dyn Filter>),
    /// Only these nodes come into question; it has to be asked for them too if it says how.
    Only(HashSet<String>, Option<Box<dyn Filter>>),
    /// No node will do.
    Reject(Rejection),
}

/// Judges nodes for one pod.
pub trait Filter: Send + Sync {
    fn filter(&self, node: &NodeInfo) -> Verdict;

    /// What if this pod were on that node too? `node` has it already.
    fn add_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}

    /// What if this pod were not on that node? `node` has it no more.
    fn remove_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}

    /// What can be done for a pod that fits nowhere, before others have to go for it.
    fn post_filter(&self) -> Option<PostFilter> {
        None
    }

    fn boxed_clone(&self) -> Box<dyn Filter>;
}

/// What a plugin does for a pod that fits nowhere, and what is said of it.
pub struct PostFilter {
    pub message: &'static str,
    pub act: Option<BoxFuture<'static, ()>>,
}

impl PostFilter {
    pub fn said(message: &'static str) -> Self {
        Self { message, act: None }
    }
}

/// Rates nodes for one pod.
pub trait Score: Send + Sync {
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings the raw scores of all feasible nodes, in the order asked, into 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// What must have happened before a decided pod is bound. Dropped when the pod is bound or the attempt is given up.
pub trait PreBind: Send + Sync {
    /// The error says why the pod cannot be bound after all.
    fn pre_bind(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Takes back what was written; the pod will not be bound this time.
    fn unreserve(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What happened that may make a pod schedulable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    NodeAdded,
    /// Allocatable resources changed.
    NodeAllocatable,
    NodeLabels,
    NodeTaints,
    NodeUnschedulable,
    /// A bound pod came, or its labels changed.
    PodAdded,
    /// A bound pod went, ended, or asks for less.
    PodDeleted,
    /// The waiting pod itself changed.
    PodItself,
    Namespace,
    Storage,
    /// Claims for devices, their classes, or what devices there are.
    Devices,
}

/// One scheduler plugin.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// How much its score counts; 0 for plugins that do not score.
    fn weight(&self) -> i64 {
        0
    }

    /// Whether the pod may stand in the active queue at all.
    fn may_enqueue(&self, _pod: &PodInfo) -> bool {
        true
    }

    fn pre_filter(&self, _pod: &Arc<PodInfo>, _snapshot: &Snapshot) -> PreFilter {
        PreFilter::Skip
    }

    /// `None`: no opinion on this pod.
    fn pre_score(
        &self,
        _pod: &Arc<PodInfo>,
        _snapshot: &Snapshot,
        _feasible: &[Arc<NodeInfo>],
    ) -> Option<Box<dyn Score>> {
        None
    }

    /// What it says of a pod that fits nowhere and that it did not judge nodes for.
    fn post_filter(&self) -> Option<&'static str> {
        None
    }

    /// Takes what the pod needs on the node it is to go to, before the next pod is decided.
    fn reserve(&self, _pod: &Arc<PodInfo>, _node: &NodeInfo) -> Result<Option<Box<dyn PreBind>>, Rejection> {
        Ok(None)
    }

    /// Whether a pod that this plugin refused is worth another try after the event (upstream's queueing hint).
    fn wakes(&self, _event: ClusterEvent) -> bool {
        false
    }
}

/// Scales scores so that the greatest becomes 100, then turns them around if `reverse`.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (max, reverse) {
            (0, true) => MAX_NODE_SCORE,
            (0, false) => 0,
            (max, true) => MAX_NODE_SCORE - MAX_NODE_SCORE * *score / max,
            (max, false) => MAX_NODE_SCORE * *score / max,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::default_normalize;

    #[test]
    fn normalisation() {
        for (reverse, scores, expected) in [
            (false, [0, 5, 10], [0, 50, 100]),
            (true, [0, 5, 10], [100, 50, 0]),
            (true, [0, 0, 0], [100, 100, 100]),
            (false, [0, 0, 0], [0, 0, 0]),
        ] {
            let mut have = scores;
            default_normalize(&mut have, reverse);
            assert_eq!(have, expected);
        }
    }
}
