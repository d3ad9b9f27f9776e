//! Which volumes a node should have attached, and what follows: a pure function of the node, its pods' volumes and the
//! attachments there are.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const KEEP_TERMINATED: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a node that is not ready may go on holding what it should not.
const UNMOUNT_PATIENCE: SignedDuration = SignedDuration::from_mins(6);

/// A volume that a driver has to attach to a node before pods there can have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) volume: String,
    driver: String,
    handle: String,
    /// It may be attached to one node only.
    exclusive: bool,
}

impl Volume {
    /// A CSI volume; others are attached by nobody.
    pub(super) fn of(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        let modes = spec.access_modes.as_deref().unwrap_or(&[]);
        // Without any access mode nobody can tell, and the driver will.
        let shared = modes.is_empty() || modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany");
        Some(Self {
            volume: volume.metadata.name.clone()?,
            driver: csi.driver.clone(),
            handle: csi.volume_handle.clone(),
            exclusive: !shared,
        })
    }

    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    /// As nodes list it in their status.
    pub(super) fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// The name its attachment to a node has.
    pub(super) fn attachment_name(&self, node: &str) -> String {
        let text = format!("{}{}{node}", self.handle, self.driver);
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        format!("csi-{hex}")
    }

    fn attachment(&self, node: &str) -> VolumeAttachment {
        VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(self.attachment_name(node)),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: self.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(self.volume.clone()),
                    inline_volume_spec: None,
                },
            },
            status: None,
        }
    }
}

/// Whether a pod on this node still needs its volumes attached.
pub(super) fn needs_volumes(pod: &Pod, node: &Node) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("");
    let runs = status.into_iter().any(|status| {
        let all = status.container_statuses.iter().flatten();
        let mut all = all.chain(status.init_container_statuses.iter().flatten());
        all.any(|c| {
            c.state
                .as_ref()
                .is_some_and(|s| s.terminated.is_none() && s.waiting.is_none())
        })
    });
    let ended =
        matches!(phase, "Succeeded" | "Failed") || (pod.metadata.deletion_timestamp.is_some() && !runs);
    !ended || annotated(node, KEEP_TERMINATED)
}

fn annotated(node: &Node, key: &str) -> bool {
    let annotations = node.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(key)).is_some_and(|v| v == "true")
}

/// Whether volumes of this node are attached here, and not by its kubelet.
pub(super) fn is_managed(node: &Node) -> bool {
    annotated(node, MANAGED)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    taints.into_iter().flatten().any(|t| t.key == OUT_OF_SERVICE)
}

/// One node, and what is known of its volumes.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    /// `None` when the node is gone.
    pub(super) node: Option<&'a Node>,
    /// What its pods need, by volume.
    pub(super) wanted: BTreeMap<String, Volume>,
    /// Attachments to this node that were made here.
    pub(super) attachments: Vec<(Volume, Arc<VolumeAttachment>)>,
    /// Since when an attachment has been in the way, by its name.
    pub(super) unwanted_since: &'a BTreeMap<String, Timestamp>,
    /// Whether another node has the volume attached.
    pub(super) elsewhere: &'a dyn Fn(&Volume) -> bool,
}

/// What to do for a node.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What its status says of attached volumes, if that is not so yet.
    pub(super) attached: Option<Vec<AttachedVolume>>,
    pub(super) attach: Vec<VolumeAttachment>,
    /// Names of attachments to take away, once the status says so.
    pub(super) detach: Vec<String>,
    /// Wanted, but another node has it.
    pub(super) blocked: Vec<Volume>,
    /// All attachments that are in the way, also those that stay for now.
    pub(super) unwanted: BTreeSet<String>,
    /// When to look again if nothing happens.
    pub(super) after: Option<Duration>,
}

pub(super) fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let in_use: BTreeSet<&str> = view
        .node
        .and_then(|n| n.status.as_ref()?.volumes_in_use.as_ref())
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let mut attached: BTreeSet<String> = BTreeSet::new();
    for (volume, attachment) in &view.attachments {
        let name = attachment.metadata.name.clone().unwrap_or_default();
        let leaving = attachment.metadata.deletion_timestamp.is_some();
        let unique = volume.unique_name();
        let is_attached = attachment.status.as_ref().is_some_and(|s| s.attached);
        if view.wanted.contains_key(&volume.volume) {
            if is_attached && !leaving {
                attached.insert(unique);
            }
            continue;
        }
        plan.unwanted.insert(name.clone());
        if leaving {
            continue;
        }
        match holds(view, &name, in_use.contains(unique.as_str()), now) {
            Holds::No => plan.detach.push(name),
            Holds::Yes(after) => {
                if is_attached {
                    attached.insert(unique);
                }
                plan.after = plan.after.into_iter().chain(after).min();
            }
        }
    }
    for volume in view.wanted.values() {
        let name = volume.attachment_name(view.name);
        let known = view
            .attachments
            .iter()
            .any(|(_, a)| a.metadata.name.as_ref() == Some(&name));
        if known {
            continue;
        }
        if volume.exclusive && (view.elsewhere)(volume) {
            plan.blocked.push(volume.clone());
        } else {
            plan.attach.push(volume.attachment(view.name));
        }
    }
    plan.attached = view.node.and_then(|node| status(node, &attached));
    plan
}

enum Holds {
    /// For so long, if the node is not ready.
    Yes(Option<Duration>),
    No,
}

/// Whether an attachment in the way has to stay, because the node may still use the volume.
fn holds(view: &View<'_>, name: &str, in_use: bool, now: Timestamp) -> Holds {
    let Some(node) = view.node.filter(|_| in_use) else {
        return Holds::No;
    };
    if is_out_of_service(node) {
        return Holds::No;
    }
    if is_ready(node) {
        return Holds::Yes(None);
    }
    let since = view.unwanted_since.get(name).copied().unwrap_or(now);
    let left = UNMOUNT_PATIENCE - now.duration_since(since);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Holds::Yes(Some(left)),
        _ => Holds::No,
    }
}

/// The list as the node should show it; volumes of other kinds are left as they are.
fn status(node: &Node, attached: &BTreeSet<String>) -> Option<Vec<AttachedVolume>> {
    let present = node
        .status
        .as_ref()
        .and_then(|s| s.volumes_attached.clone())
        .unwrap_or_default();
    let ours = |volume: &AttachedVolume| volume.name.starts_with("kubernetes.io/csi/");
    let mut wanted: Vec<AttachedVolume> = present
        .iter()
        .filter(|v| !ours(v) || attached.contains(&v.name))
        .cloned()
        .collect();
    for name in attached {
        if !wanted.iter().any(|v| v.name == *name) {
            wanted.push(AttachedVolume {
                name: name.clone(),
                device_path: String::new(),
            });
        }
    }
    (wanted != present).then_some(wanted)
}
