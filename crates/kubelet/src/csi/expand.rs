//! Growing a volume's file system on the node, when its persistent volume has grown beyond what the claim shows.
//!
//! Follows upstream's `node_expander.go`.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams};
use plugins::csi;
use serde_json::{Value, json};

use super::mount::{self, Done, Source};
use crate::error::{Error, Result};
use crate::pod::PodExt;
use crate::quantity::value;
use crate::volumes::Request;

/// Conditions that end when the claim shows its new size.
const ENDED: [&str; 5] = [
    "Resizing",
    "FileSystemResizePending",
    "ControllerResizeError",
    "NodeResizeError",
    "ModifyVolumeError",
];

/// Grows the volume if it is due.
pub async fn if_due(
    request: &Request<'_>,
    source: &Source<'_>,
    done: &Done,
    persistent: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Result<()> {
    let capacity = persistent.spec.as_ref().and_then(|s| s.capacity.as_ref());
    let Some(wanted) = capacity.and_then(|c| c.get("storage")) else {
        return Ok(());
    };
    let shown = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    let has = shown.and_then(|c| c.get("storage")).map_or(0, value);
    let able = done.driver.capabilities().await?;
    if value(wanted) <= has || !able.expand || source.read_only {
        return Ok(());
    }
    let (node, pod) = (request.node, request.pod());
    let secrets = mount::secrets(node, source.expand_secret.as_ref(), "NodeExpandSecretRef").await?;
    let asked = csi::NodeExpandVolumeRequest {
        volume_id: source.handle.clone(),
        volume_path: done.mounted.path.to_string_lossy().into_owned(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: value(wanted),
            limit_bytes: 0,
        }),
        staging_target_path: done.staging.clone(),
        volume_capability: Some(source.capability(able, request.fs_group())),
        secrets,
    };
    if let Err(error) = done.driver.expand(asked).await {
        let text = format!(
            "MountVolume.NodeExpandVolume failed for volume {:?} : Expander.NodeExpand failed to expand the volume : {}",
            source.name,
            error.full()
        );
        node.events.pod(pod).warning("VolumeResizeFailed", text.clone());
        return Err(Error::Pod(text));
    }
    let ended: Vec<Value> = claim
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .filter(|c| ENDED.contains(&c.type_.as_str()))
        .map(|c| json!({"type": c.type_, "$patch": "delete"}))
        .collect();
    let patch = json!({"status": {
        "capacity": {"storage": wanted},
        "conditions": ended,
        "allocatedResourceStatuses": null,
    }});
    let name = claim.metadata.name.clone().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(node.client.clone(), pod.namespace());
    api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(|source| Error::Api {
            operation: "telling the new size of PVC",
            subject: format!("{}/{name}", pod.namespace()),
            source: Box::new(source),
        })?;
    let text = format!(
        "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
        source.name, node.settings.node_name
    );
    node.events.pod(pod).normal("FileSystemResizeSuccessful", text);
    Ok(())
}
