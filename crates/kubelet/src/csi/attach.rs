//! Waiting until a volume is attached to this node, for drivers that attach.

use std::collections::HashMap;

use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;
use sha2::{Digest, Sha256};

use super::drivers::{VolumeId, unique_name};
use crate::error::{Error, Result};
use crate::node::context::NodeContext;

/// The name of the attachment of a volume to a node.
pub fn name((driver, handle): &VolumeId, node: &str) -> String {
    let mut hash = Sha256::new();
    for part in [handle, driver, node] {
        hash.update(part.as_bytes());
    }
    format!("csi-{}", hex::encode(hash.finalize()))
}

/// What the cluster knows of a driver; a driver need not say anything.
pub async fn object(node: &NodeContext, driver: &str) -> Result<Option<CSIDriver>> {
    let api: Api<CSIDriver> = Api::all(node.client.clone());
    api.get_opt(driver).await.map_err(|source| Error::Api {
        operation: "failed to get CSIDriver",
        subject: driver.to_owned(),
        source: Box::new(source),
    })
}

/// What attaching gave for the driver. Before it is attached, an error: the pod's worker looks again.
pub async fn context(
    node: &NodeContext,
    object: Option<&CSIDriver>,
    id: &VolumeId,
) -> Result<HashMap<String, String>> {
    let attaches = object.is_none_or(|o| o.spec.attach_required != Some(false));
    if !attaches {
        return Ok(HashMap::new());
    }
    if !reported(node, id) {
        return Err(Error::Pod(
            "Volume has not been added to the list of VolumesInUse in the node's volume status".to_owned(),
        ));
    }
    let name = name(id, &node.settings.node_name);
    let api: Api<VolumeAttachment> = Api::all(node.client.clone());
    let attachment = api.get(&name).await.map_err(|source| Error::Api {
        operation: "failed to get VolumeAttachment",
        subject: name.clone(),
        source: Box::new(source),
    })?;
    let status = attachment.status.unwrap_or_default();
    if let Some(error) = status.attach_error.and_then(|e| e.message) {
        return Err(Error::Pod(error));
    }
    if !status.attached {
        return Err(Error::Pod(format!(
            "volume attachment {name} is not attached yet"
        )));
    }
    Ok(status
        .attachment_metadata
        .unwrap_or_default()
        .into_iter()
        .collect())
}

/// Whether the cluster has been told that the volume is used here: from then on it is not detached.
fn reported(node: &NodeContext, id: &VolumeId) -> bool {
    let unique = unique_name(id);
    let known = node.state.read().node.clone();
    let status = known.as_ref().and_then(|n| n.status.as_ref());
    status.is_some_and(|s| s.volumes_in_use.iter().flatten().any(|v| *v == unique))
}

#[cfg(test)]
mod tests {
    #[test]
    fn attachments_have_upstreams_names() {
        let id = ("driver".to_owned(), "handle".to_owned());
        // sha256 of "handledrivernode".
        let expected =
            "csi-".to_owned() + &hex::encode(<sha2::Sha256 as sha2::Digest>::digest("handledrivernode"));
        assert_eq!(super::name(&id, "node"), expected);
    }
}
