//! `/stats/summary`: what pods and the node use, from the runtime's figures and the machine's.

use std::collections::HashMap;

use cri::v1;
use http::Response;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wire::body::Body;

use super::{Server, json_answer, text};
use crate::runtime::labels;
use crate::runtime::status::nanos;

/// One container's or pod's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub time: i64,
    pub cpu_nanos: Option<u64>,
    pub cpu_nano_cores: Option<u64>,
    pub memory_working_set: Option<u64>,
    pub memory_usage: Option<u64>,
    pub memory_rss: Option<u64>,
}

impl Usage {
    pub fn new(cpu: Option<&v1::CpuUsage>, memory: Option<&v1::MemoryUsage>) -> Self {
        let value = |v: &Option<v1::UInt64Value>| v.as_ref().map(|v| v.value);
        Self {
            time: cpu.map_or(0, |c| c.timestamp),
            cpu_nanos: cpu.and_then(|c| value(&c.usage_core_nano_seconds)),
            cpu_nano_cores: cpu.and_then(|c| value(&c.usage_nano_cores)),
            memory_working_set: memory.and_then(|m| value(&m.working_set_bytes)),
            memory_usage: memory.and_then(|m| value(&m.usage_bytes)),
            memory_rss: memory.and_then(|m| value(&m.rss_bytes)),
        }
    }

    fn json(&self, into: &mut Map<String, Value>) {
        let time = nanos(self.time).to_string();
        into.insert(
            "cpu".to_owned(),
            json!({"time": time, "usageCoreNanoSeconds": self.cpu_nanos, "usageNanoCores": self.cpu_nano_cores}),
        );
        into.insert(
            "memory".to_owned(),
            json!({"time": time, "workingSetBytes": self.memory_working_set, "usageBytes": self.memory_usage,
                   "rssBytes": self.memory_rss}),
        );
    }
}

/// One pod of the runtime's figures.
pub struct PodUsage {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub usage: Usage,
    pub containers: Vec<(String, Usage)>,
    network: Option<v1::NetworkUsage>,
    processes: Option<u64>,
}

impl PodUsage {
    /// When, through which interface, and the bytes received and sent.
    pub fn traffic(&self) -> Option<(i64, &str, [u64; 2])> {
        let network = self.network.as_ref()?;
        let interface = network.default_interface.as_ref()?;
        let value = |v: &Option<v1::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
        let bytes = [value(&interface.rx_bytes), value(&interface.tx_bytes)];
        Some((network.timestamp, &interface.name, bytes))
    }
}

pub(super) async fn pods(server: &Server) -> Result<Vec<PodUsage>, crate::error::Error> {
    let stats = server.node.runtime.sandbox_stats().await?;
    Ok(stats.into_iter().filter_map(pod_usage).collect())
}

fn pod_usage(stats: v1::PodSandboxStats) -> Option<PodUsage> {
    let metadata = stats.attributes?.metadata?;
    let linux = stats.linux?;
    let containers = linux
        .containers
        .iter()
        .filter_map(|c| {
            let attributes = c.attributes.as_ref()?;
            let labelled = attributes.labels.get(labels::CONTAINER_NAME).cloned();
            let name = labelled.or_else(|| attributes.metadata.as_ref().map(|m| m.name.clone()))?;
            Some((name, Usage::new(c.cpu.as_ref(), c.memory.as_ref())))
        })
        .collect();
    Some(PodUsage {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        usage: Usage::new(linux.cpu.as_ref(), linux.memory.as_ref()),
        containers,
        processes: linux.process.and_then(|p| p.process_count).map(|c| c.value),
        network: linux.network,
    })
}

pub(super) async fn summary(server: &Server) -> Response<Body> {
    let pods = match pods(server).await {
        Ok(pods) => pods,
        Err(error) => return text(http::StatusCode::INTERNAL_SERVER_ERROR, error.full()),
    };
    let starts: HashMap<String, String> = server
        .workers
        .pods()
        .iter()
        .filter_map(|pod| {
            let start = pod.status.as_ref()?.start_time.as_ref()?.0.to_string();
            Some((pod.metadata.uid.clone()?, start))
        })
        .collect();
    let pods: Vec<Value> = pods
        .iter()
        .map(|pod| pod_json(pod, starts.get(&pod.uid)))
        .collect();
    json_answer(&json!({"node": node(server), "pods": pods}))
}

fn pod_json(pod: &PodUsage, start: Option<&String>) -> Value {
    let mut map = Map::new();
    map.insert(
        "podRef".to_owned(),
        json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}),
    );
    map.insert("startTime".to_owned(), json!(start));
    pod.usage.json(&mut map);
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|(name, usage)| {
            let mut map = Map::from_iter([
                ("name".to_owned(), json!(name)),
                ("startTime".to_owned(), json!(start)),
            ]);
            usage.json(&mut map);
            Value::Object(map)
        })
        .collect();
    map.insert("containers".to_owned(), Value::Array(containers));
    if let Some(network) = pod
        .network
        .as_ref()
        .and_then(|n| n.default_interface.as_ref().map(|i| (n.timestamp, i)))
    {
        let value = |v: &Option<v1::UInt64Value>| v.as_ref().map(|v| v.value);
        let (time, interface) = network;
        map.insert(
            "network".to_owned(),
            json!({"time": nanos(time).to_string(), "name": interface.name,
                   "rxBytes": value(&interface.rx_bytes), "rxErrors": value(&interface.rx_errors),
                   "txBytes": value(&interface.tx_bytes), "txErrors": value(&interface.tx_errors)}),
        );
    }
    if let Some(count) = pod.processes {
        map.insert("process_stats".to_owned(), json!({"process_count": count}));
    }
    Value::Object(map)
}

fn node(server: &Server) -> Value {
    let now = server.node.clock.now();
    let mut map = Map::from_iter([
        ("nodeName".to_owned(), json!(server.node.settings.node_name)),
        ("startTime".to_owned(), json!(server.node.started.to_string())),
    ]);
    node_usage(now).json(&mut map);
    if let Ok(usage) = linux::filesystem::usage(server.node.paths.root()) {
        map.insert(
            "fs".to_owned(),
            json!({"time": now.to_string(), "availableBytes": usage.available, "capacityBytes": usage.total,
                   "usedBytes": usage.total - usage.available, "inodes": usage.inodes,
                   "inodesFree": usage.inodes_free, "inodesUsed": usage.inodes - usage.inodes_free}),
        );
    }
    Value::Object(map)
}

/// The machine's own figures. Ticks are hundredths of a second on every Linux Kubernetes runs on.
pub(super) fn node_usage(now: Timestamp) -> Usage {
    let cpu = std::fs::read_to_string("/proc/stat").ok().and_then(|text| {
        let ticks: Vec<u64> = text
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .filter_map(|n| n.parse().ok())
            .collect();
        // Everything but idle and waiting for disks.
        let busy: u64 = ticks
            .iter()
            .enumerate()
            .filter(|(i, _)| !matches!(i, 3 | 4 | 8..))
            .map(|(_, t)| t)
            .sum();
        Some(busy * 10_000_000)
    });
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
                .map(|kib| kib * 1024)
        };
        Some((
            field("MemTotal:")? - field("MemAvailable:")?,
            field("MemTotal:")? - field("MemFree:")?,
        ))
    });
    Usage {
        time: i64::try_from(now.as_nanosecond()).unwrap_or(0),
        cpu_nanos: cpu,
        memory_working_set: memory.map(|m| m.0),
        memory_usage: memory.map(|m| m.1),
        ..Usage::default()
    }
}
