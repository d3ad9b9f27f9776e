//! VolumeBinding: a pod waits for its claims, and goes where its bound volumes can be reached and its unbound ones can
//! be had.
//!
//! Claims of a class that waits for its first consumer are bound here: a volume that suits is promised to the claim, or
//! the node is written on the claim for an external provisioner, and the pod is bound when all claims are.
//!
//! **Invariant:** a volume is promised to one claim at a time, from the decision until the API shows it.

use crate::framework::{ClusterEvent, Filter, Plugin, PreBind, PreFilter, Rejection, Verdict};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::node_selector::term_matches;
use client::storage::{
    NO_PROVISIONER, SELECTED_NODE, annotation, best_match, bound_volume, claim_class, is_bound_to,
    is_fully_bound, reachable, requested, volume_name, waits_for_consumer,
};
use client::{Informer, Informers, ObjectKey};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity, StorageClass};
use kube::api::{Api, Patch, PatchParams, PostParams};
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub const NAME: &str = "VolumeBinding";

/// So long claims may take to be bound, as upstream's `bindTimeoutSeconds`.
const BIND_WITHIN: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub struct VolumeBinding {
    stores: Stores,
    client: kube::Client,
    /// Volumes promised to claims.
    promised: Arc<Mutex<HashMap<String, ObjectKey>>>,
    /// Changes with every change of a claim.
    changes: watch::Receiver<u64>,
}

#[derive(Clone)]
struct Stores {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    drivers: Informer<CSIDriver>,
    capacities: Informer<CSIStorageCapacity>,
}

impl VolumeBinding {
    pub fn new(informers: &Informers, client: kube::Client) -> Self {
        let (changed, changes) = watch::channel(0u64);
        let claims = informers.get::<PersistentVolumeClaim>();
        claims.subscribe(move |_| changed.send_modify(|count| *count += 1));
        Self {
            stores: Stores {
                claims,
                volumes: informers.get(),
                classes: informers.get(),
                drivers: informers.get(),
                capacities: informers.get(),
            },
            client,
            promised: Arc::default(),
            changes,
        }
    }
}

/// A pod's claims, looked at once for all nodes.
#[derive(Clone)]
struct Volumes {
    stores: Stores,
    promised: Arc<Mutex<HashMap<String, ObjectKey>>>,
    bound: Vec<Arc<PersistentVolume>>,
    unbound: Vec<Arc<PersistentVolumeClaim>>,
}

/// How one claim gets its volume.
enum Way {
    Volume(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>),
    Provisioner(Arc<PersistentVolumeClaim>),
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

impl VolumeBinding {
    fn volumes(&self, pod: &PodInfo) -> Result<Volumes, String> {
        let mut volumes = Volumes {
            stores: self.stores.clone(),
            promised: Arc::clone(&self.promised),
            bound: Vec::new(),
            unbound: Vec::new(),
        };
        for (name, ephemeral) in claim_names(pod) {
            let Some(claim) = self.stores.claims.find(&pod.key.namespace, &name) else {
                return Err(if ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
                let volume = volume_name(&claim).unwrap_or("");
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let class = self.stores.classes.find("", claim_class(&claim));
            match volume_name(&claim) {
                Some(volume) if is_fully_bound(&claim) => match self.stores.volumes.find("", volume) {
                    Some(volume) => volumes.bound.push(volume),
                    None => {
                        let reason =
                            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
                        return Err(reason.to_owned());
                    }
                },
                None if class.is_some_and(|c| waits_for_consumer(&c)) => volumes.unbound.push(claim),
                _ => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
            }
        }
        Ok(volumes)
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        match self.volumes(pod) {
            Ok(volumes) if volumes.bound.is_empty() && volumes.unbound.is_empty() => PreFilter::Skip,
            Ok(volumes) => PreFilter::Ask(Box::new(volumes)),
            Err(reason) => PreFilter::Reject(Rejection::unresolvable(reason)),
        }
    }

    fn reserve(&self, pod: &Arc<PodInfo>, node: &NodeInfo) -> Result<Option<Box<dyn PreBind>>, Rejection> {
        if claim_names(pod).is_empty() {
            return Ok(None);
        }
        let volumes = self.volumes(pod).map_err(Rejection::unresolvable)?;
        if volumes.unbound.is_empty() {
            return Ok(None);
        }
        let ways = volumes.ways(node)?;
        let mut promised = self.promised.lock();
        for way in &ways {
            if let Way::Volume(volume, claim) = way {
                promised.insert(name_of(volume), ObjectKey::of(&**claim));
            }
        }
        drop(promised);
        Ok(Some(Box::new(Binding {
            plugin: self.clone(),
            node: node.name.to_string(),
            ways,
        })))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::Storage | ClusterEvent::NodeAdded | ClusterEvent::NodeLabels
        )
    }
}

fn name_of(volume: &PersistentVolume) -> String {
    volume.metadata.name.clone().unwrap_or_default()
}

impl Volumes {
    /// How each unbound claim would get its volume on this node.
    fn ways(&self, node: &NodeInfo) -> Result<Vec<Way>, Rejection> {
        let refused = || Rejection::unresolvable("node(s) didn't find available persistent volumes to bind");
        let all = self.stores.volumes.list();
        let promised = self.promised.lock();
        let mut taken: Vec<String> = Vec::new();
        let mut ways = Vec::with_capacity(self.unbound.len());
        // The smallest first: it could take what only a larger one needs.
        let mut claims = self.unbound.clone();
        claims.sort_by_key(|c| requested(c));
        for claim in claims {
            let key = ObjectKey::of(&*claim);
            let is_taken =
                |name: &str| taken.iter().any(|t| t == name) || promised.get(name).is_some_and(|k| *k != key);
            let selected = annotation(&claim.metadata, SELECTED_NODE);
            if selected.is_none()
                && let Some(volume) = best_match(&claim, &all, Some(node.subject()), true, &is_taken)
            {
                taken.push(name_of(volume));
                ways.push(Way::Volume(Arc::clone(volume), claim));
                continue;
            }
            if selected.is_some_and(|name| name != &*node.name) {
                return Err(refused());
            }
            let class = self.stores.classes.find("", claim_class(&claim));
            let Some(class) = class.filter(|c| !c.provisioner.is_empty() && c.provisioner != NO_PROVISIONER)
            else {
                return Err(refused());
            };
            if !topology_allows(&class, node) {
                return Err(refused());
            }
            if !self.has_room(&class, requested(&claim), node) {
                return Err(Rejection::unresolvable(
                    "node(s) did not have enough free storage",
                ));
            }
            ways.push(Way::Provisioner(claim));
        }
        Ok(ways)
    }

    /// Whether the driver, if it says how much room it has, has enough where the node is.
    fn has_room(&self, class: &StorageClass, size: Quantity, node: &NodeInfo) -> bool {
        let driver = self.stores.drivers.find("", &class.provisioner);
        if driver.is_none_or(|d| d.spec.storage_capacity != Some(true)) {
            return true;
        }
        let class_name = class.metadata.name.as_deref().unwrap_or("");
        self.stores.capacities.list().iter().any(|capacity| {
            let limit = capacity
                .maximum_volume_size
                .as_ref()
                .or(capacity.capacity.as_ref());
            let enough = limit
                .and_then(|l| l.0.parse::<Quantity>().ok())
                .is_some_and(|l| l >= size);
            let near = client::labels::Matcher::of(capacity.node_topology.as_ref());
            capacity.storage_class_name == class_name && enough && near.matches(node.labels())
        })
    }
}

fn topology_allows(class: &StorageClass, node: &NodeInfo) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|t| !t.is_empty()) else {
        return true;
    };
    terms.iter().any(|term| {
        let expressions = term.match_label_expressions.iter().flatten();
        let term = NodeSelectorTerm {
            match_expressions: Some(
                expressions
                    .map(|e| NodeSelectorRequirement {
                        key: e.key.clone(),
                        operator: "In".to_owned(),
                        values: Some(e.values.clone()),
                    })
                    .collect(),
            ),
            match_fields: None,
        };
        term_matches(&term, node.subject())
    })
}

impl Filter for Volumes {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if !self.bound.iter().all(|v| reachable(v, node.subject())) {
            return Err(Rejection::unresolvable(
                "node(s) didn't match PersistentVolume's node affinity",
            ));
        }
        if self.unbound.is_empty() {
            return Ok(());
        }
        self.ways(node).map(|_| ())
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

/// What has to be written, and waited for, before the pod is bound. The promises end with it.
struct Binding {
    plugin: VolumeBinding,
    node: String,
    ways: Vec<Way>,
}

impl Drop for Binding {
    fn drop(&mut self) {
        let mut promised = self.plugin.promised.lock();
        for way in &self.ways {
            if let Way::Volume(volume, _) = way {
                promised.remove(&name_of(volume));
            }
        }
    }
}

impl PreBind for Binding {
    fn pre_bind(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            for way in &self.ways {
                self.write(way).await.map_err(|error| error.to_string())?;
            }
            let mut changes = self.plugin.changes.clone();
            let bound = async {
                loop {
                    changes.borrow_and_update();
                    if self.is_done()? {
                        return Ok(());
                    }
                    if changes.changed().await.is_err() {
                        return Err("the scheduler is stopping".to_owned());
                    }
                }
            };
            match tokio::time::timeout(BIND_WITHIN, bound).await {
                Ok(done) => done,
                Err(_) => Err("binding volumes: context deadline exceeded".to_owned()),
            }
        })
    }
}

impl Binding {
    async fn write(&self, way: &Way) -> Result<(), kube::Error> {
        match way {
            Way::Volume(volume, claim) => {
                if let Some(bound) = bound_volume(volume, claim) {
                    let api = Api::<PersistentVolume>::all(self.plugin.client.clone());
                    let written = api
                        .replace(&name_of(volume), &PostParams::default(), &bound)
                        .await?;
                    self.plugin.stores.volumes.written(written);
                }
            }
            Way::Provisioner(claim) => {
                let key = ObjectKey::of(&**claim);
                let api =
                    Api::<PersistentVolumeClaim>::namespaced(self.plugin.client.clone(), &key.namespace);
                let patch = json!({"metadata": {"uid": claim.metadata.uid, "annotations": {SELECTED_NODE: self.node}}});
                let written = api
                    .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
                self.plugin.stores.claims.written(written);
            }
        }
        Ok(())
    }

    /// Whether every claim is bound; the error says why one never will be like this.
    fn is_done(&self) -> Result<bool, String> {
        for way in &self.ways {
            let (Way::Volume(_, claim) | Way::Provisioner(claim)) = way;
            let key = ObjectKey::of(&**claim);
            let current = self
                .plugin
                .stores
                .claims
                .get(&key)
                .filter(|c| c.metadata.uid == claim.metadata.uid);
            let Some(current) = current else {
                return Err(format!("pvc {key:?} was deleted"));
            };
            if is_fully_bound(&current) {
                continue;
            }
            match way {
                Way::Provisioner(_)
                    if annotation(&current.metadata, SELECTED_NODE) != Some(self.node.as_str()) =>
                {
                    return Err(format!("provisioning failed for PVC {:?}", key.name));
                }
                Way::Volume(volume, _) => {
                    let volume = self.plugin.stores.volumes.find("", &name_of(volume));
                    if volume.is_none_or(|v| !is_bound_to(&v, claim)) {
                        return Err(format!("pv of pvc {:?} is not bound to it any more", key.name));
                    }
                }
                Way::Provisioner(_) => {}
            }
            return Ok(false);
        }
        Ok(true)
    }
}
