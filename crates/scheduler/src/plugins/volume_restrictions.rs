//! VolumeRestrictions: disks that only one pod of a node may write, and claims that only one pod may use at all.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::{Informer, Informers};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Volume};
use std::sync::Arc;

pub const NAME: &str = "VolumeRestrictions";

pub struct VolumeRestrictions {
    claims: Informer<PersistentVolumeClaim>,
}

impl VolumeRestrictions {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.get(),
        }
    }

    /// The claims of a pod that no other pod may use beside it; the error names one that does not exist.
    fn exclusive(&self, pod: &PodInfo) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for source in claims(pod) {
            let Some(claim) = self.claims.find(&pod.key.namespace, source) else {
                return Err(source.to_owned());
            };
            let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_ref());
            if modes.is_some_and(|m| m.iter().any(|m| m == "ReadWriteOncePod")) {
                names.push(source.to_owned());
            }
        }
        Ok(names)
    }
}

fn claims(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes.filter_map(|v| Some(v.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// Whether two volumes are one disk, and one of them is written.
fn conflicts(a: &Volume, b: &Volume) -> bool {
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        let read_only = a.read_only == Some(true) && b.read_only == Some(true);
        return a.pd_name == b.pd_name && !read_only;
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        let read_only = a.read_only == Some(true) && b.read_only == Some(true);
        return a.iqn == b.iqn && !read_only;
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let read_only = a.read_only == Some(true) && b.read_only == Some(true);
        let shared = a.monitors.iter().any(|m| b.monitors.contains(m));
        let pool = |p: &Option<String>| p.clone().unwrap_or_else(|| "rbd".to_owned());
        return shared && a.image == b.image && pool(&a.pool) == pool(&b.pool) && !read_only;
    }
    false
}

fn is_disk(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
}

#[derive(Clone)]
struct Restrictions {
    pod: Arc<PodInfo>,
    exclusive: Vec<String>,
    /// How often other pods anywhere use the exclusive claims.
    in_use: i64,
}

impl Restrictions {
    fn uses(&self, other: &PodInfo) -> i64 {
        let same = other.key.namespace == self.pod.key.namespace && other.uid() != self.pod.uid();
        let shared = claims(other).any(|c| self.exclusive.iter().any(|e| e == c));
        i64::from(same && shared)
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, snapshot: &Snapshot) -> PreFilter {
        let disks = pod.spec().volumes.iter().flatten().any(is_disk);
        if !disks && claims(pod).next().is_none() {
            return PreFilter::Skip;
        }
        let exclusive = match self.exclusive(pod) {
            Ok(exclusive) => exclusive,
            Err(name) => {
                return PreFilter::Reject(Rejection::unresolvable(format!(
                    "persistentvolumeclaim {name:?} not found"
                )));
            }
        };
        if !disks && exclusive.is_empty() {
            return PreFilter::Skip;
        }
        let mut restrictions = Restrictions {
            pod: Arc::clone(pod),
            exclusive,
            in_use: 0,
        };
        if !restrictions.exclusive.is_empty() {
            let others = snapshot.nodes.iter().flat_map(|n| &n.pods);
            restrictions.in_use = others.map(|p| restrictions.uses(p)).sum();
        }
        PreFilter::Ask(Box::new(restrictions))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::PodDeleted | ClusterEvent::NodeAdded | ClusterEvent::Storage
        )
    }
}

impl Filter for Restrictions {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let mine = self.pod.spec().volumes.iter().flatten().filter(|v| is_disk(v));
        for volume in mine {
            let theirs = node.pods.iter().flat_map(|p| p.spec().volumes.iter().flatten());
            if theirs.into_iter().any(|other| conflicts(volume, other)) {
                return Err(Rejection::unschedulable("node(s) had no available disk"));
            }
        }
        if self.in_use > 0 {
            return Err(Rejection::unschedulable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            ));
        }
        Ok(())
    }

    fn add_pod(&mut self, pod: &PodInfo, _: &NodeInfo) {
        self.in_use += self.uses(pod);
    }

    fn remove_pod(&mut self, pod: &PodInfo, _: &NodeInfo) {
        self.in_use -= self.uses(pod);
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::testing::{node, pod, snapshot};
    use serde_json::json;

    #[test]
    fn one_pod_for_a_claim_and_one_writer_for_a_disk() {
        let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"accessModes": ["ReadWriteOncePod"]}});
        let plugin = VolumeRestrictions {
            claims: Informer::fixed([serde_json::from_value(claim).expect("claim")]),
        };
        let uses = |name: &str, volume: serde_json::Value| {
            pod(name, json!({}), json!({"containers": [], "volumes": [volume]}))
        };
        let exclusive = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let disk = json!({"name": "v", "gcePersistentDisk": {"pdName": "x"}});
        let check = |mine: &serde_json::Value, theirs: &serde_json::Value, expected: bool| {
            let other = uses("other", theirs.clone());
            let cluster = snapshot(vec![node("n", json!({}), vec![Arc::clone(&other)])]);
            let PreFilter::Ask(mut filter) = plugin.pre_filter(&uses("p", mine.clone()), &cluster) else {
                panic!("asked for each node");
            };
            assert_eq!(
                filter.filter(&cluster.nodes[0]).is_ok(),
                expected,
                "{mine} {theirs}"
            );
            filter.remove_pod(&other, &cluster.nodes[0]);
            assert!(filter.filter(&node("n", json!({}), vec![])).is_ok());
        };
        check(&exclusive, &exclusive, false);
        check(&exclusive, &disk, true);
        check(&disk, &disk, false);
    }
}
