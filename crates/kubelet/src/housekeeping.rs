//! What is done now and then: rotating logs, throwing away unused images.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::images::gc::{Image, Records};
use crate::logs::rotate;
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::pods::workers::Workers;
use crate::runtime::status::State;

/// As often as upstream.
const LOGS: Duration = Duration::from_secs(10);
const IMAGES: Duration = Duration::from_secs(300);

/// Runs for ever.
pub async fn rotate_logs(node: Arc<NodeContext>, workers: Arc<Workers>) {
    loop {
        tokio::time::sleep(LOGS).await;
        for pod in workers.pods() {
            let Some(status) = workers.runtime_status(pod.uid()) else {
                continue;
            };
            let running: Vec<(String, String)> = status
                .borrow()
                .containers
                .iter()
                .filter(|c| c.state == State::Running && !c.log_path.is_empty())
                .map(|c| (c.id.clone(), c.log_path.clone()))
                .collect();
            for (id, path) in running {
                let now = node.clock.now();
                let rotated =
                    rotate::rotate(&node.runtime, &id, Path::new(&path), node.settings.logs, now).await;
                if let Err(error) = rotated {
                    tracing::warn!(path, error = error.full(), "cannot rotate a log");
                }
            }
        }
    }
}

/// Runs for ever.
pub async fn collect_images(node: Arc<NodeContext>, workers: Arc<Workers>) {
    let mut records = Records::default();
    loop {
        tokio::time::sleep(IMAGES).await;
        if let Err(error) = collect_once(&node, &workers, &mut records).await {
            node.events.node().warning("ImageGCFailed", error.full());
        }
    }
}

/// Removes every image nobody uses: the node is short of disk.
pub async fn free_disk(node: &NodeContext, workers: &Workers) -> Result<()> {
    let (images, used) = images(node, workers).await?;
    for image in images.iter().filter(|i| !i.pinned && !used.contains(&i.id)) {
        tracing::info!(id = image.id, "removing an unused image, the disk is short");
        node.runtime.remove_image(&image.id).await?;
    }
    Ok(())
}

async fn collect_once(node: &NodeContext, workers: &Workers, records: &mut Records) -> Result<()> {
    let (images, used) = images(node, workers).await?;
    let now = node.clock.now();
    records.observe(&images, &used, now);
    let Some((used_bytes, capacity)) = disk_use(node).await else {
        return Ok(());
    };
    for id in records.choose(node.settings.image_gc, &images, &used, used_bytes, capacity, now) {
        tracing::info!(id, "removing an unused image");
        node.runtime.remove_image(&id).await?;
    }
    Ok(())
}

/// The images, and the ids of those that pods use.
async fn images(node: &NodeContext, workers: &Workers) -> Result<(Vec<Image>, HashSet<String>)> {
    let listed = node.runtime.images().await?;
    let images: Vec<Image> = listed
        .iter()
        .map(|i| Image {
            id: i.id.clone(),
            size: i.size,
            pinned: i.pinned,
        })
        .collect();
    let mut names = HashSet::new();
    for pod in workers.pods() {
        names.extend(
            pod.all_containers()
                .into_iter()
                .filter_map(|(_, c)| c.image.clone()),
        );
        if let Some(status) = workers.runtime_status(pod.uid()) {
            names.extend(
                status
                    .borrow()
                    .containers
                    .iter()
                    .flat_map(|c| [c.image.clone(), c.image_ref.clone()]),
            );
        }
    }
    // An image is used under any of its names.
    let used: HashSet<String> = listed
        .iter()
        .filter(|i| {
            let mut all = i
                .repo_tags
                .iter()
                .chain(&i.repo_digests)
                .chain(std::iter::once(&i.id));
            all.any(|name| {
                names.iter().any(|n| {
                    n == name || name.ends_with(&format!("/{n}")) || name == &format!("docker.io/library/{n}")
                })
            })
        })
        .map(|i| i.id.clone())
        .collect();
    Ok((images, used))
}

/// Of the filesystem that holds the images.
async fn disk_use(node: &NodeContext) -> Option<(u64, u64)> {
    let place = node.images_place().await?;
    linux::filesystem::usage(&place)
        .inspect_err(
            |error| tracing::debug!(%error, place = %place.display(), "cannot read the images' filesystem"),
        )
        .ok()
        .map(|usage| (usage.total - usage.available, usage.total))
}
