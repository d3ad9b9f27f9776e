//! What is left of everything, and who uses it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Pressure;
use super::local_storage;
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::runtime::labels;

/// Upstream's eviction signals, in the order they are acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

impl Signal {
    pub fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable => Pressure::Memory,
            Self::PidAvailable => Pressure::Pids,
            _ => Pressure::Disk,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// What runs short, as messages say it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub available: u64,
    pub capacity: u64,
}

pub type Observations = BTreeMap<Signal, Seen>;

/// One pod's use of what is short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub total: u64,
    pub containers: Vec<(String, u64)>,
}

pub async fn observe(node: &NodeContext) -> Observations {
    let mut seen = Observations::new();
    if let Some(memory) = memory() {
        seen.insert(Signal::MemoryAvailable, memory);
    }
    let mut filesystem = |path: &Path, bytes, inodes| match linux::filesystem::usage(path) {
        Ok(usage) => {
            seen.insert(
                bytes,
                Seen {
                    available: usage.available,
                    capacity: usage.total,
                },
            );
            // Some filesystems count no inodes.
            if usage.inodes > 0 {
                seen.insert(
                    inodes,
                    Seen {
                        available: usage.inodes_free,
                        capacity: usage.inodes,
                    },
                );
            }
        }
        Err(error) => tracing::debug!(%error, "cannot read a filesystem's use"),
    };
    let root = node.paths.root();
    filesystem(root, Signal::NodeFsAvailable, Signal::NodeFsInodesFree);
    // Images on the node's own filesystem are judged with it.
    if let Some(images) = images_elsewhere(node, root).await {
        filesystem(&images, Signal::ImageFsAvailable, Signal::ImageFsInodesFree);
    }
    if let Some(pids) = pids() {
        seen.insert(Signal::PidAvailable, pids);
    }
    seen
}

async fn images_elsewhere(node: &NodeContext, root: &Path) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let place = node.images_place().await?;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|m| m.dev());
    (device(&place) != device(root)).then_some(place)
}

fn memory() -> Option<Seen> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Seen {
        available: field("MemAvailable:")?,
        capacity: field("MemTotal:")?,
    })
}

fn pids() -> Option<Seen> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let running = load.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>();
    Some(Seen {
        available: most.saturating_sub(running.ok()?),
        capacity: most,
    })
}

/// What each pod uses of the resource behind a signal, by UID.
pub async fn usage_of_pods(
    node: &Arc<NodeContext>,
    pods: &[Arc<Pod>],
    signal: Signal,
) -> HashMap<String, Use> {
    if signal.pressure() == Pressure::Disk {
        let inodes = matches!(signal, Signal::NodeFsInodesFree | Signal::ImageFsInodesFree);
        let measured = local_storage::measure(node, pods).await;
        return measured
            .into_iter()
            .map(|(uid, use_)| {
                let pick = |f: local_storage::Footprint| if inodes { f.inodes } else { f.bytes };
                let containers = use_.containers.iter().map(|(n, f)| (n.clone(), pick(*f)));
                let found = Use {
                    total: pick(use_.total()),
                    containers: containers.collect(),
                };
                (uid, found)
            })
            .collect();
    }
    let stats = match node.runtime.sandbox_stats().await {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!(error = error.full(), "cannot read the pods' usage");
            return HashMap::new();
        }
    };
    let value = |v: &Option<cri::v1::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
    stats
        .into_iter()
        .filter_map(|stats| {
            let uid = stats.attributes?.metadata?.uid;
            let linux = stats.linux?;
            if signal == Signal::PidAvailable {
                let total = linux.process.as_ref().map_or(0, |p| value(&p.process_count));
                return Some((
                    uid,
                    Use {
                        total,
                        containers: Vec::new(),
                    },
                ));
            }
            let containers: Vec<(String, u64)> = linux
                .containers
                .iter()
                .filter_map(|c| {
                    let name = c.attributes.as_ref()?.labels.get(labels::CONTAINER_NAME)?.clone();
                    Some((name, c.memory.as_ref().map_or(0, |m| value(&m.working_set_bytes))))
                })
                .collect();
            let total = linux.memory.as_ref().map_or_else(
                || containers.iter().map(|c| c.1).sum(),
                |m| value(&m.working_set_bytes),
            );
            Some((uid, Use { total, containers }))
        })
        .filter(|(uid, _)| pods.iter().any(|p| p.uid() == uid))
        .collect()
}
