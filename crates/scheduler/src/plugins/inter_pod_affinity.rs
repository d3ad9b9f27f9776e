//! InterPodAffinity: near some pods, away from others, by topology.
//!
//! Counts, per topology pair (key, value), how many existing pods match a term; a node is judged by the pairs of
//! its labels. Existing pods' required anti-affinity binds the incoming pod too.

use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Rejection, Score, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::{AffinityTerm, PodInfo};
use crate::snapshot::Snapshot;
use client::{Informer, Informers};
use hashbrown::HashMap;
use k8s_openapi::api::core::v1::Namespace;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NAME: &str = "InterPodAffinity";

/// What an existing pod's required affinity to the incoming one is worth when nodes are rated.
const HARD_AFFINITY_WEIGHT: i64 = 1;

pub struct InterPodAffinity {
    namespaces: Namespaces,
}

#[derive(Clone)]
struct Namespaces(Informer<Namespace>);

impl Namespaces {
    fn labels(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.0.find("", name)?.metadata.labels.clone()
    }

    fn matches(&self, term: &AffinityTerm, pod: &PodInfo) -> bool {
        term.matches(pod, &|name| self.labels(name))
    }

    fn matches_all(&self, terms: &[AffinityTerm], pod: &PodInfo) -> bool {
        !terms.is_empty() && terms.iter().all(|t| self.matches(t, pod))
    }
}

type Pairs = HashMap<(String, String), i64>;

impl InterPodAffinity {
    pub fn new(informers: &Informers) -> Self {
        Self {
            namespaces: Namespaces(informers.get()),
        }
    }
}

#[derive(Clone)]
struct Rules {
    pod: Arc<PodInfo>,
    namespaces: Namespaces,
    /// Existing pods whose required anti-affinity the incoming pod matches.
    existing_anti: Pairs,
    affinity: Pairs,
    anti_affinity: Pairs,
}

impl Rules {
    fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in &other.required_anti_affinity {
            if self.namespaces.matches(term, &self.pod) {
                bump(&mut self.existing_anti, node, &term.topology_key, by);
            }
        }
        self.count_incoming(other, node, by);
    }

    fn count_incoming(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let pod = Arc::clone(&self.pod);
        if self.namespaces.matches_all(&pod.required_affinity, other) {
            for term in &pod.required_affinity {
                bump(&mut self.affinity, node, &term.topology_key, by);
            }
        }
        for term in &pod.required_anti_affinity {
            if self.namespaces.matches(term, other) {
                bump(&mut self.anti_affinity, node, &term.topology_key, by);
            }
        }
    }

    fn affinity_satisfied(&self, node: &NodeInfo) -> bool {
        let mut pods_exist = true;
        for term in &self.pod.required_affinity {
            match node.label(&term.topology_key) {
                None => return false,
                Some(value) => pods_exist &= count_of(&self.affinity, &term.topology_key, value) > 0,
            }
        }
        // The first of a series of pods that want to be near each other has nobody to be near to.
        pods_exist
            || (self.affinity.is_empty()
                && self
                    .namespaces
                    .matches_all(&self.pod.required_affinity, &self.pod))
    }
}

fn bump(pairs: &mut Pairs, node: &NodeInfo, key: &str, by: i64) {
    let Some(value) = node.label(key) else { return };
    let pair = (key.to_owned(), value.to_owned());
    let count = pairs.entry(pair.clone()).or_insert(0);
    *count += by;
    if *count == 0 {
        pairs.remove(&pair);
    }
}

fn count_of(pairs: &Pairs, key: &str, value: &str) -> i64 {
    if pairs.is_empty() {
        return 0;
    }
    pairs
        .get(&(key.to_owned(), value.to_owned()))
        .copied()
        .unwrap_or(0)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, snapshot: &Snapshot) -> PreFilter {
        let incoming = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        if !incoming && snapshot.with_required_anti_affinity.is_empty() {
            return PreFilter::Skip;
        }
        let mut rules = Rules {
            pod: Arc::clone(pod),
            namespaces: self.namespaces.clone(),
            existing_anti: Pairs::new(),
            affinity: Pairs::new(),
            anti_affinity: Pairs::new(),
        };
        for &at in &snapshot.with_required_anti_affinity {
            let node = &snapshot.nodes[at];
            for other in node.pods.iter().filter(|p| !p.required_anti_affinity.is_empty()) {
                for term in &other.required_anti_affinity {
                    if self.namespaces.matches(term, pod) {
                        bump(&mut rules.existing_anti, node, &term.topology_key, 1);
                    }
                }
            }
        }
        if incoming {
            for node in &snapshot.nodes {
                for other in &node.pods {
                    rules.count_incoming(other, node, 1);
                }
            }
        } else if rules.existing_anti.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Ask(Box::new(rules))
    }

    fn pre_score(
        &self,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        _: &[Arc<NodeInfo>],
    ) -> Option<Box<dyn Score>> {
        let prefers = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
        let mut pairs = Pairs::new();
        let mut visit = |node: &NodeInfo, other: &PodInfo| {
            let mut rate = |term: &AffinityTerm, subject: &PodInfo, weight: i64| {
                if self.namespaces.matches(term, subject) {
                    bump(&mut pairs, node, &term.topology_key, weight);
                }
            };
            for (weight, term) in &pod.preferred_affinity {
                rate(term, other, *weight);
            }
            for (weight, term) in &pod.preferred_anti_affinity {
                rate(term, other, -weight);
            }
            for term in &other.required_affinity {
                rate(term, pod, HARD_AFFINITY_WEIGHT);
            }
            for (weight, term) in &other.preferred_affinity {
                rate(term, pod, *weight);
            }
            for (weight, term) in &other.preferred_anti_affinity {
                rate(term, pod, -weight);
            }
        };
        if prefers {
            for node in &snapshot.nodes {
                node.pods.iter().for_each(|other| visit(node, other));
            }
        } else {
            for &at in &snapshot.with_affinity {
                let node = &snapshot.nodes[at];
                node.pods
                    .iter()
                    .filter(|p| p.has_affinity())
                    .for_each(|other| visit(node, other));
            }
        }
        (!pairs.is_empty()).then(|| Box::new(Ratings { pairs }) as Box<dyn Score>)
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::NodeAdded
                | ClusterEvent::NodeLabels
                | ClusterEvent::PodAdded
                | ClusterEvent::PodDeleted
                | ClusterEvent::PodItself
                | ClusterEvent::Namespace
        )
    }
}

impl Filter for Rules {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if !self.affinity_satisfied(node) {
            return Err(Rejection::unresolvable("node(s) didn't match pod affinity rules"));
        }
        let near_unwanted = self.pod.required_anti_affinity.iter().any(|term| {
            node.label(&term.topology_key)
                .is_some_and(|value| count_of(&self.anti_affinity, &term.topology_key, value) > 0)
        });
        if near_unwanted {
            return Err(Rejection::unschedulable(
                "node(s) didn't match pod anti-affinity rules",
            ));
        }
        let unwanted = !self.existing_anti.is_empty()
            && node
                .labels()
                .into_iter()
                .flatten()
                .any(|(key, value)| count_of(&self.existing_anti, key, value) > 0);
        if unwanted {
            return Err(Rejection::unschedulable(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Ok(())
    }

    fn add_pod(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count(pod, node, 1);
    }

    fn remove_pod(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count(pod, node, -1);
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

struct Ratings {
    pairs: Pairs,
}

impl Score for Ratings {
    fn score(&self, node: &NodeInfo) -> i64 {
        let labels = node.labels().into_iter().flatten();
        labels.map(|(key, value)| count_of(&self.pairs, key, value)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (Some(min), Some(max)) = (scores.iter().min().copied(), scores.iter().max().copied()) else {
            return;
        };
        for score in scores {
            *score = if max > min {
                MAX_NODE_SCORE * (*score - min) / (max - min)
            } else {
                0
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::testing::{node, pod, snapshot};
    use serde_json::json;

    fn plugin() -> InterPodAffinity {
        InterPodAffinity {
            namespaces: Namespaces(Informer::fixed([])),
        }
    }

    fn term(app: &str) -> serde_json::Value {
        json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}])
    }

    fn wants(kind: &str, app: &str) -> serde_json::Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}, "containers": []})
    }

    /// The names of the nodes on which the pod may go.
    fn allowed(pod: &Arc<PodInfo>, snapshot: &Snapshot) -> Vec<String> {
        let filter = match plugin().pre_filter(pod, snapshot) {
            PreFilter::Ask(filter) => filter,
            _ => return snapshot.nodes.iter().map(|n| n.name.to_string()).collect(),
        };
        let nodes = snapshot.nodes.iter().filter(|n| filter.filter(n).is_ok());
        nodes.map(|n| n.name.to_string()).collect()
    }

    #[test]
    fn near_away_and_kept_away() {
        let web = pod("w", json!({"app": "web"}), json!({"containers": []}));
        let shy = pod("s", json!({"app": "shy"}), wants("podAntiAffinity", "web"));
        let zone = |z: &str| json!({ "zone": z });
        let cluster = snapshot(vec![
            node("a", zone("x"), vec![web.clone()]),
            node("b", zone("y"), vec![shy]),
            node("c", json!({}), vec![]),
        ]);
        let near = pod("n", json!({"app": "n"}), wants("podAffinity", "web"));
        assert_eq!(allowed(&near, &cluster), ["a"]);
        let away = pod("n", json!({"app": "n"}), wants("podAntiAffinity", "web"));
        assert_eq!(allowed(&away, &cluster), ["b", "c"]);
        assert_eq!(allowed(&web, &cluster), ["a", "c"], "the shy pod keeps it away");
        let first = pod("f", json!({"app": "f"}), wants("podAffinity", "f"));
        assert_eq!(allowed(&first, &cluster), ["a", "b"], "nobody to be near to yet");
    }
}
