//! NodeAffinity: `nodeSelector` and required node affinity restrict, preferred node affinity rates.

use crate::framework::{
    ClusterEvent, Filter, Plugin, PreFilter, Rejection, Score, Verdict, default_normalize,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use hashbrown::HashSet;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NAME: &str = "NodeAffinity";

pub struct NodeAffinity;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

/// Whether the node is one the pod's `nodeSelector` and required affinity allow.
pub(super) fn required_matches(spec: &PodSpec, node: &NodeInfo) -> bool {
    let labels = node.labels();
    let selected = spec.node_selector.as_ref().is_none_or(|wanted| {
        wanted
            .iter()
            .all(|(k, v)| labels.and_then(|l| l.get(k)).is_some_and(|l| l == v))
    });
    selected && required(spec).is_none_or(|selector| selector_matches(selector, node))
}

/// Whether one of the selector's terms matches; empty terms match nothing.
pub(super) fn selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, node))
}

fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = node.labels().unwrap_or(&NONE);
    expressions
        .iter()
        .all(|r| requirement_matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| {
            let value = (r.key == "metadata.name").then_some(&*node.name);
            requirement_matches(r, value)
        })
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let among = |value: &str| values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let limit = values.first().and_then(|v| number(v));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((value.and_then(number), limit), (Some(value), Some(limit)) if value > limit),
        "Lt" => matches!((value.and_then(number), limit), (Some(value), Some(limit)) if value < limit),
        _ => false,
    }
}

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
        if required_matches(self.0.spec(), node) {
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
            .filter(|p| p.weight != 0 && term_matches(&p.preference, node))
            .map(|p| i64::from(p.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> NodeInfo {
        let mut info = NodeInfo::new("n");
        let labels = json!({"zone": "a", "cores": "8"});
        let node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).expect("node");
        info.set_node(Arc::new(node));
        info
    }

    #[test]
    fn requirements() {
        let need = |key: &str, operator: &str, values: &[&str]| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]});
        for (selector, expected) in [
            (need("zone", "In", &["a", "b"]), true),
            (need("zone", "NotIn", &["a"]), false),
            (need("none", "NotIn", &["a"]), true),
            (need("zone", "Exists", &[]), true),
            (need("none", "DoesNotExist", &[]), true),
            (need("cores", "Gt", &["4"]), true),
            (need("cores", "Lt", &["4"]), false),
            (json!({"nodeSelectorTerms": [{}]}), false),
            (
                json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}),
                true,
            ),
        ] {
            let spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}, "containers": []});
            let spec: PodSpec = serde_json::from_value(spec).expect("spec");
            assert_eq!(required_matches(&spec, &node()), expected, "{selector}");
        }
    }
}
