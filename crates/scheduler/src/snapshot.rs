//! All nodes at one moment, and the cache the moments are taken from.
//!
//! **Invariant:** taking a snapshot costs in proportion to the nodes that changed since the last one; the others
//! are shared.

use crate::node_info::NodeInfo;
use hashbrown::HashMap;
use std::sync::Arc;

/// The nodes of the cluster at the start of a scheduling cycle.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub nodes: Vec<Arc<NodeInfo>>,
    pub(crate) index: HashMap<Arc<str>, usize>,
    /// Positions of nodes with pods that have any affinity.
    pub with_affinity: Vec<usize>,
    /// Positions of nodes with pods that require anti-affinity.
    pub with_required_anti_affinity: Vec<usize>,
    /// On how many nodes an image is.
    pub image_nodes: Arc<HashMap<String, usize>>,
}

impl Snapshot {
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Works out the lists that are about pods with affinity anew.
    pub(crate) fn relist_affinity(&mut self) {
        let positions = |has: fn(&NodeInfo) -> bool| {
            let nodes = self.nodes.iter().enumerate();
            nodes.filter(|(_, n)| has(n)).map(|(at, _)| at).collect()
        };
        self.with_affinity = positions(|n| n.pods_with_affinity > 0);
        self.with_required_anti_affinity = positions(|n| n.pods_with_required_anti_affinity > 0);
    }
}
