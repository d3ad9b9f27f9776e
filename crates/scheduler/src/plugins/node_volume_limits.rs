//! NodeVolumeLimits: no more volumes of a CSI driver on a node than its CSINode says.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::storage::{claim_class, volume_name};
use client::{Informer, Informers};
use hashbrown::{HashMap, HashSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use std::sync::Arc;

pub const NAME: &str = "NodeVolumeLimits";

/// Finds which volumes of which drivers a pod uses.
#[derive(Clone)]
pub struct NodeVolumeLimits {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<CSINode>,
}

impl NodeVolumeLimits {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.get(),
            volumes: informers.get(),
            classes: informers.get(),
            nodes: informers.get(),
        }
    }

    /// Volumes, each once, with their drivers. A claim without a volume yet counts as one of its class's.
    fn used(&self, pod: &PodInfo) -> HashMap<String, String> {
        let mut used = HashMap::new();
        for volume in pod.spec().volumes.iter().flatten() {
            let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => source.claim_name.clone(),
                (None, Some(_)) => format!("{}-{}", pod.key.name, volume.name),
                _ => continue,
            };
            let Some(claim) = self.claims.find(&pod.key.namespace, &claim) else {
                continue;
            };
            if let Some((driver, handle)) = self.volume_of(&claim) {
                used.insert(format!("{driver}/{handle}"), driver);
            }
        }
        used
    }

    fn volume_of(&self, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
        if let Some(volume) = volume_name(claim).and_then(|name| self.volumes.find("", name)) {
            let csi = volume.spec.as_ref()?.csi.clone()?;
            return Some((csi.driver, csi.volume_handle));
        }
        let class = self.classes.find("", claim_class(claim))?;
        let meta = &claim.metadata;
        let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
        Some((class.provisioner.clone(), format!("{namespace}/{name}")))
    }

    /// How many volumes of each driver a node takes.
    fn limits(&self, node: &str) -> HashMap<String, usize> {
        let Some(found) = self.nodes.find("", node) else {
            return HashMap::new();
        };
        let count = |limit: Option<i32>| usize::try_from(limit?).ok();
        found
            .spec
            .drivers
            .iter()
            .filter_map(|d| Some((d.name.clone(), count(d.allocatable.as_ref()?.count)?)))
            .collect()
    }
}

/// A pod with volumes that may belong to a driver.
fn has_claims(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
}

#[derive(Clone)]
struct Limits {
    plugin: NodeVolumeLimits,
    wanted: HashMap<String, String>,
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        if !has_claims(&pod.pod) {
            return PreFilter::Skip;
        }
        let wanted = self.used(pod);
        if wanted.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Ask(Box::new(Limits {
            plugin: self.clone(),
            wanted,
        }))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::PodDeleted | ClusterEvent::NodeAdded | ClusterEvent::Storage
        )
    }
}

impl Filter for Limits {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let limits = self.plugin.limits(&node.name);
        if limits.is_empty() {
            return Ok(());
        }
        let mut there: HashMap<String, HashSet<String>> = HashMap::new();
        for pod in node.pods.iter().filter(|p| has_claims(&p.pod)) {
            for (handle, driver) in self.plugin.used(pod) {
                there.entry(driver).or_default().insert(handle);
            }
        }
        for (driver, limit) in limits {
            let known = there.get(&driver);
            let new = self
                .wanted
                .iter()
                .filter(|(handle, of)| **of == driver && known.is_none_or(|k| !k.contains(*handle)))
                .count();
            if new > 0 && known.map_or(0, HashSet::len) + new > limit {
                return Err(Rejection::unschedulable("node(s) exceed max volume count"));
            }
        }
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn a_node_takes_so_many_volumes() {
        let claim = |name: &str| {
            let claim = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"volumeName": name}});
            serde_json::from_value(claim).expect("claim")
        };
        let volume = |name: &str| {
            let csi = json!({"driver": "x", "volumeHandle": name});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"csi": csi}})).expect("volume")
        };
        let drivers = json!([{"name": "x", "nodeID": "n", "allocatable": {"count": 1}}]);
        let plugin = NodeVolumeLimits {
            claims: Informer::fixed(["a", "b"].map(claim)),
            volumes: Informer::fixed(["a", "b"].map(volume)),
            classes: Informer::fixed([]),
            nodes: Informer::fixed([serde_json::from_value(
                json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}}),
            )
            .expect("node")]),
        };
        let uses = |name: &str, claim: &str| {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
            pod(name, json!({}), json!({"containers": [], "volumes": volumes}))
        };
        let PreFilter::Ask(filter) = plugin.pre_filter(&uses("p", "a"), &Snapshot::default()) else {
            panic!("asked for each node");
        };
        assert!(filter.filter(&node("n", json!({}), vec![])).is_ok());
        assert!(
            filter.filter(&node("n", json!({}), vec![uses("q", "a")])).is_ok(),
            "the same volume"
        );
        assert!(
            filter
                .filter(&node("n", json!({}), vec![uses("q", "b")]))
                .is_err()
        );
        assert!(
            filter.filter(&node("m", json!({}), vec![uses("q", "b")])).is_ok(),
            "no limit"
        );
    }
}
