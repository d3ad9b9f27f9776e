//! Figures of pods and containers under the names that dashboards know from cAdvisor, for CRI's metrics calls
//! (KEP-2371).
//!
//! **Invariant:** a figure's label values stand in the order of its descriptor's label keys; both come of one table.

use std::path::Path;

use cri::v1::{ContainerMetrics, Metric, MetricDescriptor, MetricType, PodSandboxMetrics, UInt64Value};
use linux::cgroup::Stats;
use tonic::Status;

use super::Engine;
use super::engine::{blocking, internal};
use super::state::{Container, Pod, now};

const OWN_LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];
const SECOND: u64 = 1_000_000_000;

/// What a container's figures are taken from.
#[derive(Default)]
struct Facts {
    stats: Stats,
    processes: Processes,
    disk: super::stats::Disk,
    filesystem: Filesystem,
    limits: cri::v1::LinuxContainerResources,
    started_at: u64,
    seen_at: u64,
}

#[derive(Default)]
struct Processes {
    count: u64,
    descriptors: u64,
    sockets: u64,
}

#[derive(Default)]
struct Filesystem {
    bytes: u64,
    inodes: u64,
    free_inodes: u64,
}

/// The values of the further labels, and the figure.
type Figure = (&'static [&'static str], u64);

/// One name, and each of its figures with the values of the further labels.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    figures: fn(&Facts) -> Vec<Figure>,
}

macro_rules! families {
    ($($kind:ident $name:literal $help:literal [$($label:literal),*] $figures:expr;)*) => {
        &[$(Family {
            name: $name,
            help: $help,
            kind: MetricType::$kind,
            labels: &[$($label),*],
            figures: $figures,
        }),*]
    };
}

/// A figure without further labels.
fn one(value: u64) -> Vec<Figure> {
    vec![(&[], value)]
}

const CONTAINER: &[Family] = families![
    Counter "container_blkio_device_usage_total" "Blkio device bytes usage" ["operation"]
        |f| vec![(&["Read"], f.stats.io.read_bytes), (&["Write"], f.stats.io.write_bytes)];
    Counter "container_cpu_cfs_periods_total" "Number of elapsed enforcement period intervals." [] |f| one(f.stats.cpu.periods);
    Counter "container_cpu_cfs_throttled_periods_total" "Number of throttled period intervals." []
        |f| one(f.stats.cpu.throttled_periods);
    Counter "container_cpu_cfs_throttled_seconds_total" "Total time duration the container has been throttled." []
        |f| one(f.stats.cpu.throttled / SECOND);
    Counter "container_cpu_system_seconds_total" "Cumulative system cpu time consumed in seconds." []
        |f| one(f.stats.cpu.system / SECOND);
    Counter "container_cpu_usage_seconds_total" "Cumulative cpu time consumed in seconds." [] |f| one(f.stats.cpu.usage / SECOND);
    Counter "container_cpu_user_seconds_total" "Cumulative user cpu time consumed in seconds." []
        |f| one(f.stats.cpu.user / SECOND);
    Gauge "container_file_descriptors" "Number of open file descriptors for the container." []
        |f| one(f.processes.descriptors);
    Gauge "container_fs_inodes_free" "Number of available Inodes" [] |f| one(f.filesystem.free_inodes);
    Gauge "container_fs_inodes_total" "Number of Inodes" [] |f| one(f.filesystem.inodes);
    Gauge "container_fs_limit_bytes" "Number of bytes that can be consumed by the container on this filesystem." []
        |f| one(f.filesystem.bytes);
    Counter "container_fs_reads_bytes_total" "Cumulative count of bytes read" [] |f| one(f.stats.io.read_bytes);
    Counter "container_fs_reads_total" "Cumulative count of reads completed" [] |f| one(f.stats.io.reads);
    Gauge "container_fs_usage_bytes" "Number of bytes that are consumed by the container on this filesystem." []
        |f| one(f.disk.bytes);
    Counter "container_fs_writes_bytes_total" "Cumulative count of bytes written" [] |f| one(f.stats.io.write_bytes);
    Counter "container_fs_writes_total" "Cumulative count of writes completed" [] |f| one(f.stats.io.writes);
    Gauge "container_last_seen" "Last time a container was seen by the exporter" [] |f| one(f.seen_at);
    Gauge "container_memory_cache" "Number of bytes of page cache memory." [] |f| one(f.stats.memory.cache);
    Counter "container_memory_failcnt" "Number of memory usage hits limits" [] |f| one(f.stats.memory.limit_hits);
    Counter "container_memory_failures_total" "Cumulative count of memory allocation failures." ["failure_type", "scope"]
        |f| vec![
            (&["pgfault", "container"], f.stats.memory.page_faults),
            (&["pgmajfault", "container"], f.stats.memory.major_page_faults),
        ];
    Gauge "container_memory_kernel_usage" "Size of kernel memory allocated in bytes." [] |f| one(f.stats.memory.kernel);
    Gauge "container_memory_mapped_file" "Size of memory mapped files in bytes." [] |f| one(f.stats.memory.mapped_file);
    Gauge "container_memory_max_usage_bytes" "Maximum memory usage recorded in bytes" [] |f| one(f.stats.memory.max_usage);
    Gauge "container_memory_rss" "Size of RSS in bytes." [] |f| one(f.stats.memory.rss);
    Gauge "container_memory_swap" "Container swap usage in bytes." [] |f| one(f.stats.memory.swap);
    Gauge "container_memory_usage_bytes" "Current memory usage in bytes, including all memory regardless of when it was accessed" []
        |f| one(f.stats.memory.usage);
    Gauge "container_memory_working_set_bytes" "Current working set in bytes." [] |f| one(f.stats.memory.working_set);
    Counter "container_oom_events_total" "Count of out of memory events observed for the container" []
        |f| one(f.stats.memory.oom_kills);
    Gauge "container_processes" "Number of processes running inside the container." [] |f| one(f.processes.count);
    Gauge "container_sockets" "Number of open sockets for the container." [] |f| one(f.processes.sockets);
    Gauge "container_spec_cpu_period" "CPU period of the container." [] |f| one(positive(f.limits.cpu_period));
    Gauge "container_spec_cpu_quota" "CPU quota of the container." [] |f| one(positive(f.limits.cpu_quota));
    Gauge "container_spec_cpu_shares" "CPU share of the container." [] |f| one(positive(f.limits.cpu_shares));
    Gauge "container_spec_memory_limit_bytes" "Memory limit for the container." []
        |f| one(positive(f.limits.memory_limit_in_bytes));
    Gauge "container_spec_memory_swap_limit_bytes" "Memory swap limit for the container." []
        |f| one(positive(f.limits.memory_swap_limit_in_bytes));
    Gauge "container_start_time_seconds" "Start time of the container since unix epoch in seconds." [] |f| one(f.started_at);
    Gauge "container_threads" "Number of threads running inside the container" [] |f| one(f.stats.pids.current);
    Gauge "container_threads_max" "Maximum number of threads allowed inside the container, infinity if value is zero" []
        |f| one(f.stats.pids.limit.unwrap_or(0));
];

/// Name, help and column of `/proc/net/dev`.
const NETWORK: [(&str, &str, usize); 8] = [
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        0,
    ),
    (
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        1,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        2,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        3,
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        8,
    ),
    (
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        9,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        10,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        11,
    ),
];

fn positive(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn keys(further: &[&str]) -> Vec<String> {
    OWN_LABELS
        .iter()
        .chain(further)
        .map(|&key| key.to_owned())
        .collect()
}

/// Every figure there can be.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let containers = CONTAINER
        .iter()
        .map(|family| (family.name, family.help, keys(family.labels)));
    let network = NETWORK
        .iter()
        .map(|(name, help, _)| (*name, *help, keys(&["interface"])));
    containers
        .chain(network)
        .map(|(name, help, label_keys)| MetricDescriptor {
            name: name.to_owned(),
            help: help.to_owned(),
            label_keys,
        })
        .collect()
}

impl Engine {
    /// The figures of every pod that runs.
    pub(crate) async fn metrics(&self) -> Result<Vec<PodSandboxMetrics>, Status> {
        let mut list = Vec::new();
        for pod in self.pods().into_iter().filter(|pod| pod.record.ready) {
            let mut container_metrics = Vec::new();
            for container in self
                .containers_of(&pod.id)
                .into_iter()
                .filter(Container::is_running)
            {
                container_metrics.push(self.container_metrics(&pod, &container).await?);
            }
            list.push(PodSandboxMetrics {
                pod_sandbox_id: pod.id.clone(),
                metrics: network(&pod),
                container_metrics,
            });
        }
        Ok(list)
    }

    async fn container_metrics(&self, pod: &Pod, container: &Container) -> Result<ContainerMetrics, Status> {
        let cgroup = container
            .cgroup()
            .map_err(|error| internal("failed to read metrics", &error))?;
        let dir = self.cgroups.directory("memory", &cgroup);
        let stats = self.read_cgroup(cgroup).await?.unwrap_or_default();
        let disk = self.disk(container).await;
        let root = self.config.root.clone();
        let (processes, filesystem) = blocking(move || {
            let processes = dir.map(|dir| processes(&dir)).unwrap_or_default();
            (processes, filesystem(&root))
        })
        .await;
        let timestamp = now();
        let facts = Facts {
            stats,
            processes,
            disk,
            filesystem,
            limits: container.resources().cloned().unwrap_or_default(),
            started_at: positive(container.record.started_at) / SECOND,
            seen_at: positive(timestamp) / SECOND,
        };
        let metadata = container.config.metadata.clone().unwrap_or_default();
        let own = own_labels(pod, &container.id, &container.record.image_name, &metadata.name);
        let metrics = CONTAINER
            .iter()
            .flat_map(|family| {
                (family.figures)(&facts)
                    .into_iter()
                    .map(|(further, value)| metric(family.name, family.kind, timestamp, &own, further, value))
                    .collect::<Vec<_>>()
            })
            .collect();
        Ok(ContainerMetrics {
            container_id: container.id.clone(),
            metrics,
        })
    }
}

fn own_labels(pod: &Pod, id: &str, image: &str, container: &str) -> Vec<String> {
    let metadata = pod.config().metadata.clone().unwrap_or_default();
    let labels = [id, id, image, container, &metadata.name, &metadata.namespace];
    labels.map(str::to_owned).to_vec()
}

fn metric(
    name: &str,
    kind: MetricType,
    timestamp: i64,
    own: &[String],
    further: &[&str],
    value: u64,
) -> Metric {
    let further = further.iter().map(|&label| label.to_owned());
    Metric {
        name: name.to_owned(),
        timestamp,
        metric_type: kind as i32,
        label_values: own.iter().cloned().chain(further).collect(),
        value: Some(UInt64Value { value }),
    }
}

/// The pod's interfaces, as its shim, which is in there, sees them.
fn network(pod: &Pod) -> Vec<Metric> {
    if pod.record.netns.is_none() {
        return Vec::new();
    }
    let path = format!("/proc/{}/net/dev", pod.record.shim_pid);
    // A pod that is just going has no figures.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let own = own_labels(pod, &pod.id, "", "");
    let timestamp = now();
    let mut metrics = Vec::new();
    for (interface, counters) in text.lines().skip(2).filter_map(|line| line.split_once(':')) {
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        for (name, _, column) in NETWORK {
            if let Some(&value) = counters.get(column) {
                let labels = [interface.trim()];
                metrics.push(metric(name, MetricType::Counter, timestamp, &own, &labels, value));
            }
        }
    }
    metrics
}

/// Counts the open files of a cgroup's processes; what ends meanwhile does not count.
fn processes(cgroup: &Path) -> Processes {
    let mut counts = Processes::default();
    let list = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in list.lines() {
        counts.count += 1;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            counts.descriptors += 1;
            let is_socket = std::fs::read_link(descriptor.path())
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            counts.sockets += u64::from(is_socket);
        }
    }
    counts
}

fn filesystem(root: &Path) -> Filesystem {
    rustix::fs::statvfs(root).map_or_else(
        |_| Filesystem::default(),
        |stat| Filesystem {
            bytes: stat.f_blocks * stat.f_frsize,
            inodes: stat.f_files,
            free_inodes: stat.f_favail,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_figure_has_its_descriptor_and_labels() {
        let descriptors = descriptors();
        let names: HashSet<&str> = descriptors.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names.len(), descriptors.len(), "a name stands once");
        assert_eq!(descriptors.len(), CONTAINER.len() + NETWORK.len());
        for family in CONTAINER {
            for (further, _) in (family.figures)(&Facts::default()) {
                assert_eq!(further.len(), family.labels.len(), "{}", family.name);
            }
        }
    }
}
