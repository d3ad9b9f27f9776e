//! PodTopologySpread: evenly over zones, nodes, or whatever a label says.
//!
//! `DoNotSchedule` constraints restrict, `ScheduleAnyway` ones rate. A pod without constraints that belongs to a
//! Service or a workload gets upstream's default ones (rating only): hostname with skew 3, zone with skew 5.
//!
//! How many pods of a node match a selector is remembered for as long as the node does not change, so that a
//! row of pods of one workload costs a count of one node each and not of the whole cluster.

use super::taint_toleration::untolerated;
use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Rejection, Score, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::informer::{Index, by_namespace};
use client::labels::{Matcher, selects};
use client::node_selector::required_matches;
use client::{Informer, Informers};
use hashbrown::HashMap;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, Service, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NAME: &str = "PodTopologySpread";

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const MISSING_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

pub struct PodTopologySpread {
    services: Index<Service>,
    controllers: Informer<ReplicationController>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    counts: Arc<Counts>,
}

impl PodTopologySpread {
    pub fn new(informers: &Informers) -> Self {
        Self {
            services: informers.get::<Service>().index("namespace", by_namespace),
            controllers: informers.get(),
            replica_sets: informers.get(),
            stateful_sets: informers.get(),
            counts: Arc::default(),
        }
    }

    /// What upstream's defaults spread: the pods of the services and of the workload this pod belongs to.
    fn default_selector(&self, pod: &PodInfo) -> Option<Matcher> {
        let labels = pod.pod.metadata.labels.as_ref();
        let mut wanted: BTreeMap<String, String> = BTreeMap::new();
        for service in self.services.get(&pod.key.namespace) {
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            if selects(selector, labels) {
                wanted.extend(
                    selector
                        .into_iter()
                        .flatten()
                        .map(|(k, v)| (k.clone(), v.clone())),
                );
            }
        }
        let mut selector = (!wanted.is_empty()).then(|| Matcher::all_of(Some(&wanted)));
        let owner = pod.pod.metadata.owner_references.iter().flatten();
        if let Some(owner) = owner.into_iter().find(|o| o.controller == Some(true)) {
            let namespace = pod.key.namespace.as_str();
            let of = |s: Option<&LabelSelector>| s.map(|s| Matcher::of(Some(s)));
            let owned = match owner.kind.as_str() {
                "ReplicationController" => self.controllers.find(namespace, &owner.name).and_then(|c| {
                    let selector = c.spec.as_ref()?.selector.as_ref()?;
                    (!selector.is_empty()).then(|| Matcher::all_of(Some(selector)))
                }),
                "ReplicaSet" => {
                    let set = self.replica_sets.find(namespace, &owner.name);
                    set.and_then(|s| of(s.spec.as_ref().map(|s| &s.selector)))
                }
                "StatefulSet" => {
                    let set = self.stateful_sets.find(namespace, &owner.name);
                    set.and_then(|s| of(s.spec.as_ref().map(|s| &s.selector)))
                }
                _ => None,
            };
            selector = match (selector, owned) {
                (Some(a), Some(b)) => Some(a.and(b)),
                (a, b) => a.or(b),
            };
        }
        selector.filter(|s| !s.is_everything())
    }

    fn soft_constraints(&self, pod: &PodInfo) -> Vec<Constraint> {
        let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or(&[]);
        if !own.is_empty() {
            return constraints(own, pod, "ScheduleAnyway");
        }
        let Some(selector) = self.default_selector(pod) else {
            return Vec::new();
        };
        [(HOSTNAME, 3), (ZONE, 5)]
            .into_iter()
            .map(|(key, max_skew)| Constraint {
                topology_key: key.to_owned(),
                max_skew,
                min_domains: 1,
                selector: selector.clone(),
                honor_affinity: true,
                honor_taints: false,
            })
            .collect()
    }
}

#[derive(Debug, Clone)]
struct Constraint {
    topology_key: String,
    max_skew: i64,
    min_domains: usize,
    selector: Matcher,
    honor_affinity: bool,
    honor_taints: bool,
}

fn constraints(list: &[TopologySpreadConstraint], pod: &PodInfo, action: &str) -> Vec<Constraint> {
    let labels = pod.pod.metadata.labels.as_ref();
    list.iter()
        .filter(|c| c.when_unsatisfiable == action)
        .map(|c| {
            let mut selector = Matcher::of(c.label_selector.as_ref());
            let same: BTreeMap<String, String> = c
                .match_label_keys
                .iter()
                .flatten()
                .filter_map(|key| Some((key.clone(), labels?.get(key)?.clone())))
                .collect();
            if !same.is_empty() {
                selector = selector.and(Matcher::all_of(Some(&same)));
            }
            Constraint {
                topology_key: c.topology_key.clone(),
                max_skew: i64::from(c.max_skew),
                min_domains: c.min_domains.and_then(|d| usize::try_from(d).ok()).unwrap_or(1),
                selector,
                honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
                honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
            }
        })
        .collect()
}

impl Constraint {
    /// Whether the node's pods count.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        if self.honor_affinity && !required_matches(pod.spec(), node.subject()) {
            return false;
        }
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or(&[]);
        !self.honor_taints || untolerated(node, tolerations).is_none()
    }
}

/// Remembered counts: per namespace and selector, per node, valid for one generation of the node.
#[derive(Default)]
struct Counts(Mutex<Vec<CountsOf>>);

struct CountsOf {
    namespace: String,
    selector: Matcher,
    nodes: HashMap<Arc<str>, (u64, i64)>,
}

/// So many workloads are remembered at a time.
const REMEMBERED: usize = 8;

impl Counts {
    /// Calls `each` with every node and the number of pods on it that match.
    fn of<'a>(
        &self,
        namespace: &str,
        selector: &Matcher,
        nodes: impl Iterator<Item = &'a Arc<NodeInfo>>,
        mut each: impl FnMut(&'a Arc<NodeInfo>, i64),
    ) {
        let mut remembered = self.0.lock();
        let known = remembered
            .iter()
            .position(|c| c.namespace == namespace && c.selector == *selector);
        let mut of = match known {
            Some(at) => remembered.remove(at),
            None => CountsOf {
                namespace: namespace.to_owned(),
                selector: selector.clone(),
                nodes: HashMap::new(),
            },
        };
        for node in nodes {
            let count = match of.nodes.get(&node.name) {
                Some((generation, count)) if *generation == node.generation => *count,
                _ => {
                    let count = count_matching(node, selector, namespace);
                    of.nodes.insert(Arc::clone(&node.name), (node.generation, count));
                    count
                }
            };
            each(node, count);
        }
        // Most recently used last.
        if remembered.len() >= REMEMBERED {
            remembered.remove(0);
        }
        remembered.push(of);
    }
}

fn count_matching(node: &NodeInfo, selector: &Matcher, namespace: &str) -> i64 {
    if selector.is_everything() {
        return 0;
    }
    let matching = node.pods.iter().filter(|p| {
        !p.is_terminating()
            && p.key.namespace == namespace
            && selector.matches(p.pod.metadata.labels.as_ref())
    });
    i64::try_from(matching.count()).unwrap_or(i64::MAX)
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, snapshot: &Snapshot) -> PreFilter {
        let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or(&[]);
        let constraints = constraints(own, pod, "DoNotSchedule");
        if constraints.is_empty() {
            return PreFilter::Skip;
        }
        let complete =
            |node: &&Arc<NodeInfo>| constraints.iter().all(|c| node.label(&c.topology_key).is_some());
        let matches = constraints
            .iter()
            .map(|c| {
                let mut domains: HashMap<String, i64> = HashMap::new();
                let nodes = snapshot
                    .nodes
                    .iter()
                    .filter(complete)
                    .filter(|n| c.includes(pod, n));
                self.counts
                    .of(&pod.key.namespace, &c.selector, nodes, |node, count| {
                        let value = node.label(&c.topology_key).unwrap_or("");
                        *domains.entry_ref(value).or_insert(0) += count;
                    });
                domains
            })
            .collect();
        PreFilter::Ask(Box::new(Skews {
            pod: Arc::clone(pod),
            constraints,
            matches,
        }))
    }

    #[allow(clippy::cast_precision_loss)] // Counts of nodes are small.
    fn pre_score(
        &self,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        feasible: &[Arc<NodeInfo>],
    ) -> Option<Box<dyn Score>> {
        let constraints = self.soft_constraints(pod);
        if constraints.is_empty() {
            return None;
        }
        let own = pod
            .spec()
            .topology_spread_constraints
            .as_ref()
            .is_some_and(|c| !c.is_empty());
        // The default constraints rate nodes without a zone too.
        let relevant =
            |node: &NodeInfo| !own || constraints.iter().all(|c| node.label(&c.topology_key).is_some());
        let candidates: Vec<&Arc<NodeInfo>> = feasible.iter().filter(|n| relevant(n)).collect();
        let rated = constraints
            .iter()
            .map(|c| {
                let mut domains: HashMap<String, i64> = HashMap::new();
                let by_node = c.topology_key == HOSTNAME;
                let key = |node: &NodeInfo| -> String {
                    if by_node {
                        node.name.to_string()
                    } else {
                        node.label(&c.topology_key).unwrap_or("").to_owned()
                    }
                };
                for node in &candidates {
                    domains.insert(key(node), 0);
                }
                let size = domains.len();
                let counted: Vec<&Arc<NodeInfo>> = if by_node {
                    candidates.clone()
                } else {
                    let all = snapshot
                        .nodes
                        .iter()
                        .filter(|n| relevant(n) && c.includes(pod, n));
                    all.collect()
                };
                self.counts.of(
                    &pod.key.namespace,
                    &c.selector,
                    counted.into_iter(),
                    |node, count| {
                        if let Some(total) = domains.get_mut(&key(node)) {
                            *total += count;
                        }
                    },
                );
                Rated {
                    by_node,
                    topology_key: c.topology_key.clone(),
                    max_skew: c.max_skew,
                    weight: ((size + 2) as f64).ln(),
                    domains,
                }
            })
            .collect();
        Some(Box::new(Spread {
            rated,
            ignored: feasible.iter().map(|n| !relevant(n)).collect(),
        }))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::NodeAdded
                | ClusterEvent::NodeLabels
                | ClusterEvent::NodeTaints
                | ClusterEvent::PodAdded
                | ClusterEvent::PodDeleted
                | ClusterEvent::PodItself
        )
    }
}

#[derive(Clone)]
struct Skews {
    pod: Arc<PodInfo>,
    constraints: Vec<Constraint>,
    /// Per constraint: pods that match, per domain.
    matches: Vec<HashMap<String, i64>>,
}

impl Skews {
    fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if other.key.namespace != self.pod.key.namespace || other.is_terminating() {
            return;
        }
        for (constraint, domains) in self.constraints.iter().zip(&mut self.matches) {
            let Some(value) = node.label(&constraint.topology_key) else {
                continue;
            };
            if constraint.includes(&self.pod, node)
                && constraint.selector.matches(other.pod.metadata.labels.as_ref())
                && let Some(count) = domains.get_mut(value)
            {
                *count += by;
            }
        }
    }
}

impl Filter for Skews {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        for (constraint, domains) in self.constraints.iter().zip(&self.matches) {
            let Some(value) = node.label(&constraint.topology_key) else {
                return Err(Rejection::unresolvable(MISSING_LABEL));
            };
            let least = if domains.len() < constraint.min_domains {
                0
            } else {
                domains.values().copied().min().unwrap_or(0)
            };
            let itself = i64::from(constraint.selector.matches(self.pod.pod.metadata.labels.as_ref()));
            let skew = domains.get(value).copied().unwrap_or(0) + itself - least;
            if skew > constraint.max_skew {
                return Err(Rejection::unschedulable(MISMATCH));
            }
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

struct Rated {
    by_node: bool,
    topology_key: String,
    max_skew: i64,
    weight: f64,
    domains: HashMap<String, i64>,
}

struct Spread {
    rated: Vec<Rated>,
    /// Which of the feasible nodes lack a topology key.
    ignored: Vec<bool>,
}

impl Score for Spread {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // Counts of pods are small.
    fn score(&self, node: &NodeInfo) -> i64 {
        let mut score = 0.0;
        for rated in &self.rated {
            let Some(value) = node.label(&rated.topology_key) else {
                continue;
            };
            let domain = if rated.by_node { &node.name } else { value };
            let count = rated.domains.get(domain).copied().unwrap_or(0);
            score += count as f64 * rated.weight + (rated.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let known = || {
            self.ignored
                .iter()
                .zip(scores.iter())
                .filter(|(ignored, _)| !**ignored)
                .map(|(_, s)| *s)
        };
        let max = known().max().unwrap_or(0).max(0);
        let min = known().min().unwrap_or(0);
        for (score, ignored) in scores.iter_mut().zip(&self.ignored) {
            *score = match (ignored, max) {
                (true, _) => 0,
                (false, 0) => MAX_NODE_SCORE,
                (false, max) => MAX_NODE_SCORE * (max + min - *score) / max,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::testing::{node, pod, snapshot};
    use serde_json::json;

    fn plugin() -> PodTopologySpread {
        PodTopologySpread {
            services: Informer::fixed([]).index("namespace", by_namespace),
            controllers: Informer::fixed([]),
            replica_sets: Informer::fixed([]),
            stateful_sets: Informer::fixed([]),
            counts: Arc::default(),
        }
    }

    fn spread(action: &str) -> serde_json::Value {
        let selector = json!({"matchLabels": {"app": "a"}});
        json!({"containers": [], "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": action, "labelSelector": selector}]})
    }

    fn cluster() -> Snapshot {
        let a = |name: &str| pod(name, json!({"app": "a"}), json!({"containers": []}));
        snapshot(vec![
            node("n1", json!({"zone": "x"}), vec![a("1"), a("2")]),
            node("n2", json!({"zone": "y"}), vec![a("3")]),
            node("n3", json!({}), vec![]),
        ])
    }

    #[test]
    fn hard_constraints_keep_the_skew() {
        let cluster = cluster();
        let PreFilter::Ask(filter) =
            plugin().pre_filter(&pod("p", json!({"app": "a"}), spread("DoNotSchedule")), &cluster)
        else {
            panic!("asked");
        };
        let verdicts: Vec<_> = cluster.nodes.iter().map(|n| filter.filter(n)).collect();
        assert_eq!(verdicts[0], Err(Rejection::unschedulable(MISMATCH)));
        assert_eq!(verdicts[1], Ok(()));
        assert_eq!(verdicts[2], Err(Rejection::unresolvable(MISSING_LABEL)));
    }

    #[test]
    fn soft_constraints_rate() {
        let cluster = cluster();
        let pod = pod("p", json!({"app": "a"}), spread("ScheduleAnyway"));
        let score = plugin()
            .pre_score(&pod, &cluster, &cluster.nodes)
            .expect("scores");
        let mut scores: Vec<i64> = cluster.nodes.iter().map(|n| score.score(n)).collect();
        score.normalize(&mut scores);
        assert_eq!(scores, [33, 100, 0]);
    }

    #[test]
    fn counts_are_remembered_until_the_node_changes() {
        let counts = Counts::default();
        let selector = Matcher::all_of(Some(&[("app".to_owned(), "a".to_owned())].into()));
        let mut cluster = cluster();
        let total = |cluster: &Snapshot| {
            let mut total = 0;
            counts.of("d", &selector, cluster.nodes.iter(), |_, count| total += count);
            total
        };
        assert_eq!(total(&cluster), 3);
        Arc::make_mut(&mut cluster.nodes[2]).add_pod(pod(
            "4",
            json!({"app": "a"}),
            json!({"containers": []}),
        ));
        assert_eq!(total(&cluster), 4);
    }
}
