//! What the cluster is told of this node's drivers: the CSINode object, topology labels, the node-ID annotation.
//!
//! Follows upstream's `nodeinfomanager`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use plugins::csi::NodeGetInfoResponse;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::node::context::NodeContext;

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// Volume types of old whose volumes are CSI drivers' now.
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";
/// How often a write that lost against another one is tried.
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_millis(140);

/// Makes the CSINode, if it is not there as it should be. Called when the node is registered.
pub async fn ensure(node: &NodeContext) -> Result<()> {
    change(node, |_| false).await
}

/// Tells of a driver.
pub async fn install(node: &NodeContext, driver: &str, info: &NodeGetInfoResponse) -> Result<()> {
    if info.node_id.is_empty() {
        return Err(Error::Pod(
            "error adding CSI driver node info: driverNodeID must not be empty".to_owned(),
        ));
    }
    let topology: BTreeMap<String, String> = info
        .accessible_topology
        .as_ref()
        .map(|t| t.segments.clone().into_iter().collect())
        .unwrap_or_default();
    label(node, driver, Some(&info.node_id), &topology).await?;
    let wanted = CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: (!topology.is_empty()).then(|| topology.keys().cloned().collect()),
        allocatable: (info.max_volumes_per_node > 0).then(|| VolumeNodeResources {
            count: Some(i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX)),
        }),
    };
    change(node, |spec| {
        let same = |d: &CSINodeDriver| *d == wanted;
        if spec.drivers.iter().any(same) {
            return false;
        }
        spec.drivers.retain(|d| d.name != wanted.name);
        spec.drivers.push(wanted.clone());
        true
    })
    .await
}

/// Tells that a driver is gone.
pub async fn uninstall(node: &NodeContext, driver: &str) -> Result<()> {
    change(node, |spec| {
        let before = spec.drivers.len();
        spec.drivers.retain(|d| d.name != driver);
        spec.drivers.len() != before
    })
    .await?;
    label(node, driver, None, &BTreeMap::new()).await
}

fn failed(operation: &'static str, node: &NodeContext) -> impl FnOnce(kube::Error) -> Error {
    let subject = node.settings.node_name.clone();
    move |source| Error::Api {
        operation,
        subject,
        source: Box::new(source),
    }
}

/// Brings the CSINode to be as wanted; `edit` says whether it changed anything.
async fn change(node: &NodeContext, edit: impl Fn(&mut CSINodeSpec) -> bool) -> Result<()> {
    let _alone = node.csi.writing.lock().await;
    let api: Api<CSINode> = Api::all(node.client.clone());
    let name = &node.settings.node_name;
    let mut tries = 0;
    loop {
        tries += 1;
        let last = tries >= TRIES;
        let uid = own_uid(node).await?;
        let found = api.get_opt(name).await.map_err(failed("reading CSINode", node))?;
        let written = match found {
            None => {
                let mut fresh = new(name, &uid);
                edit(&mut fresh.spec);
                api.create(&PostParams::default(), &fresh).await.map(drop)
            }
            Some(found) if !is_owned(&found, &uid) => {
                // Another node of this name had it.
                api.delete(name, &DeleteParams::default())
                    .await
                    .map_err(failed("removing the CSINode of an earlier node", node))?;
                tries -= usize::from(!last);
                continue;
            }
            Some(mut found) => {
                let annotations = found.metadata.annotations.get_or_insert_default();
                let annotated = annotations
                    .insert(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned())
                    .as_deref()
                    == Some(MIGRATED_PLUGINS);
                if !edit(&mut found.spec) && annotated {
                    return Ok(());
                }
                api.replace(name, &PostParams::default(), &found).await.map(drop)
            }
        };
        match written {
            Ok(()) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 && !last => {}
            Err(error) => return Err(failed("writing CSINode", node)(error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn own_uid(node: &NodeContext) -> Result<String> {
    let known = node.state.read().node.clone();
    if let Some(uid) = known.and_then(|n| n.metadata.uid.clone()) {
        return Ok(uid);
    }
    let api: Api<Node> = Api::all(node.client.clone());
    let found = api
        .get(&node.settings.node_name)
        .await
        .map_err(failed("reading node", node))?;
    Ok(found.metadata.uid.unwrap_or_default())
}

fn is_owned(found: &CSINode, uid: &str) -> bool {
    let owners = found.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|o| o.kind == "Node" && o.uid == uid)
}

fn new(name: &str, uid: &str) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(
                MIGRATED.to_owned(),
                MIGRATED_PLUGINS.to_owned(),
            )])),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.to_owned(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec::default(),
    }
}

/// The annotation that maps drivers to their names of this node, and the labels of a driver's topology.
async fn label(
    node: &NodeContext,
    driver: &str,
    id: Option<&str>,
    topology: &BTreeMap<String, String>,
) -> Result<()> {
    let api: Api<Node> = Api::all(node.client.clone());
    let name = &node.settings.node_name;
    let known = api.get(name).await.map_err(failed("reading node", node))?;
    let labels = known.metadata.labels.clone().unwrap_or_default();
    if let Some((key, value)) = topology
        .iter()
        .find(|(key, value)| labels.get(*key).is_some_and(|have| have != *value))
    {
        return Err(Error::Pod(format!(
            "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{:?}",
            labels[key]
        )));
    }
    let annotation = known.metadata.annotations.as_ref().and_then(|a| a.get(NODE_ID));
    let mut ids: BTreeMap<String, String> = annotation
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let before = ids.clone();
    match id {
        Some(id) => drop(ids.insert(driver.to_owned(), id.to_owned())),
        None => drop(ids.remove(driver)),
    }
    let missing: BTreeMap<&String, &String> = topology
        .iter()
        .filter(|(key, _)| !labels.contains_key(*key))
        .collect();
    if ids == before && missing.is_empty() {
        return Ok(());
    }
    let value = match ids.is_empty() {
        true => Value::Null,
        false => Value::String(json!(ids).to_string()),
    };
    let patch = json!({"metadata": {"annotations": {NODE_ID: value}, "labels": missing}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(failed("labelling node", node))
}
