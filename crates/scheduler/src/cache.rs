//! What the scheduler believes: nodes, the pods on them, and pods it has decided but whose binding is not
//! confirmed yet (assumed pods).

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::ObjectKey;
use hashbrown::{HashMap, HashSet};
use k8s_openapi::api::core::v1::Node;
use std::sync::Arc;

/// The believed state. The informers' handlers and the cycle change it, under one lock.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    nodes: HashMap<Arc<str>, Arc<NodeInfo>>,
    pods: HashMap<ObjectKey, Placed>,
    dirty: HashSet<Arc<str>>,
    /// A node came or went, or changed its zone.
    reorder: bool,
    image_nodes: HashMap<String, usize>,
    images_changed: bool,
}

#[derive(Debug)]
struct Placed {
    info: Arc<PodInfo>,
    node: Arc<str>,
    assumed: bool,
}

const ZONE: &str = "topology.kubernetes.io/zone";

impl Cache {
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else {
            return;
        };
        let info = self.node_mut(&name);
        let known = info.node.is_some();
        let zone = info.label(ZONE).map(str::to_owned);
        let before = Arc::clone(&info.images);
        info.set_node(node);
        let after = Arc::clone(&info.images);
        self.reorder |= !known || zone.as_deref() != info_zone(&self.nodes[name.as_str()]);
        self.count_images(&before, &after);
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else {
            return;
        };
        let before = Arc::clone(&info.images);
        if info.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            let info = Arc::make_mut(info);
            info.node = None;
            info.images = Arc::default();
        }
        self.reorder = true;
        self.count_images(&before, &Arc::default());
    }

    /// A pod is on a node, says the API: confirms an assumed one, or corrects it.
    pub(crate) fn set_pod(&mut self, info: Arc<PodInfo>, node: &str) {
        self.put(info, node, false);
    }

    /// A pod is going to be on a node, says the cycle.
    pub(crate) fn assume(&mut self, info: Arc<PodInfo>, node: &str) {
        self.put(info, node, true);
    }

    /// The binding of an assumed pod failed.
    pub(crate) fn forget(&mut self, key: &ObjectKey, uid: &str) {
        if self
            .pods
            .get(key)
            .is_some_and(|p| p.assumed && p.info.uid() == uid)
        {
            self.remove_pod(key);
        }
    }

    /// Takes a pod off its node; which one that was.
    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(key)?;
        let name = Arc::clone(&placed.node);
        let info = self.node_mut(&name);
        info.remove_pod(placed.info.uid());
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(&name);
        }
        Some(placed.info)
    }

    pub(crate) fn is_assumed(&self, key: &ObjectKey) -> bool {
        self.pods.get(key).is_some_and(|p| p.assumed)
    }

    fn put(&mut self, info: Arc<PodInfo>, node: &str, assumed: bool) {
        if self.pods.contains_key(&info.key) {
            self.remove_pod(&info.key);
        }
        let target = self.node_mut(node);
        target.add_pod(Arc::clone(&info));
        let node = Arc::clone(&target.name);
        self.pods.insert(info.key.clone(), Placed { info, node, assumed });
    }

    fn node_mut(&mut self, name: &str) -> &mut NodeInfo {
        let entry = self
            .nodes
            .entry_ref(name)
            .or_insert_with(|| Arc::new(NodeInfo::new(name)));
        self.dirty.insert(Arc::clone(&entry.name));
        Arc::make_mut(entry)
    }

    fn count_images(
        &mut self,
        before: &std::collections::HashMap<String, i64>,
        after: &std::collections::HashMap<String, i64>,
    ) {
        if before == after {
            return;
        }
        self.images_changed = true;
        for name in before.keys() {
            if let Some(count) = self.image_nodes.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(name);
                }
            }
        }
        for name in after.keys() {
            *self.image_nodes.entry_ref(name.as_str()).or_insert(0) += 1;
        }
    }

    /// Brings a snapshot up to date.
    pub(crate) fn refresh(&mut self, snapshot: &mut Snapshot) {
        let mut affinity_changed = self.reorder;
        if self.reorder {
            snapshot.nodes = self.ordered();
            snapshot.index = snapshot
                .nodes
                .iter()
                .enumerate()
                .map(|(at, n)| (Arc::clone(&n.name), at))
                .collect();
            self.reorder = false;
            self.dirty.clear();
        }
        for name in self.dirty.drain() {
            let (Some(info), Some(&at)) = (self.nodes.get(&name), snapshot.index.get(&name)) else {
                continue;
            };
            let flags = |n: &NodeInfo| (n.pods_with_affinity > 0, n.pods_with_required_anti_affinity > 0);
            affinity_changed |= flags(info) != flags(&snapshot.nodes[at]);
            snapshot.nodes[at] = Arc::clone(info);
        }
        if affinity_changed {
            snapshot.relist_affinity();
        }
        if std::mem::take(&mut self.images_changed) {
            snapshot.image_nodes = Arc::new(self.image_nodes.clone());
        }
    }

    /// The nodes, one of each zone in turn, so that a search that stops early has seen every zone.
    fn ordered(&self) -> Vec<Arc<NodeInfo>> {
        let mut zones: std::collections::BTreeMap<&str, Vec<&Arc<NodeInfo>>> =
            std::collections::BTreeMap::new();
        for info in self.nodes.values().filter(|n| n.node.is_some()) {
            zones.entry(info_zone(info).unwrap_or("")).or_default().push(info);
        }
        for nodes in zones.values_mut() {
            nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        (0..longest)
            .flat_map(|at| zones.values().filter_map(move |nodes| nodes.get(at)))
            .map(|n| Arc::clone(n))
            .collect()
    }
}

fn info_zone(info: &NodeInfo) -> Option<&str> {
    info.label(ZONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, zone: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {ZONE: zone}}}))
                .expect("node"),
        )
    }

    fn pod(name: &str) -> Arc<PodInfo> {
        let meta = json!({"name": name, "namespace": "d", "uid": name});
        Arc::new(PodInfo::new(Arc::new(
            serde_json::from_value(json!({ "metadata": meta })).expect("pod"),
        )))
    }

    fn shape(snapshot: &Snapshot) -> Vec<(String, usize)> {
        snapshot
            .nodes
            .iter()
            .map(|n| (n.name.to_string(), n.pods.len()))
            .collect()
    }

    #[test]
    fn only_changed_nodes_are_new_in_a_snapshot() {
        let mut cache = Cache::default();
        let mut snapshot = Snapshot::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
            cache.set_node(node(name, zone));
        }
        cache.refresh(&mut snapshot);
        assert_eq!(
            shape(&snapshot),
            [("a".into(), 0), ("c".into(), 0), ("b".into(), 0)]
        );
        let before = snapshot.clone();
        cache.assume(pod("p"), "c");
        assert_eq!(
            before.node("c").expect("c").pods.len(),
            0,
            "a snapshot never changes"
        );
        cache.refresh(&mut snapshot);
        assert_eq!(shape(&snapshot)[1], ("c".into(), 1));
        assert!(Arc::ptr_eq(&before.nodes[0], &snapshot.nodes[0]));
    }

    #[test]
    fn an_assumed_pod_is_confirmed_corrected_or_forgotten() {
        let mut cache = Cache::default();
        let mut snapshot = Snapshot::default();
        cache.set_node(node("a", "x"));
        cache.set_node(node("b", "x"));
        cache.assume(pod("p"), "a");
        cache.set_pod(pod("p"), "b");
        cache.forget(&ObjectKey::new("d", "p"), "p");
        cache.refresh(&mut snapshot);
        assert_eq!(
            shape(&snapshot),
            [("a".into(), 0), ("b".into(), 1)],
            "confirmed pods are not forgotten"
        );
        cache.assume(pod("q"), "a");
        cache.forget(&ObjectKey::new("d", "q"), "q");
        cache.remove_node("b");
        cache.refresh(&mut snapshot);
        assert_eq!(shape(&snapshot), [("a".into(), 0)]);
    }
}
