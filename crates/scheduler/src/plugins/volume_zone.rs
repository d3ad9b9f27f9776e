//! VolumeZone: a pod goes only to the zone and region that the labels of its bound volumes name.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::storage::{claim_class, volume_name, waits_for_consumer};
use client::{Informer, Informers};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeSet;
use std::sync::Arc;

pub const NAME: &str = "VolumeZone";

/// Labels of topology, and what stood in their place before.
const LABELS: [(&str, &str); 4] = [
    (
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/zone",
    ),
    (
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

pub struct VolumeZone {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

impl VolumeZone {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.get(),
            volumes: informers.get(),
            classes: informers.get(),
        }
    }

    fn topology(&self, namespace: &str, name: &str, into: &mut Vec<Topology>) -> Result<(), Rejection> {
        let Some(claim) = self.claims.find(namespace, name) else {
            return Err(Rejection::unresolvable(format!(
                "persistentvolumeclaim {name:?} not found"
            )));
        };
        let Some(volume) = volume_name(&claim) else {
            let class = self.classes.find("", claim_class(&claim));
            if class.is_some_and(|c| waits_for_consumer(&c)) {
                return Ok(());
            }
            return Err(Rejection::unresolvable(
                "PersistentVolumeClaim had no pv name and storageClass name",
            ));
        };
        let Some(volume) = self.volumes.find("", volume) else {
            return Err(Rejection::unresolvable(format!(
                "persistentvolume {volume:?} not found"
            )));
        };
        let labels = volume.metadata.labels.as_ref();
        for (key, other) in LABELS {
            if let Some(values) = labels.and_then(|l| l.get(key)) {
                into.push(Topology {
                    key,
                    other,
                    values: values.split("__").map(str::to_owned).collect(),
                });
            }
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Topology {
    key: &'static str,
    other: &'static str,
    values: BTreeSet<String>,
}

#[derive(Clone)]
struct Zones(Vec<Topology>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        let mut zones = Vec::new();
        let volumes = pod.spec().volumes.iter().flatten();
        for source in volumes.filter_map(|v| v.persistent_volume_claim.as_ref()) {
            if let Err(rejection) = self.topology(&pod.key.namespace, &source.claim_name, &mut zones) {
                return PreFilter::Reject(rejection);
            }
        }
        if zones.is_empty() {
            PreFilter::Skip
        } else {
            PreFilter::Ask(Box::new(Zones(zones)))
        }
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::Storage | ClusterEvent::NodeAdded | ClusterEvent::NodeLabels
        )
    }
}

impl Filter for Zones {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let label = |t: &Topology| node.label(t.key).or_else(|| node.label(t.other));
        // A node that says nothing of where it is is everywhere.
        let says = LABELS.iter().any(|(key, _)| node.label(key).is_some());
        let fits = |t: &Topology| label(t).is_some_and(|value| t.values.contains(value));
        if says && !self.0.iter().all(fits) {
            return Err(Rejection::unresolvable("node(s) had no available volume zone"));
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
    fn volumes_keep_pods_in_their_zone() {
        let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"volumeName": "v"}});
        let labels = json!({"topology.kubernetes.io/zone": "a__b"});
        let plugin = VolumeZone {
            claims: Informer::fixed([serde_json::from_value(claim).expect("claim")]),
            volumes: Informer::fixed([serde_json::from_value(
                json!({"metadata": {"name": "v", "labels": labels}}),
            )
            .expect("volume")]),
            classes: Informer::fixed([]),
        };
        let volumes = json!([{"name": "x", "persistentVolumeClaim": {"claimName": "c"}}]);
        let pod = pod("p", json!({}), json!({"containers": [], "volumes": volumes}));
        let PreFilter::Ask(filter) = plugin.pre_filter(&pod, &Snapshot::default()) else {
            panic!("asked for each node");
        };
        let zone = |zone: &str| {
            node(
                "n",
                json!({"failure-domain.beta.kubernetes.io/zone": zone}),
                vec![],
            )
        };
        assert!(filter.filter(&zone("b")).is_ok());
        assert!(filter.filter(&zone("c")).is_err());
        assert!(filter.filter(&node("n", json!({}), vec![])).is_ok());
    }
}
