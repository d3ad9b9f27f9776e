//! The contract between the container runtime and whoever gives pods their network.
//!
//! The runtime makes the network namespace and keeps it until after `teardown`; the network fills it. This
//! is the moment and the data of a CNI ADD and DEL.
//!
//! **Invariant:** `setup` and `teardown` are idempotent by sandbox id, and `teardown` of what was never set
//! up, or whose namespace is gone, succeeds: recovery calls them again after a crash at any point.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::v1::{DnsConfig, PortMapping};

/// Wires pods to the network.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the sandbox its interface, addresses, routes and host ports. Loopback is up already.
    async fn setup(&self, request: PodNetworkRequest) -> Result<PodNetworkStatus, PodNetworkError>;

    /// Takes back what `setup` gave, addresses too.
    async fn teardown(&self, request: PodNetworkRequest) -> Result<(), PodNetworkError>;

    /// Whether pods can be wired now; the reason when not (it becomes the message of `NetworkReady`).
    fn ready(&self) -> Result<(), String>;

    /// The node's pod range (`10.42.0.0/24`, or two of both families parted by a comma), as soon as the
    /// cluster has given one.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), PodNetworkError>;
}

/// One sandbox, as much of it as a network needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodNetworkRequest {
    pub sandbox_id: String,
    /// A bind mount of the network namespace; lives until after `teardown`.
    pub netns_path: PathBuf,
    /// A process inside the namespace, for calls that take a pid; zero when there is none.
    pub pid: u32,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub hostname: String,
    pub port_mappings: Vec<PortMapping>,
    pub dns: Option<DnsConfig>,
    /// The pod's annotations; `kubernetes.io/ingress-bandwidth` and the like.
    pub annotations: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetworkStatus {
    /// The primary address first.
    pub ips: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// Nothing can be wired yet: no pod range, no configuration.
    #[error("network is not ready: {reason}")]
    NotReady { reason: String },
    #[error("{operation} for sandbox {sandbox_id:?}")]
    Failed {
        operation: &'static str,
        sandbox_id: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("invalid pod CIDR {cidr:?}: {reason}")]
    BadCidr { cidr: String, reason: String },
}

/// A network of loopback alone: for tests of the runtime alone.
#[derive(Debug, Default)]
pub struct LoopbackOnly;

#[async_trait]
impl PodNetwork for LoopbackOnly {
    async fn setup(&self, _: PodNetworkRequest) -> Result<PodNetworkStatus, PodNetworkError> {
        Ok(PodNetworkStatus {
            ips: vec![IpAddr::from([127, 0, 0, 1])],
        })
    }

    async fn teardown(&self, _: PodNetworkRequest) -> Result<(), PodNetworkError> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn set_pod_cidr(&self, _: &str) -> Result<(), PodNetworkError> {
        Ok(())
    }
}

/// Where the bind mount of a sandbox's network namespace stands under a runtime's root.
pub fn netns_path(root: &Path, sandbox_id: &str) -> PathBuf {
    root.join("netns").join(sandbox_id)
}
