//! What everything on the node shares: handles and facts, no behaviour.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use linux::mount::Mounts;
use machinery::clock::Clock;
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::machine::Machine;
use crate::allocation::Allocations;
use crate::backoff::Backoff;
use crate::cgroups::PodCgroups;
use crate::config::Settings;
use crate::csi;
use crate::devices::Devices;
use crate::dns;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::eviction::Pressures;
use crate::images::manager::ImageManager;
use crate::objects::ObjectCache;
use crate::paths::Paths;
use crate::pod::PodExt;
use crate::pods::mirror::Mirrors;
use crate::runtime::client::Runtime;
use crate::status::manager::StatusManager;
use crate::volumes::tokens::Tokens;

pub struct NodeContext {
    pub settings: Settings,
    pub client: kube::Client,
    pub clock: Arc<dyn Clock>,
    pub started: Timestamp,
    pub paths: Paths,
    pub runtime: Runtime,
    pub events: Events,
    pub mounts: Arc<dyn Mounts>,
    /// Absent where the machine has no control groups (a hollow node).
    pub cgroups: Option<PodCgroups>,
    pub config_maps: ObjectCache<ConfigMap>,
    pub secrets: ObjectCache<Secret>,
    pub tokens: Arc<Tokens>,
    pub devices: Arc<Devices>,
    /// Storage drivers.
    pub csi: csi::Drivers,
    /// Told when the node's status should be looked at.
    pub report: Arc<Notify>,
    pub images: ImageManager,
    pub status: Arc<StatusManager>,
    pub services: Informer<Service>,
    /// What pods have been given of CPU and memory.
    pub allocations: Allocations,
    pub mirrors: Arc<Mirrors>,
    /// What the node is short of.
    pub pressures: Pressures,
    /// Where the runtime keeps images; asked once.
    pub images_at: tokio::sync::OnceCell<std::path::PathBuf>,
    pub cluster_dns: dns::Cluster,
    pub machine: Machine,
    pub state: RwLock<NodeState>,
    /// Of containers that end, by pod UID and container name.
    pub crashes: Backoff<(String, String)>,
}

/// What changes about the node.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// As the API server last showed it.
    pub node: Option<Arc<Node>>,
    /// What the runtime says against running anything; nothing when it is fine.
    pub runtime_error: Option<String>,
    pub network_error: Option<String>,
}

impl NodeContext {
    /// The runtime's name for the pod's runtime class.
    pub async fn runtime_handler(&self, pod: &Pod) -> Result<String> {
        let Some(class) = pod.spec().runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
            return Ok(String::new());
        };
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        match api.get_opt(class).await {
            Ok(Some(found)) => Ok(found.handler),
            Ok(None) => Err(Error::Pod(format!("RuntimeClass {class:?} not found"))),
            Err(source) => Err(Error::Api {
                operation: "failed to look up RuntimeClass",
                subject: class.to_owned(),
                source: Box::new(source),
            }),
        }
    }

    /// The directory that holds the images.
    pub async fn images_place(&self) -> Option<std::path::PathBuf> {
        let ask = async {
            let info = self.runtime.image_usage().await.map_err(|_| ())?;
            let first = info.image_filesystems.first().and_then(|f| f.fs_id.as_ref());
            first.map(|id| id.mountpoint.clone().into()).ok_or(())
        };
        self.images_at.get_or_try_init(|| ask).await.ok().cloned()
    }

    /// The node's addresses, as pods see them.
    pub fn host_ips(&self) -> &[String] {
        &self.settings.node_ips
    }

    /// Thousandths for CPU, whole units for the rest.
    pub fn allocatable(&self) -> &BTreeMap<String, i64> {
        &self.machine.allocatable
    }
}
