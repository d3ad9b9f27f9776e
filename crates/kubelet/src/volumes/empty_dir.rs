//! `emptyDir` volumes: a directory on disk, or a tmpfs.
//!
//! Huge pages as a medium are not supported yet.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;
use linux::mount::Mount;

use super::{Mounted, Request, VolumePlugin, ownership};
use crate::error::{Error, Result};
use crate::quantity::{pod_limits, value};

pub struct EmptyDirPlugin;

#[async_trait]
impl VolumePlugin for EmptyDirPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/empty-dir"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.empty_dir else {
            return Ok(Mounted::default());
        };
        let dir = &request.dir;
        let made = !dir.exists();
        std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        match source.medium.as_deref().unwrap_or_default() {
            "" => {}
            "Memory" => {
                let mounts = &request.node.mounts;
                if !mounts
                    .is_mount_point(dir)
                    .map_err(Error::kernel("look at a volume"))?
                {
                    mounts
                        .mount(&Mount::tmpfs(dir, options(request)))
                        .map_err(Error::kernel("mount a volume"))?;
                }
            }
            other => return Err(Error::Pod(format!("unknown storage medium {other:?}"))),
        }
        if made {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))
                .map_err(Error::file("open up", dir))?;
        }
        if let Some(group) = request.fs_group()
            && !ownership::root_matches(dir, group, false).map_err(Error::file("look at", dir))?
        {
            ownership::set(dir, group, false).map_err(Error::file("change the group of", dir))?;
        }
        Ok(Mounted {
            path: dir.clone(),
            ..Mounted::default()
        })
    }
}

/// The size is the smallest of the volume's limit, the pod's memory limit and what the node has to give.
fn options(request: &Request<'_>) -> String {
    let own = request
        .volume
        .empty_dir
        .as_ref()
        .and_then(|e| e.size_limit.as_ref())
        .map(value)
        .filter(|s| *s > 0);
    let pod = pod_limits(request.pod())
        .get("memory")
        .copied()
        .filter(|s| *s > 0);
    let node = request
        .facts
        .allocatable
        .get("memory")
        .copied()
        .filter(|s| *s > 0);
    match [own, pod, node].into_iter().flatten().min() {
        Some(bytes) => format!("size={bytes}"),
        None => String::new(),
    }
}
