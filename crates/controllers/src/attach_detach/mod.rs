//! The attach/detach controller: volumes that a driver has to attach are attached to the nodes whose pods need them, and
//! detached when none does.
//!
//! ```text
//! pods ─► claims ─► volumes ─► wanted ─┐
//! VolumeAttachments ───────────────────┴─► plan ─► node.status.volumesAttached, then VolumeAttachments
//! ```
//!
//! **Invariant:** a volume is taken out of the node's status before it is detached: what the status shows may be mounted.
//! **Invariant:** what a ready node uses stays. A node that is not ready is waited for six minutes; one that is declared
//! out of service, or is gone, is not waited for.
//! Only CSI volumes are attached; the drivers carry the attachments out.

mod decide;
#[cfg(test)]
mod tests;

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_node};
use client::{Event, Informer, Outcome, Queue};
use compact_str::CompactString;
use decide::{Plan, View, Volume};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

const WORKERS: usize = 10;

/// The pods that need a volume, by its name.
type Users = HashMap<String, Vec<Arc<Pod>>>;

struct Shell {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    pods_by_claim: Index<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    attachments: Informer<VolumeAttachment>,
    attachments_by_node: Index<VolumeAttachment>,
    attachments_by_volume: Index<VolumeAttachment>,
    drivers: Informer<CSIDriver>,
    /// Since when an attachment has been in the way, by node and name.
    unwanted: Mutex<HashMap<String, BTreeMap<String, Timestamp>>>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let pods = context.informer::<Pod>();
    let attachments = context.informer::<VolumeAttachment>();
    let shell = Arc::new(Shell {
        nodes: context.informer(),
        pods_by_node: pods.index("node", by_node),
        pods_by_claim: pods.index("claim", by_claim),
        pods,
        claims: context.informer(),
        volumes: context.informer(),
        attachments_by_node: attachments.index("node", |a, values| {
            values.push(CompactString::from(a.spec.node_name.as_str()));
        }),
        attachments_by_volume: attachments.index("volume", |a, values| {
            values.extend(
                a.spec
                    .source
                    .persistent_volume_name
                    .as_deref()
                    .map(CompactString::from),
            );
        }),
        attachments,
        drivers: context.informer(),
        unwanted: Mutex::default(),
        context: context.clone(),
    });
    let queue = context.queue::<CompactString>("attach_detach");
    subscribe(&shell, &queue);
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.nodes.synced().await;
        ready.pods.synced().await;
        ready.claims.synced().await;
        ready.volumes.synced().await;
        ready.attachments.synced().await;
        ready.drivers.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |node| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&node).await }
        })
        .await;
}

fn by_claim(pod: &Pod, values: &mut Vec<CompactString>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    values.extend(claims_of(pod).map(|claim| compact_str::format_compact!("{namespace}/{claim}")));
}

/// The names of the claims whose volumes a pod uses.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    volumes.into_iter().flatten().filter_map(move |volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        }
    })
}

fn subscribe(shell: &Arc<Shell>, queue: &Queue<CompactString>) {
    let adds = queue.clone();
    shell.nodes.subscribe(move |event| {
        let concerns = match event {
            Event::Updated { old, new } => {
                let of = |n: &Node| {
                    let status = n.status.as_ref();
                    let ready = status.and_then(|s| s.conditions.clone()).map(|mut conditions| {
                        conditions.retain(|c| c.type_ == "Ready");
                        conditions.into_iter().map(|c| c.status).collect::<Vec<_>>()
                    });
                    let taints = n.spec.as_ref().and_then(|s| s.taints.clone());
                    let volumes = status.map(|s| (s.volumes_in_use.clone(), s.volumes_attached.clone()));
                    (ready, taints, volumes, decide::is_managed(n))
                };
                of(old) != of(new)
            }
            _ => true,
        };
        if concerns {
            adds.add(CompactString::from(
                event.object().metadata.name.as_deref().unwrap_or(""),
            ));
        }
    });
    let adds = queue.clone();
    shell.pods.subscribe(move |event| {
        let pod = event.object();
        let node = crate::pods::node_name(pod);
        if !node.is_empty() && claims_of(pod).next().is_some() {
            adds.add(CompactString::from(node));
        }
    });
    let adds = queue.clone();
    let others = shell.attachments_by_volume.clone();
    let (volumes, users) = (shell.volumes.clone(), shell.pods_by_claim.clone());
    let teller = Arc::downgrade(shell);
    shell.attachments.subscribe(move |event| {
        let attachment = event.object();
        if let (Event::Updated { old, new }, Some(shell)) = (event, teller.upgrade()) {
            shell.say_outcome(old, new);
        }
        adds.add(CompactString::from(attachment.spec.node_name.as_str()));
        // Whoever waits for the volume may have it now.
        let Some(volume) = attachment.spec.source.persistent_volume_name.as_deref() else {
            return;
        };
        if matches!(event, Event::Deleted(_)) && others.get(volume).is_empty() {
            let claim = volumes
                .find("", volume)
                .and_then(|v| v.spec.as_ref()?.claim_ref.clone());
            if let Some(claim) = claim {
                add_users(&adds, &users, claim.namespace.as_deref(), claim.name.as_deref());
            }
        }
    });
    let (adds, users) = (queue.clone(), shell.pods_by_claim.clone());
    shell.claims.subscribe(move |event| {
        let meta = &event.object().metadata;
        add_users(&adds, &users, meta.namespace.as_deref(), meta.name.as_deref());
    });
    let (adds, users) = (queue.clone(), shell.pods_by_claim.clone());
    shell.volumes.subscribe(move |event| {
        let claim = event.object().spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        if let Some(claim) = claim {
            add_users(&adds, &users, claim.namespace.as_deref(), claim.name.as_deref());
        }
    });
}

fn add_users(queue: &Queue<CompactString>, users: &Index<Pod>, namespace: Option<&str>, claim: Option<&str>) {
    let key = format!("{}/{}", namespace.unwrap_or(""), claim.unwrap_or(""));
    for pod in users.get(&key) {
        let node = crate::pods::node_name(&pod);
        if !node.is_empty() {
            queue.add(CompactString::from(node));
        }
    }
}

impl Shell {
    async fn reconcile(&self, name: &str) -> Result<Outcome, kube::Error> {
        let node = self.nodes.find("", name);
        if node.as_ref().is_some_and(|node| !decide::is_managed(node)) {
            return Ok(Outcome::Done);
        }
        let now = self.context.now();
        let (wanted, users) = self.wanted(name, node.as_deref());
        let since = self.unwanted.lock().get(name).cloned().unwrap_or_default();
        let plan = decide::plan(
            &View {
                name,
                node: node.as_deref(),
                wanted,
                attachments: self.attachments_of(name),
                unwanted_since: &since,
                elsewhere: &|volume| self.is_elsewhere(volume, name),
            },
            now,
        );
        self.remember(name, &plan, &since, now);
        for volume in &plan.blocked {
            self.say_blocked(volume, name, users.get(&volume.volume));
        }
        let after = plan.after;
        self.carry_out(name, node.as_deref(), plan).await?;
        Ok(after.map_or(Outcome::Done, Outcome::After))
    }

    /// The volumes that the node's pods need attached, and the pods that need them.
    fn wanted(&self, name: &str, node: Option<&Node>) -> (BTreeMap<String, Volume>, Users) {
        let mut wanted = BTreeMap::new();
        let mut users = Users::new();
        let Some(node) = node else {
            return (wanted, users);
        };
        for pod in self.pods_by_node.get(name) {
            if !decide::needs_volumes(&pod, node) {
                continue;
            }
            for volume in self.volumes_of(&pod) {
                users
                    .entry(volume.volume.clone())
                    .or_default()
                    .push(Arc::clone(&pod));
                wanted.insert(volume.volume.clone(), volume);
            }
        }
        (wanted, users)
    }

    /// The volumes of a pod that have to be attached.
    fn volumes_of(&self, pod: &Pod) -> Vec<Volume> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let volumes = claims_of(pod).filter_map(|name| {
            let claim = self.claims.find(namespace, &name)?;
            let volume = claim
                .spec
                .as_ref()?
                .volume_name
                .as_deref()
                .filter(|v| !v.is_empty())?;
            let volume = self.volumes.find("", volume)?;
            let bound = volume.spec.as_ref()?.claim_ref.as_ref()?;
            (bound.uid == claim.metadata.uid)
                .then(|| Volume::of(&volume))
                .flatten()
        });
        volumes
            .filter(|volume| self.is_attachable(volume.driver()))
            .collect()
    }

    fn is_attachable(&self, driver: &str) -> bool {
        let driver = self.drivers.find("", driver);
        driver.is_none_or(|d| d.spec.attach_required != Some(false))
    }

    /// The attachments to a node that were made here; others are somebody else's.
    fn attachments_of(&self, node: &str) -> Vec<(Volume, Arc<VolumeAttachment>)> {
        let attachments = self.attachments_by_node.get(node).into_iter();
        attachments
            .filter_map(|attachment| {
                let volume = attachment.spec.source.persistent_volume_name.as_deref()?;
                let volume = Volume::of(&*self.volumes.find("", volume)?)?;
                let ours = attachment.metadata.name.as_deref() == Some(&volume.attachment_name(node));
                ours.then_some((volume, attachment))
            })
            .collect()
    }

    fn is_elsewhere(&self, volume: &Volume, node: &str) -> bool {
        let attachments = self.attachments_by_volume.get(&volume.volume);
        attachments.iter().any(|a| a.spec.node_name != node)
    }

    fn remember(&self, node: &str, plan: &Plan, since: &BTreeMap<String, Timestamp>, now: Timestamp) {
        let times = plan.unwanted.iter().map(|name| {
            let since = since.get(name).copied().unwrap_or(now);
            (name.clone(), since)
        });
        let times: BTreeMap<_, _> = times.collect();
        let mut unwanted = self.unwanted.lock();
        if times.is_empty() {
            unwanted.remove(node);
        } else {
            unwanted.insert(node.to_owned(), times);
        }
    }

    async fn carry_out(&self, name: &str, node: Option<&Node>, plan: Plan) -> Result<(), kube::Error> {
        let client = &self.context.client;
        if let (Some(attached), Some(node)) = (plan.attached, node) {
            let attached = if attached.is_empty() {
                json!(null)
            } else {
                json!(attached)
            };
            let patch =
                json!({"metadata": {"uid": node.metadata.uid}, "status": {"volumesAttached": attached}});
            let api = Api::<Node>::all(client.clone());
            match api
                .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(written) => self.nodes.written(written),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let api = Api::<VolumeAttachment>::all(client.clone());
        for attachment in plan.detach {
            tracing::debug!(node = name, attachment, "detaching a volume");
            match api.delete(&attachment, &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        for attachment in plan.attach {
            tracing::debug!(node = name, volume = ?attachment.spec.source.persistent_volume_name, "attaching a volume");
            match api.create(&PostParams::default(), &attachment).await {
                Ok(created) => self.attachments.written(created),
                Err(error) if error.is_already_exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn say_blocked(&self, volume: &Volume, node: &str, waiting: Option<&Vec<Arc<Pod>>>) {
        let attached = self.attachments_by_volume.get(&volume.volume);
        let others: Vec<Arc<Pod>> = attached
            .iter()
            .filter(|a| a.spec.node_name != node)
            .flat_map(|a| self.pods_by_node.get(&a.spec.node_name))
            .filter(|pod| self.volumes_of(pod).contains(volume))
            .collect();
        for pod in waiting.into_iter().flatten() {
            let message = format!(
                "Multi-Attach error for volume \"{}\" {}",
                volume.volume,
                in_the_way(pod, &others)
            );
            self.context
                .recorder
                .warning(&reference(&**pod), "FailedAttachVolume", message);
        }
    }

    /// What a driver said of an attachment, told to the pods that wait for it.
    fn say_outcome(&self, old: &VolumeAttachment, new: &VolumeAttachment) {
        let (Some(status), Some(name)) = (&new.status, &new.spec.source.persistent_volume_name) else {
            return;
        };
        let before = old.status.as_ref();
        let newly = status.attached && !before.is_some_and(|s| s.attached);
        let error = status.attach_error.as_ref().filter(|_| !status.attached);
        let error = error.filter(|e| before.and_then(|s| s.attach_error.as_ref()) != Some(*e));
        if !newly && error.is_none() {
            return;
        }
        let pods = self.pods_by_node.get(&new.spec.node_name);
        let uses = |pod: &&Arc<Pod>| self.volumes_of(pod).iter().any(|v| v.volume == *name);
        for pod in pods.iter().filter(uses) {
            let (recorder, about) = (&self.context.recorder, reference(&**pod));
            if let Some(error) = error {
                let why = error.message.as_deref().unwrap_or("");
                let message = format!("AttachVolume.Attach failed for volume \"{name}\" : {why}");
                recorder.warning(&about, "FailedAttachVolume", message);
            } else {
                let message = format!("AttachVolume.Attach succeeded for volume \"{name}\" ");
                recorder.normal(&about, "SuccessfulAttachVolume", message);
            }
        }
    }
}

/// Who has a volume that a pod wants, in words that name no pod of another namespace.
fn in_the_way(pod: &Pod, others: &[Arc<Pod>]) -> String {
    if others.is_empty() {
        return "Volume is already exclusively attached to one node and can't be attached to another"
            .to_owned();
    }
    let (near, far): (Vec<_>, Vec<_>) = others
        .iter()
        .partition(|other| other.metadata.namespace == pod.metadata.namespace);
    let names: Vec<&str> = near.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
    let elsewhere = format!("{} pod(s) in different namespaces", far.len());
    match (names.is_empty(), far.is_empty()) {
        (true, _) => format!("Volume is already used by {elsewhere}"),
        (false, true) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, false) => format!(
            "Volume is already used by pod(s) {} and {elsewhere}",
            names.join(", ")
        ),
    }
}
