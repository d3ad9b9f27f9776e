//! Undoing: a pod's volumes are unpublished when it ends, and unstaged when nobody has them any more.

use std::path::Path;

use super::drivers::VolumeId;
use super::records::{self, Record};
use crate::error::{Error, Result};
use crate::node::context::NodeContext;
use crate::pods::orphans::blocking;

/// Gives back everything a pod has of drivers. Safe to repeat.
pub async fn pod(node: &NodeContext, uid: &str) -> Result<()> {
    for (dir, record) in records::of_pod(&node.paths, uid) {
        volume(node, &dir, &record).await.map_err(|error| {
            Error::Pod(format!(
                "UnmountVolume.TearDown failed for volume {:?} : {}",
                record.spec_name,
                error.full()
            ))
        })?;
    }
    Ok(())
}

/// Unstages what is staged for nobody: what a kubelet that broke off has left.
pub async fn sweep(node: &NodeContext) {
    for (_, record) in records::staged(&node.paths) {
        let id = record.id();
        if let Err(error) = stage(node, &id, Path::new("")).await {
            tracing::warn!(
                driver = id.0,
                volume = id.1,
                error = error.full(),
                "cannot unstage a volume"
            );
        }
    }
}

/// Remembers, at a start, what earlier kubelets have left in use.
pub fn recall(node: &NodeContext) {
    let of_pods = crate::volumes::manager::pods_on_disk(node)
        .into_iter()
        .flat_map(|uid| records::of_pod(&node.paths, &uid));
    for (_, record) in records::staged(&node.paths).into_iter().chain(of_pods) {
        if record.is_persistent() {
            node.csi.use_volume(&record.id());
        }
    }
}

async fn volume(node: &NodeContext, dir: &Path, record: &Record) -> Result<()> {
    let target = dir.join("mount");
    let driver = node.csi.get(&record.driver_name)?;
    driver
        .unpublish(&record.handle, &target.to_string_lossy())
        .await?;
    clear(node, &target).await?;
    let id = record.id();
    if record.is_persistent() {
        stage(node, &id, dir).await?;
    }
    Record::strike(dir)
}

/// Unstages a volume, unless a pod other than the one of `except` has it.
async fn stage(node: &NodeContext, id: &VolumeId, except: &Path) -> Result<()> {
    let _alone = node.csi.lock(id).await;
    if records::is_used(&node.paths, id, except) {
        return Ok(());
    }
    let staging = records::staging(&node.paths, id);
    if let Some(dir) = staging.parent().filter(|dir| Record::load(dir).is_some()) {
        let driver = node.csi.get(&id.0)?;
        if driver.capabilities().await?.stage {
            driver.unstage(&id.1, &staging.to_string_lossy()).await?;
        }
        clear(node, &staging).await?;
        Record::strike(dir)?;
    }
    node.csi.staged.lock().remove(id);
    if node.csi.leave_volume(id) {
        node.report.notify_one();
    }
    Ok(())
}

/// A driver should leave neither mount nor directory behind; some do.
async fn clear(node: &NodeContext, target: &Path) -> Result<()> {
    let (mounts, target) = (node.mounts.clone(), target.to_owned());
    blocking(move || {
        linux::mount::unmount_under(&*mounts, &target).map_err(Error::kernel("unmount a volume"))?;
        // A block volume's target is a file.
        let gone = match target.is_dir() {
            true => std::fs::remove_dir(&target),
            false => std::fs::remove_file(&target),
        };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", &target)(error))
            }
            _ => Ok(()),
        }
    })
    .await
}
