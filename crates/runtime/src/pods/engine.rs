//! The one place that holds pods and containers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use cri::network::{PodNetwork, PodNetworkRequest};
use cri::v1::ContainerEventResponse;
use linux::cgroup::{Cgroups, KernelCgroups};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tonic::Status;

use super::state::{Container, Pod};
use super::stats::Samples;
use crate::Config;
use crate::images::{Digest, Images};

/// As many events as a slow listener may be behind.
const EVENT_BACKLOG: usize = 1024;

pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) images: Images,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) cgroups: Arc<dyn Cgroups>,
    pub(super) tables: Arc<Mutex<Tables>>,
    pub(super) events: broadcast::Sender<ContainerEventResponse>,
    pub(super) samples: Samples,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) pods: HashMap<String, Pod>,
    pub(super) containers: HashMap<String, Container>,
    /// Names of pods being made, so that none is made twice.
    pub(super) reserved: HashMap<String, String>,
}

impl Tables {
    fn layers_in_use(&self) -> Vec<Digest> {
        let layers = |container: &Container| {
            container
                .record
                .chain
                .iter()
                .chain(&container.record.mounted_layers)
                .cloned()
                .collect::<Vec<_>>()
        };
        self.containers.values().flat_map(layers).collect()
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("root", &self.config.root)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the stores. Nothing is found again yet; see [`Engine::recover`].
    pub(crate) fn open(
        config: Config,
        network: Arc<dyn PodNetwork>,
    ) -> Result<Arc<Engine>, crate::RuntimeError> {
        let tables: Arc<Mutex<Tables>> = Arc::default();
        let in_use = tables.clone();
        let images = Images::open(&config.root, config.registries.clone(), move || {
            in_use.lock().layers_in_use()
        })?;
        let cgroups = KernelCgroups::detect()?;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        Ok(Arc::new(Engine {
            config,
            images,
            network,
            cgroups: Arc::new(cgroups),
            tables,
            events,
            samples: Samples::default(),
        }))
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.config.root.join("pods")
    }

    /// The pod with this id, or with the only id that starts so.
    pub(crate) fn pod(&self, id: &str) -> Result<Pod, Status> {
        let tables = self.tables.lock();
        find(&tables.pods, id).cloned().ok_or_else(|| {
            Status::not_found(format!(
                "an error occurred when try to find sandbox {id:?}: not found"
            ))
        })
    }

    pub(crate) fn container(&self, id: &str) -> Result<Container, Status> {
        let tables = self.tables.lock();
        find(&tables.containers, id).cloned().ok_or_else(|| {
            Status::not_found(format!(
                "an error occurred when try to find container {id:?}: not found"
            ))
        })
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.tables.lock().pods.values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Container> {
        self.tables.lock().containers.values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, pod_id: &str) -> Vec<Container> {
        let tables = self.tables.lock();
        tables
            .containers
            .values()
            .filter(|container| container.pod_id == pod_id)
            .cloned()
            .collect()
    }

    /// Changes a container, if it is still there.
    pub(super) fn change<T>(&self, id: &str, change: impl FnOnce(&mut Container) -> T) -> Option<T> {
        self.tables.lock().containers.get_mut(id).map(change)
    }

    pub(super) fn change_pod<T>(&self, id: &str, change: impl FnOnce(&mut Pod) -> T) -> Option<T> {
        self.tables.lock().pods.get_mut(id).map(change)
    }

    pub(super) fn network_request(&self, pod: &Pod) -> PodNetworkRequest {
        let config = pod.config();
        let metadata = config.metadata.clone().unwrap_or_default();
        PodNetworkRequest {
            sandbox_id: pod.id.clone(),
            netns_path: pod.record.netns.clone().unwrap_or_default(),
            pid: u32::try_from(pod.record.shim_pid).unwrap_or(0),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            hostname: config.hostname.clone(),
            port_mappings: config.port_mappings.clone(),
            dns: config.dns_config.clone(),
            annotations: config.annotations.clone().into_iter().collect(),
        }
    }
}

fn find<'a, T>(table: &'a HashMap<String, T>, id: &str) -> Option<&'a T> {
    if let Some(found) = table.get(id) {
        return Some(found);
    }
    if id.is_empty() {
        return None;
    }
    let mut matches = table.iter().filter(|(known, _)| known.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, only)), None) => Some(only),
        _ => None,
    }
}

/// Sixty-four hexadecimal digits, as everybody's container ids.
pub(super) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// An error nobody foresaw, in gRPC's terms.
pub(crate) fn internal(what: &str, error: &dyn std::error::Error) -> Status {
    Status::unknown(format!("{what}: {}", crate::images::describe(error)))
}

/// Runs blocking work off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
