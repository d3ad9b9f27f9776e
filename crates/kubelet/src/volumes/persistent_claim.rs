//! Volumes of a claim (`persistentVolumeClaim`, and `ephemeral`, whose claim carries the pod's name): the claim
//! leads to its persistent volume, and that to a place of the node or an export.
//!
//! Of persistent volumes `csi`, `hostPath`, `local` and `nfs` are mounted; another source is an error of the pod,
//! told in an event. Follows upstream's `desired_state_of_world_populator.go` in what makes a claim usable.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, Volume,
};
use kube::Api;

use super::{Mounted, Request, VolumePlugin, host_path, nfs, ownership};
use crate::csi::{self, mount::Source};
use crate::error::{Error, Result};
use crate::pod::PodExt;
use crate::pods::admission;

pub struct PersistentClaimPlugin;

#[async_trait]
impl VolumePlugin for PersistentClaimPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/persistent-claim"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    /// Drivers may want to publish again, and volumes grow.
    fn is_live(&self) -> bool {
        true
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        if let Some(before) = request.before.filter(|_| csi::mount::stands(request)) {
            return Ok(before.clone());
        }
        let volume = request.volume;
        let (name, read_only) = match &volume.persistent_volume_claim {
            Some(source) => (source.claim_name.clone(), source.read_only.unwrap_or(false)),
            None => (format!("{}-{}", request.pod().name(), volume.name), false),
        };
        let claim = claim(request, &name).await?;
        let persistent = persistent_volume(request, &claim).await?;
        let spec = persistent.spec.clone().unwrap_or_default();
        let name = persistent.metadata.name.clone().unwrap_or_default();
        on_this_node(request, &spec)?;
        if let Some(csi) = &spec.csi {
            let source = Source {
                read_only: read_only || csi.read_only.unwrap_or(false),
                ..of_driver(&name, &spec, csi)
            };
            let done = csi::mount::mount(request, &source).await?;
            csi::expand::if_due(request, &source, &done, &persistent, &claim).await?;
            return Ok(done.mounted);
        }
        let mut mounted = mount(request, &name, &spec).await?;
        mounted.read_only |= read_only;
        if let Some(group) = request.fs_group()
            && !mounted.read_only
            && spec.local.is_some()
        {
            give(request, &mounted.path, group)?;
        }
        Ok(mounted)
    }
}

async fn claim(request: &Request<'_>, name: &str) -> Result<PersistentVolumeClaim> {
    let namespace = request.pod().namespace();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(request.node.client.clone(), namespace);
    let failed = |source| Error::Api {
        operation: "failed to fetch PVC from API server",
        subject: format!("{namespace}/{name}"),
        source: Box::new(source),
    };
    let claim = api.get(name).await.map_err(failed)?;
    let refuse = |why: &str| Err(Error::Pod(format!("PVC {namespace}/{name} {why}")));
    if claim.metadata.deletion_timestamp.is_some() {
        return refuse("is being deleted");
    }
    if request.volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
        let ours = |o: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
            o.uid == request.pod().uid() && o.controller == Some(true)
        };
        if !owners.iter().any(|o| ours(&o)) {
            return refuse(&format!(
                "was not created for pod {} (pod is not owner)",
                request.pod().name()
            ));
        }
    }
    let phase = claim
        .status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default();
    let volume = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_name.as_deref())
        .unwrap_or_default();
    if phase != "Bound" || volume.is_empty() {
        return refuse(&format!(
            "has non-bound phase ({phase:?}) or empty pvc.Spec.VolumeName ({volume:?})"
        ));
    }
    Ok(claim)
}

async fn persistent_volume(request: &Request<'_>, claim: &PersistentVolumeClaim) -> Result<PersistentVolume> {
    let name = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_name.as_deref())
        .unwrap_or_default();
    let api: Api<PersistentVolume> = Api::all(request.node.client.clone());
    let persistent = api.get(name).await.map_err(|source| Error::Api {
        operation: "failed to fetch PV from API server",
        subject: name.to_owned(),
        source: Box::new(source),
    })?;
    let bound_to = persistent
        .spec
        .as_ref()
        .and_then(|s| s.claim_ref.as_ref())
        .and_then(|r| r.uid.as_deref());
    if bound_to != claim.metadata.uid.as_deref() {
        return Err(Error::Pod(format!(
            "found PV object {name:?} with different claim UID, expected {:?}",
            claim.metadata.uid.as_deref().unwrap_or_default()
        )));
    }
    Ok(persistent)
}

/// A volume may be tied to nodes.
fn on_this_node(request: &Request<'_>, spec: &PersistentVolumeSpec) -> Result<()> {
    let required = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    let Some(selector) = required else { return Ok(()) };
    let node = request.node.state.read().node.clone();
    let labels: BTreeMap<String, String> = node
        .and_then(|n| n.metadata.labels.clone())
        .unwrap_or_else(|| request.node.settings.labels.clone());
    let name = &request.node.settings.node_name;
    let fits = |term: &NodeSelectorTerm| admission::matches_term(term, &labels, name);
    if selector.node_selector_terms.iter().any(fits) {
        return Ok(());
    }
    Err(Error::Pod(
        "MountVolume.NodeAffinity check failed: no matching NodeSelectorTerms".to_owned(),
    ))
}

async fn mount(request: &Request<'_>, name: &str, spec: &PersistentVolumeSpec) -> Result<Mounted> {
    if is_block(spec) {
        return Err(Error::Pod(format!(
            "volume {} has volumeMode Block, but is specified in volumeMounts",
            request.volume.name
        )));
    }
    let at = |path: &str| Mounted {
        path: Path::new(path).to_owned(),
        ..Mounted::default()
    };
    if let Some(source) = &spec.host_path {
        host_path::check(
            Path::new(&source.path),
            source.type_.as_deref().unwrap_or_default(),
        )?;
        return Ok(at(&source.path));
    }
    if let Some(source) = &spec.local {
        let path = Path::new(&source.path);
        // The volume is what a link leads to: its group, not the link's, is changed.
        let metadata = std::fs::metadata(path).map_err(|_| {
            Error::Pod(format!(
                "MountVolume.NewMounter initialization failed for volume {name:?} : path {:?} does not exist",
                source.path
            ))
        })?;
        if !metadata.is_dir() {
            return Err(Error::Pod(format!(
                "only a directory can back a local volume here, {:?} is none",
                source.path
            )));
        }
        let path = path.canonicalize().map_err(Error::file("look at", path))?;
        return Ok(Mounted {
            path,
            ..Mounted::default()
        });
    }
    if let Some(source) = &spec.nfs {
        let export = nfs::Export {
            server: &source.server,
            path: &source.path,
            read_only: source.read_only.unwrap_or(false),
            options: spec.mount_options.as_deref().unwrap_or_default(),
        };
        return nfs::mount(request.node, &export, &request.dir).await;
    }
    Err(Error::Pod(format!(
        "no volume plugin matched name of persistent volume {name:?}"
    )))
}

fn of_driver<'a>(
    name: &'a str,
    spec: &'a PersistentVolumeSpec,
    csi: &'a CSIPersistentVolumeSource,
) -> Source<'a> {
    Source {
        name,
        driver: &csi.driver,
        handle: csi.volume_handle.clone(),
        persistent: true,
        block: is_block(spec),
        fs_type: csi.fs_type.as_deref().unwrap_or_default(),
        attributes: csi
            .volume_attributes
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        access_modes: spec.access_modes.as_deref().unwrap_or_default(),
        mount_options: spec.mount_options.as_deref().unwrap_or_default(),
        publish_secret: csi.node_publish_secret_ref.clone(),
        stage_secret: csi.node_stage_secret_ref.clone(),
        expand_secret: csi.node_expand_secret_ref.clone(),
        ..Source::default()
    }
}

fn is_block(spec: &PersistentVolumeSpec) -> bool {
    spec.volume_mode.as_deref() == Some("Block")
}

/// The volume becomes the pod's group's, as far as its policy asks.
fn give(request: &Request<'_>, path: &Path, group: u32) -> Result<()> {
    let context = request.pod().spec().security_context.as_ref();
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    let matches = ownership::root_matches(path, group, false).map_err(Error::file("look at", path))?;
    if matches && policy == Some("OnRootMismatch") {
        return Ok(());
    }
    ownership::set(path, group, false).map_err(Error::file("change the group of", path))
}
