//! The volumes of one pod: set up before containers, kept up to date, taken down at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use linux::mount::{Mount, unmount_under};

use super::atomic::{self, Payload};
use super::{Mounted, References, Request, VolumePlugin, all, subpath};
use crate::csi::{records, release};
use crate::downward::PodFacts;
use crate::env::{self, EnvVar};
use crate::error::{Error, Result};
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::pods::orphans::blocking;
use crate::runtime::config::propagation;

/// What this process knows to be set up.
#[derive(Debug, Default)]
pub struct PodVolumes {
    mounted: HashMap<String, Mounted>,
}

/// A volume that could not be set up.
#[derive(Debug)]
pub struct Failure {
    pub volume: String,
    pub error: Error,
}

/// Where a projected volume's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    Disk,
    Memory,
}

impl PodVolumes {
    /// Sets up what is missing, and brings live volumes up to date. All are tried; the failures come back.
    pub async fn set_up(&mut self, node: &NodeContext, facts: &PodFacts<'_>) -> Vec<Failure> {
        let mut failures = Vec::new();
        for volume in facts.pod.spec().volumes.iter().flatten() {
            let Some(plugin) = plugin_of(volume) else {
                // Image volumes are the runtime's; it mounts them itself.
                if volume.image.is_none() {
                    let error = Error::Pod("no volume plugin matched".to_owned());
                    failures.push(Failure {
                        volume: volume.name.clone(),
                        error,
                    });
                }
                continue;
            };
            let before = self.mounted.get(&volume.name);
            if before.is_some() && !plugin.is_live() {
                continue;
            }
            let dir = node.paths.volume(facts.pod.uid(), plugin.name(), &volume.name);
            match plugin
                .set_up(&Request {
                    node,
                    facts,
                    volume,
                    dir,
                    before,
                })
                .await
            {
                Ok(mounted) => drop(self.mounted.insert(volume.name.clone(), mounted)),
                Err(error) => failures.push(Failure {
                    volume: volume.name.clone(),
                    error,
                }),
            }
        }
        failures
    }

    /// When the first of them must be looked at again.
    pub fn refresh_at(&self) -> Option<Timestamp> {
        self.mounted.values().filter_map(|m| m.refresh_at).min()
    }

    pub fn path(&self, volume: &str) -> Option<&Path> {
        self.mounted.get(volume).map(|m| m.path.as_path())
    }

    /// A container's mounts, as CRI takes them.
    pub fn container_mounts(
        &self,
        node: &NodeContext,
        pod: &Pod,
        container: &Container,
        env: &[EnvVar],
        images: &BTreeMap<String, v1::ImageSpec>,
    ) -> Result<Vec<v1::Mount>> {
        let mut mounts = Vec::new();
        for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
            let sub_path = match wanted.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
                Some(expression) => subpath::expanded(expression, env)?,
                None => wanted.sub_path.clone().unwrap_or_default(),
            };
            let container_path = if wanted.mount_path.starts_with('/') {
                wanted.mount_path.clone()
            } else {
                format!("/{}", wanted.mount_path)
            };
            let recursive = matches!(
                wanted.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            );
            let mut mount = v1::Mount {
                container_path,
                readonly: wanted.read_only.unwrap_or(false),
                recursive_read_only: recursive,
                propagation: propagation(wanted.mount_propagation.as_deref())? as i32,
                ..v1::Mount::default()
            };
            if let Some(image) = images.get(&wanted.name) {
                mount.image = Some(image.clone());
                mount.image_sub_path = sub_path;
                mount.readonly = true;
                mounts.push(mount);
                continue;
            }
            let mounted = self.mounted.get(&wanted.name).ok_or_else(|| {
                Error::Pod(format!(
                    "cannot find volume {:?} to mount into container {:?}",
                    wanted.name, container.name
                ))
            })?;
            let mut host_path = mounted.path.clone();
            if !sub_path.is_empty() {
                let place = subpath::Place {
                    uid: pod.uid(),
                    volume: &wanted.name,
                    container: &container.name,
                    index,
                };
                host_path = subpath::prepare(node, &host_path, &sub_path, &place)?;
            }
            mount.host_path = host_path.to_string_lossy().into_owned();
            mount.readonly |= mounted.read_only;
            mounts.push(mount);
        }
        Ok(mounts)
    }
}

/// Gives a pod's volumes back to whom they came from, then unmounts and removes everything below its directory.
/// Safe to repeat.
pub async fn take_down(node: &Arc<NodeContext>, uid: &str) -> Result<()> {
    if !records::of_pod(&node.paths, uid).is_empty() {
        // What containers had of a volume's inside holds it.
        let (mounts, subpaths) = (node.mounts.clone(), node.paths.subpaths(uid));
        blocking(move || {
            unmount_under(&*mounts, &subpaths).map_err(Error::kernel("unmount a pod's volumes"))
        })
        .await?;
        release::pod(node, uid).await?;
    }
    let (node, uid) = (node.clone(), uid.to_owned());
    blocking(move || tear_down(&node, &uid)).await
}

fn tear_down(node: &NodeContext, uid: &str) -> Result<()> {
    let dir = node.paths.pod(uid);
    if !dir.exists() {
        return Ok(());
    }
    unmount_under(&*node.mounts, &dir).map_err(Error::kernel("unmount a pod's volumes"))?;
    let table = node
        .mounts
        .table()
        .map_err(Error::kernel("read the mount table"))?;
    if let Some(left) = table.iter().find(|m| m.target.starts_with(&dir)) {
        return Err(Error::Pod(format!("{} is still mounted", left.target.display())));
    }
    std::fs::remove_dir_all(&dir).map_err(Error::file("remove", dir))
}

/// Config maps and secrets that the pod refers to, for its volumes, its containers' environment and its pulls.
pub fn references(pod: &Pod) -> References {
    let mut found = References::default();
    for volume in pod.spec().volumes.iter().flatten() {
        if let Some(plugin) = plugin_of(volume) {
            plugin.references(pod, volume, &mut found);
        }
    }
    let key = |name: &str| client::ObjectKey::new(pod.namespace(), name);
    for (_, container) in pod.all_containers() {
        let (maps, secrets) = env::references(&container);
        found.config_maps.extend(maps.iter().map(|n| key(n)));
        found.secrets.extend(secrets.iter().map(|n| key(n)));
    }
    let pulls = pod
        .spec()
        .image_pull_secrets
        .iter()
        .flatten()
        .map(|s| s.name.as_str());
    found.secrets.extend(pulls.filter(|n| !n.is_empty()).map(key));
    found
}

/// UIDs that have a directory.
pub fn pods_on_disk(node: &NodeContext) -> HashSet<String> {
    let Ok(entries) = std::fs::read_dir(node.paths.pods()) else {
        return HashSet::new();
    };
    entries
        .filter_map(|e| e.ok())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Writes a live volume's files, unless they are as they were.
pub fn write_payload(
    request: &Request<'_>,
    payload: Payload,
    backing: Backing,
    refresh_at: Option<Timestamp>,
) -> Result<Mounted> {
    let dir: &PathBuf = &request.dir;
    let digest = atomic::digest(&payload, request.fs_group());
    let mounted = Mounted {
        path: dir.clone(),
        read_only: true,
        refresh_at,
        digest: Some(digest),
    };
    if request.before.is_some_and(|before| before.digest == Some(digest)) {
        return Ok(mounted);
    }
    std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    if backing == Backing::Memory {
        let mounts = &request.node.mounts;
        if !mounts
            .is_mount_point(dir)
            .map_err(Error::kernel("look at a volume"))?
        {
            mounts
                .mount(&Mount::tmpfs(dir, "mode=0755"))
                .map_err(Error::kernel("mount a volume"))?;
        }
    }
    atomic::write(dir, &payload, request.fs_group(), request.node.clock.now())
        .map_err(Error::file("write", dir))?;
    Ok(mounted)
}

fn plugin_of(volume: &Volume) -> Option<&'static dyn VolumePlugin> {
    all().iter().copied().find(|plugin| plugin.supports(volume))
}
