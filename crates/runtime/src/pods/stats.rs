//! What pods and containers use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cri::v1::{
    self, ContainerAttributes, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes,
    PodSandboxStats, ProcessUsage, SwapUsage, UInt64Value,
};
use linux::cgroup::{CgroupPath, Stats};
use parking_lot::Mutex;
use tonic::Status;

use super::Engine;
use super::engine::{blocking, internal};
use super::state::{Container, Pod, now};

/// Walking a tree is dear; its size is believed for this long.
const DISK_AGE: Duration = Duration::from_secs(60);
/// A rate needs some time to be one over.
const RATE_AGE: Duration = Duration::from_secs(1);

/// What was measured last, for rates and so that disks are not walked for every question.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    cpu: Mutex<HashMap<String, CpuSample>>,
    disk: Mutex<HashMap<String, (Instant, Disk)>>,
}

#[derive(Clone, Copy, Debug)]
struct CpuSample {
    at: Instant,
    usage: u64,
    rate: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Samples {
    pub(super) fn forget(&self, id: &str) {
        self.cpu.lock().remove(id);
        self.disk.lock().remove(id);
    }

    /// Nanoseconds of CPU per second since the last question.
    fn rate(&self, id: &str, usage: u64, at: Instant) -> Option<u64> {
        let mut samples = self.cpu.lock();
        let Some(last) = samples.get_mut(id) else {
            samples.insert(id.to_owned(), CpuSample { at, usage, rate: 0 });
            return None;
        };
        let passed = at.saturating_duration_since(last.at);
        if passed >= RATE_AGE {
            let used = u128::from(usage.saturating_sub(last.usage));
            let rate = used * 1_000_000_000 / passed.as_nanos();
            *last = CpuSample {
                at,
                usage,
                rate: u64::try_from(rate).unwrap_or(u64::MAX),
            };
        }
        Some(last.rate)
    }
}

impl Engine {
    pub(crate) async fn container_stats(&self, container: &Container) -> Result<ContainerStats, Status> {
        let cgroup = container
            .cgroup()
            .map_err(|error| internal("failed to read stats", &error))?;
        let stats = self.read_cgroup(cgroup).await?;
        let disk = self.disk(container).await;
        let timestamp = now();
        let config = &container.config;
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: stats
                .as_ref()
                .map(|stats| self.cpu(&container.id, stats, timestamp)),
            memory: stats.as_ref().map(|stats| memory(stats, timestamp)),
            writable_layer: Some(FilesystemUsage {
                timestamp,
                fs_id: Some(FilesystemIdentifier {
                    mountpoint: self.config.root.display().to_string(),
                }),
                used_bytes: value(disk.bytes),
                inodes_used: value(disk.inodes),
            }),
            swap: stats.map(|stats| SwapUsage {
                timestamp,
                swap_available_bytes: None,
                swap_usage_bytes: value(stats.memory.swap),
            }),
            io: None,
        })
    }

    pub(crate) async fn pod_stats(&self, pod: &Pod) -> Result<PodSandboxStats, Status> {
        let config = pod.config();
        let timestamp = now();
        let stats = match CgroupPath::new(pod.cgroup_parent()) {
            Ok(path) if !path.is_root() => self.read_cgroup(path).await?,
            _ => None,
        };
        let mut containers = Vec::new();
        for container in self.containers_of(&pod.id) {
            if container.is_running() {
                containers.push(self.container_stats(&container).await?);
            }
        }
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: pod.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: stats.as_ref().map(|stats| self.cpu(&pod.id, stats, timestamp)),
                memory: stats.as_ref().map(|stats| memory(stats, timestamp)),
                network: network(pod, timestamp),
                process: stats.map(|stats| ProcessUsage {
                    timestamp,
                    process_count: value(stats.pids.current),
                }),
                containers,
                io: None,
            }),
        })
    }

    /// `None` for a group that is not there (any more).
    pub(super) async fn read_cgroup(&self, path: CgroupPath) -> Result<Option<Stats>, Status> {
        let cgroups = self.cgroups.clone();
        match blocking(move || cgroups.stats(&path)).await {
            Ok(stats) => Ok(Some(stats)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(internal("failed to read stats", &error)),
        }
    }

    fn cpu(&self, id: &str, stats: &Stats, timestamp: i64) -> CpuUsage {
        CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(stats.cpu.usage),
            usage_nano_cores: self
                .samples
                .rate(id, stats.cpu.usage, Instant::now())
                .and_then(value),
            psi: None,
        }
    }

    pub(super) async fn disk(&self, container: &Container) -> Disk {
        let known = self.samples.disk.lock().get(&container.id).copied();
        if let Some((at, disk)) = known
            && at.elapsed() < DISK_AGE
        {
            return disk;
        }
        let upper = container.dir.join("upper");
        let disk = blocking(move || measure(&upper)).await;
        self.samples
            .disk
            .lock()
            .insert(container.id.clone(), (Instant::now(), disk));
        disk
    }
}

fn memory(stats: &Stats, timestamp: i64) -> MemoryUsage {
    let memory = &stats.memory;
    MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory
            .limit
            .and_then(|limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    }
}

/// The pod's interfaces, as its shim, which is in there, sees them.
fn network(pod: &Pod, timestamp: i64) -> Option<NetworkUsage> {
    pod.record.netns.as_ref()?;
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", pod.record.shim_pid)).ok()?;
    let mut interfaces = interfaces(&text);
    let default = interfaces
        .iter()
        .position(|interface| interface.name == "eth0")
        .map(|at| interfaces.remove(at));
    Some(NetworkUsage {
        timestamp,
        default_interface: default,
        interfaces,
    })
}

fn interfaces(text: &str) -> Vec<NetworkInterfaceUsage> {
    let parse = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Some(NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: value(*counters.first()?),
            rx_errors: value(*counters.get(2)?),
            tx_bytes: value(*counters.get(8)?),
            tx_errors: value(*counters.get(10)?),
        })
    };
    text.lines()
        .skip(2)
        .filter_map(parse)
        .filter(|interface| interface.name != "lo")
        .collect()
}

fn measure(dir: &Path) -> Disk {
    use std::os::unix::fs::MetadataExt;
    let mut total = Disk::default();
    let mut pending: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        // What vanishes while being counted does not count.
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let Ok(metadata) = entry.metadata() else { continue };
            total.inodes += 1;
            total.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    total
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(v1::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_time_that_passed() {
        let samples = Samples::default();
        let start = Instant::now();
        assert_eq!(samples.rate("c", 1_000, start), None);
        assert_eq!(
            samples.rate("c", 2_000_001_000, start + Duration::from_secs(4)),
            Some(500_000_000)
        );
        assert_eq!(
            samples.rate("c", 9_000_001_000, start + Duration::from_millis(4_100)),
            Some(500_000_000)
        );
    }

    #[test]
    fn interface_counters_are_read() {
        let text = "Inter-| Receive |\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0: 100 2 3 4 5 6 7 8 200 10 11 12 13 14 15 16\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].rx_bytes, found[0].tx_bytes), (value(100), value(200)));
    }
}
