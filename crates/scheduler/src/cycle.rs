//! One scheduling cycle: from a pod and a snapshot to a node, or to why there is none.

use crate::diagnosis::Diagnosis;
use crate::framework::{Filter, Plugin, PreBind, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::Nominated;
use crate::snapshot::Snapshot;
use hashbrown::HashSet;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use std::sync::Arc;

/// Below this many nodes all are looked at, and at least so many feasible ones are sought.
const MIN_FEASIBLE: usize = 100;
const MIN_PERCENTAGE: usize = 5;

/// The filters of one pod, in the plugins' order.
pub(crate) type Filters = Vec<(&'static str, Box<dyn Filter>)>;

/// A pod that fits nowhere, with what preemption needs to go on.
pub(crate) struct Unfit {
    pub(crate) diagnosis: Diagnosis,
    pub(crate) filters: Filters,
    /// Why the question could not be answered: then nothing can be done about it.
    pub(crate) error: Option<String>,
}

/// Decides for one pod after the other. Holds where the last search stopped, so that searches that do not look at
/// all nodes look at all in turn.
pub(crate) struct Algorithm {
    pub(crate) plugins: Vec<Arc<dyn Plugin>>,
    pub(crate) percentage_of_nodes_to_score: usize,
    next_start: usize,
    random: SmallRng,
}

impl Algorithm {
    pub(crate) fn new(
        plugins: Vec<Arc<dyn Plugin>>,
        percentage_of_nodes_to_score: usize,
        random: SmallRng,
    ) -> Self {
        Self {
            plugins,
            percentage_of_nodes_to_score,
            next_start: 0,
            random,
        }
    }

    /// The node for the pod.
    pub(crate) fn schedule(
        &mut self,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        nominated: &Nominated,
    ) -> Result<Arc<NodeInfo>, Box<Unfit>> {
        let mut diagnosis = Diagnosis {
            nodes: snapshot.nodes.len(),
            ..Diagnosis::default()
        };
        if snapshot.nodes.is_empty() {
            // Any node that comes helps; so all plugins count as having refused.
            self.plugins.iter().for_each(|p| diagnosis.blame(p.name()));
            return Err(Box::new(Unfit {
                diagnosis,
                filters: Vec::new(),
                error: None,
            }));
        }
        let (filters, only) = match self.pre_filter(pod, snapshot) {
            Ok(found) => found,
            Err((plugin, rejection)) => {
                diagnosis.blame(plugin);
                diagnosis.pre_filter = Some(rejection);
                return Err(Box::new(Unfit {
                    diagnosis,
                    filters: Vec::new(),
                    error: None,
                }));
            }
        };
        let promised = pod.nominated_node().and_then(|name| snapshot.node(name));
        if let Some(node) = promised
            && only.as_ref().is_none_or(|(_, names)| names.contains(&*node.name))
            && judge(&filters, pod, node, nominated).is_ok()
        {
            return Ok(Arc::clone(node));
        }
        let feasible = self.find_feasible(pod, snapshot, nominated, &filters, only.as_ref(), &mut diagnosis);
        let failed = diagnosis.rejections.iter().find(|(_, _, r)| r.error);
        let error = failed.map(|(_, plugin, r)| {
            let why = r.reasons.join(", ");
            format!("running {plugin:?} filter plugin: {why}")
        });
        match feasible.len() {
            _ if error.is_some() => Err(Box::new(Unfit {
                diagnosis,
                filters,
                error,
            })),
            0 => Err(Box::new(Unfit {
                diagnosis,
                filters,
                error,
            })),
            1 => Ok(Arc::clone(&feasible[0])),
            _ => Ok(self.best(pod, snapshot, &feasible)),
        }
    }

    /// Has every plugin take what the pod needs on the node; what it took before one refuses is given back.
    pub(crate) fn reserve(
        &self,
        pod: &Arc<PodInfo>,
        node: &NodeInfo,
    ) -> Result<Vec<Box<dyn PreBind>>, (&'static str, Rejection)> {
        let mut taken = Vec::new();
        for plugin in &self.plugins {
            let reserved = plugin.reserve(pod, node).map_err(|r| (plugin.name(), r))?;
            taken.extend(reserved);
        }
        Ok(taken)
    }

    #[allow(clippy::type_complexity)] // Said once, where it is used.
    fn pre_filter(
        &self,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
    ) -> Result<(Filters, Option<(&'static str, HashSet<String>)>), (&'static str, Rejection)> {
        let mut filters: Filters = Vec::with_capacity(self.plugins.len());
        let mut only: Option<(&'static str, HashSet<String>)> = None;
        for plugin in &self.plugins {
            let name = plugin.name();
            match plugin.pre_filter(pod, snapshot) {
                PreFilter::Skip => {}
                PreFilter::Ask(filter) => filters.push((name, filter)),
                PreFilter::Only(nodes, filter) => {
                    filters.extend(filter.map(|f| (name, f)));
                    only = Some(match only {
                        Some((first, known)) => (first, known.intersection(&nodes).cloned().collect()),
                        None => (name, nodes),
                    });
                }
                PreFilter::Reject(rejection) => return Err((name, rejection)),
            }
        }
        Ok((filters, only))
    }

    fn find_feasible(
        &mut self,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        nominated: &Nominated,
        filters: &Filters,
        only: Option<&(&'static str, HashSet<String>)>,
        diagnosis: &mut Diagnosis,
    ) -> Vec<Arc<NodeInfo>> {
        let total = snapshot.nodes.len();
        let mut positions: Vec<usize> = Vec::new();
        if let Some((plugin, names)) = only {
            positions.extend(names.iter().filter_map(|n| snapshot.position(n)));
            positions.sort_unstable();
            diagnosis.blame(plugin);
            let rejection = Rejection::unresolvable(format!("node(s) didn't satisfy plugin(s) [{plugin}]"));
            let others = (0..total).filter(|at| positions.binary_search(at).is_err());
            diagnosis
                .rejections
                .extend(others.map(|at| (at, *plugin, rejection.clone())));
        }
        let count = if only.is_some() { positions.len() } else { total };
        let wanted = if only.is_some() {
            count
        } else {
            self.nodes_to_find(total)
        };
        let start = if only.is_some() {
            0
        } else {
            self.next_start % total
        };
        let mut feasible = Vec::with_capacity(wanted.min(count));
        let mut looked_at = 0;
        for step in 0..count {
            let at = positions.get(step).copied().unwrap_or((start + step) % total);
            looked_at += 1;
            match judge(filters, pod, &snapshot.nodes[at], nominated) {
                Ok(()) => feasible.push(Arc::clone(&snapshot.nodes[at])),
                Err((plugin, rejection)) => {
                    let error = rejection.error;
                    diagnosis.blame(plugin);
                    diagnosis.rejections.push((at, plugin, rejection));
                    if error {
                        break;
                    }
                }
            }
            if feasible.len() >= wanted {
                break;
            }
        }
        if only.is_none() {
            self.next_start = (start + looked_at) % total;
        }
        feasible
    }

    /// How many feasible nodes are enough: all of few, a share of many that shrinks as they grow.
    fn nodes_to_find(&self, total: usize) -> usize {
        if total < MIN_FEASIBLE {
            return total;
        }
        let percentage = match self.percentage_of_nodes_to_score {
            0 => 50usize.saturating_sub(total / 125).max(MIN_PERCENTAGE),
            set => set.min(100),
        };
        (total * percentage / 100).max(MIN_FEASIBLE)
    }

    /// The feasible node of the greatest sum of weighted scores; any of them if several.
    fn best(&mut self, pod: &Arc<PodInfo>, snapshot: &Snapshot, feasible: &[Arc<NodeInfo>]) -> Arc<NodeInfo> {
        let mut totals = vec![0i64; feasible.len()];
        let mut scores = vec![0i64; feasible.len()];
        for plugin in self.plugins.iter().filter(|p| p.weight() > 0) {
            let Some(score) = plugin.pre_score(pod, snapshot, feasible) else {
                continue;
            };
            for (slot, node) in scores.iter_mut().zip(feasible) {
                *slot = score.score(node);
            }
            score.normalize(&mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * plugin.weight();
            }
        }
        let mut best = 0;
        let mut ties = 1u32;
        for at in 1..totals.len() {
            if totals[at] > totals[best] {
                (best, ties) = (at, 1);
            } else if totals[at] == totals[best] {
                ties += 1;
                if self.random.random_range(0..ties) == 0 {
                    best = at;
                }
            }
        }
        Arc::clone(&feasible[best])
    }
}

/// Asks every filter about a node; the first that refuses is blamed. Where pods of at least this priority are
/// promised the node, it must do with them and without.
pub(crate) fn judge(
    filters: &Filters,
    pod: &Arc<PodInfo>,
    node: &NodeInfo,
    nominated: &Nominated,
) -> Result<(), (&'static str, Rejection)> {
    if let Some(promised) = nominated.get(&*node.name) {
        let others: Vec<&Arc<PodInfo>> = promised
            .iter()
            .filter(|p| p.priority >= pod.priority && p.uid() != pod.uid())
            .collect();
        if !others.is_empty() {
            let mut node = node.clone();
            let mut filters: Filters = filters.iter().map(|(n, f)| (*n, f.boxed_clone())).collect();
            for other in others {
                node.add_pod(Arc::clone(other));
                filters.iter_mut().for_each(|(_, f)| f.add_pod(other, &node));
            }
            ask(&filters, &node)?;
        }
    }
    ask(filters, node)
}

fn ask(filters: &Filters, node: &NodeInfo) -> Result<(), (&'static str, Rejection)> {
    for (name, filter) in filters {
        let verdict: Verdict = filter.filter(node);
        verdict.map_err(|rejection| (*name, rejection))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Small clusters for the tests of the cycle and the plugins.

    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn pod(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
        let meta = json!({"name": name, "namespace": "d", "uid": name, "labels": labels});
        let pod = json!({"metadata": meta, "spec": spec});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("pod"))))
    }

    pub(crate) fn node(name: &str, labels: Value, pods: Vec<Arc<PodInfo>>) -> NodeInfo {
        let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        let node =
            json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}});
        let mut info = NodeInfo::new(name);
        info.set_node(Arc::new(serde_json::from_value(node).expect("node")));
        pods.into_iter().for_each(|p| info.add_pod(p));
        info
    }

    pub(crate) fn snapshot(nodes: Vec<NodeInfo>) -> Snapshot {
        let mut snapshot = Snapshot {
            index: nodes
                .iter()
                .enumerate()
                .map(|(at, n)| (Arc::clone(&n.name), at))
                .collect(),
            nodes: nodes.into_iter().map(Arc::new).collect(),
            ..Snapshot::default()
        };
        snapshot.relist_affinity();
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{node, pod, snapshot};
    use super::*;
    use crate::plugins::{image_locality, node_affinity, node_name, node_resources_fit, taint_toleration};
    use rand::SeedableRng as _;
    use serde_json::json;

    fn algorithm() -> Algorithm {
        let plugins: Vec<Arc<dyn Plugin>> = vec![
            Arc::new(node_name::NodeName),
            Arc::new(taint_toleration::TaintToleration),
            Arc::new(node_affinity::NodeAffinity),
            Arc::new(node_resources_fit::NodeResourcesFit),
            Arc::new(image_locality::ImageLocality),
        ];
        Algorithm::new(plugins, 0, SmallRng::seed_from_u64(1))
    }

    fn asks(cpu: &str) -> serde_json::Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn the_emptier_node_wins_and_no_fit_is_explained() {
        let full = vec![pod("x", json!({}), asks("3"))];
        let cluster = snapshot(vec![node("a", json!({}), full), node("b", json!({}), vec![])]);
        let none = Nominated::default();
        let found = algorithm().schedule(&pod("p", json!({}), asks("1")), &cluster, &none);
        assert_eq!(&*found.ok().expect("fits").name, "b");
        let unfit = algorithm()
            .schedule(&pod("p", json!({}), asks("5")), &cluster, &none)
            .expect_err("no fit");
        assert_eq!(
            unfit.diagnosis.message(),
            "0/2 nodes are available: 2 Insufficient cpu."
        );
        assert_eq!(unfit.diagnosis.plugins, ["NodeResourcesFit"]);
    }

    #[test]
    fn a_promised_node_is_kept_free() {
        let cluster = snapshot(vec![node("a", json!({}), vec![])]);
        let promised = pod("v", json!({}), asks("3"));
        let nominated: Nominated = Arc::new([("a".to_owned(), vec![promised.clone()])].into_iter().collect());
        assert!(
            algorithm()
                .schedule(&pod("p", json!({}), asks("2")), &cluster, &nominated)
                .is_err()
        );
        assert!(algorithm().schedule(&promised, &cluster, &nominated).is_ok());
    }

    #[test]
    fn large_clusters_are_sampled_in_turn() {
        let nodes = (0..400)
            .map(|i| node(&format!("n{i:03}"), json!({}), vec![]))
            .collect();
        let cluster = snapshot(nodes);
        let mut algorithm = algorithm();
        assert_eq!(algorithm.nodes_to_find(99), 99);
        assert_eq!(algorithm.nodes_to_find(400), 188);
        assert_eq!(algorithm.nodes_to_find(6000), 300);
        for expected in [188, 376, 164] {
            let found = algorithm.schedule(&pod("p", json!({}), asks("1")), &cluster, &Nominated::default());
            assert!(found.is_ok());
            assert_eq!(algorithm.next_start, expected);
        }
    }
}
