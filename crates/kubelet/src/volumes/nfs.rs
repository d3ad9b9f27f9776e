//! `nfs` volumes: an export of a server, mounted by the kernel itself; no helper program is needed.
//!
//! The kernel wants the server's address in the options, so its name is looked up here. Version 4 alone is
//! spoken: earlier ones need a port mapper on the node.

use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;
use linux::mount::{Mount, MountFlags};

use super::{Mounted, Request, VolumePlugin};
use crate::error::{Error, Result};
use crate::node::context::NodeContext;

pub struct NfsPlugin;

/// What is mounted.
pub struct Export<'a> {
    pub server: &'a str,
    pub path: &'a str,
    pub read_only: bool,
    /// Of a persistent volume.
    pub options: &'a [String],
}

#[async_trait]
impl VolumePlugin for NfsPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/nfs"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.nfs.is_some()
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.nfs else {
            return Ok(Mounted::default());
        };
        let export = Export {
            server: &source.server,
            path: &source.path,
            read_only: source.read_only.unwrap_or(false),
            options: &[],
        };
        mount(request.node, &export, &request.dir).await
    }
}

/// Mounts an export at `dir`, unless it is there.
pub async fn mount(node: &NodeContext, export: &Export<'_>, dir: &Path) -> Result<Mounted> {
    let mounted = Mounted {
        path: dir.to_owned(),
        read_only: export.read_only,
        ..Mounted::default()
    };
    let mounts = &node.mounts;
    std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    if mounts
        .is_mount_point(dir)
        .map_err(Error::kernel("look at a volume"))?
    {
        return Ok(mounted);
    }
    let unknown = || {
        Error::Pod(format!(
            "failed to resolve server {}: no such host",
            export.server
        ))
    };
    let host = export.server.trim_matches(['[', ']']);
    let address = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|_| unknown())?
        .next()
        .ok_or_else(unknown)?;
    let mut flags = MountFlags::empty();
    let mut data = vec![format!("addr={}", address.ip())];
    if !export.options.iter().any(|o| is_version(o)) {
        data.push("vers=4.2".to_owned());
    }
    for option in export.options {
        match option.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "nosuid" => flags |= MountFlags::NOSUID,
            "rw" | "defaults" => {}
            other => data.push(other.replacen("nfsvers=", "vers=", 1)),
        }
    }
    if export.read_only {
        flags |= MountFlags::RDONLY;
    }
    let wanted = Mount::Filesystem {
        kind: "nfs4".to_owned(),
        source: format!("{}:{}", export.server, export.path),
        target: dir.to_owned(),
        flags,
        data: data.join(","),
    };
    // A server that does not answer keeps a thread, not the kubelet.
    let mounts = mounts.clone();
    crate::pods::orphans::blocking(move || mounts.mount(&wanted).map_err(Error::kernel("mount failed")))
        .await?;
    Ok(mounted)
}

fn is_version(option: &str) -> bool {
    option.starts_with("vers=") || option.starts_with("nfsvers=")
}
