//! VolumeBinding: a pod waits for its claims, and goes where its bound volumes can be reached.
//!
//! Not here yet: binding claims of storage classes with `WaitForFirstConsumer` as part of scheduling; such an
//! unbound claim keeps the pod waiting.

use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::node_selector::selector_matches;
use client::{Informer, Informers};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;

pub const NAME: &str = "VolumeBinding";

pub struct VolumeBinding {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

impl VolumeBinding {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.get(),
            volumes: informers.get(),
            classes: informers.get(),
        }
    }

    fn waits_for_consumer(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = claim
            .spec
            .as_ref()
            .and_then(|s| s.storage_class_name.as_deref())
            .unwrap_or("");
        let class = self.classes.find("", class);
        class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }
}

#[derive(Clone)]
struct Volumes {
    bound: Vec<Arc<PersistentVolume>>,
    unbound: bool,
}

/// The names of the claims a pod uses, also those made for it.
fn claim_names(pod: &PodInfo) -> Vec<(String, bool)> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some((claim.claim_name.clone(), false)),
            (None, Some(_)) => Some((format!("{}-{}", pod.key.name, v.name), true)),
            _ => None,
        })
        .collect()
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        let names = claim_names(pod);
        if names.is_empty() {
            return PreFilter::Skip;
        }
        let mut volumes = Volumes {
            bound: Vec::new(),
            unbound: false,
        };
        for (name, ephemeral) in names {
            let reject = |reason: String| PreFilter::Reject(Rejection::unresolvable(reason));
            let Some(claim) = self.claims.find(&pod.key.namespace, &name) else {
                return reject(if ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
                let volume = claim
                    .spec
                    .as_ref()
                    .and_then(|s| s.volume_name.as_deref())
                    .unwrap_or("");
                return reject(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return reject(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let volume = claim
                .spec
                .as_ref()
                .and_then(|s| s.volume_name.as_deref())
                .filter(|v| !v.is_empty());
            match volume {
                Some(volume) => match self.volumes.find("", volume) {
                    Some(volume) => volumes.bound.push(volume),
                    None => {
                        return reject(
                            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
                                .into(),
                        );
                    }
                },
                None if self.waits_for_consumer(&claim) => volumes.unbound = true,
                None => return reject("pod has unbound immediate PersistentVolumeClaims".into()),
            }
        }
        PreFilter::Ask(Box::new(volumes))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::Storage | ClusterEvent::NodeAdded | ClusterEvent::NodeLabels
        )
    }
}

impl Filter for Volumes {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let reachable = |volume: &Arc<PersistentVolume>| {
            let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
            let required = affinity.and_then(|a| a.required.as_ref());
            required.is_none_or(|selector| selector_matches(selector, node.subject()))
        };
        if !self.bound.iter().all(reachable) {
            return Err(Rejection::unresolvable(
                "node(s) didn't match PersistentVolume's node affinity",
            ));
        }
        if self.unbound {
            return Err(Rejection::unresolvable(
                "node(s) didn't find available persistent volumes to bind",
            ));
        }
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}
