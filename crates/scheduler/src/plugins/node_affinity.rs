//! NodeAffinity: `nodeSelector` and required node affinity restrict, preferred node affinity rates.

use crate::framework::{
    ClusterEvent, Filter, Plugin, PreFilter, Rejection, Score, Verdict, default_normalize,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::node_selector::{required, required_matches, term_matches};
use hashbrown::HashSet;
use k8s_openapi::api::core::v1::PodSpec;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NAME: &str = "NodeAffinity";

pub struct NodeAffinity;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

/// The nodes named by `matchFields`, if every term names some: then no other node need be looked at.
fn named_nodes(spec: &PodSpec) -> Option<HashSet<String>> {
    let mut names = HashSet::new();
    for term in &required(spec)?.node_selector_terms {
        let mut of_term: Option<HashSet<String>> = None;
        for field in term.match_fields.iter().flatten() {
            if field.key == "metadata.name" && field.operator == "In" {
                let values: HashSet<String> = field.values.iter().flatten().cloned().collect();
                of_term = Some(match of_term {
                    Some(known) => known.intersection(&values).cloned().collect(),
                    None => values,
                });
            }
        }
        names.extend(of_term?);
    }
    Some(names)
}

#[derive(Clone)]
struct Affinity(Arc<PodInfo>);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        let spec = pod.spec();
        if spec.node_selector.as_ref().is_none_or(BTreeMap::is_empty) && required(spec).is_none() {
            return PreFilter::Skip;
        }
        let filter = Box::new(Affinity(Arc::clone(pod)));
        match named_nodes(spec) {
            Some(names) if names.is_empty() => {
                PreFilter::Reject(Rejection::unresolvable("pod affinity terms conflict"))
            }
            Some(names) => PreFilter::Only(names, Some(filter)),
            None => PreFilter::Ask(filter),
        }
    }

    fn pre_score(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &[Arc<NodeInfo>]) -> Option<Box<dyn Score>> {
        let preferred = preferred(pod.spec());
        (!preferred.is_empty()).then(|| Box::new(Affinity(Arc::clone(pod))) as Box<dyn Score>)
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::NodeAdded | ClusterEvent::NodeLabels | ClusterEvent::PodItself
        )
    }
}

fn preferred(spec: &PodSpec) -> &[k8s_openapi::api::core::v1::PreferredSchedulingTerm] {
    spec.affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or(&[])
}

impl Filter for Affinity {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if required_matches(self.0.spec(), node.subject()) {
            return Ok(());
        }
        Err(Rejection::unresolvable(REASON))
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

impl Score for Affinity {
    fn score(&self, node: &NodeInfo) -> i64 {
        preferred(self.0.spec())
            .iter()
            .filter(|p| p.weight != 0 && term_matches(&p.preference, node.subject()))
            .map(|p| i64::from(p.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}
