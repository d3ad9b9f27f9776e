//! The built-in pod network: a bridge, a veth pair a pod, an address of the node's range each.
//!
//! Every packet of a pod goes through the host's routing: the pod has its address alone (`/32`) and a
//! route to the bridge's. So Services work between pods of one node without bridge filtering, whatever
//! the kernel's settings for that are.
//!
//! ```text
//!   netns of a pod                     host
//!   eth0 10.42.0.7/32  ═══ veth ═══  kj<id>br 10.42.0.1/24
//!   default via 10.42.0.1              route <service range> dev kj<id>br
//! ```
//!
//! **Invariant:** see [`records`]; `setup` and `teardown` may be repeated at any time and from any
//! half-done state.
//!
//! The route for the Service range lets a host without a default route send to Service addresses; the
//! proxy rewrites the destination before anything leaves.

mod addresses;
mod filter;
mod node;
mod records;
pub(crate) mod sysctls;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cri::network::{PodNetwork, PodNetworkError, PodNetworkRequest, PodNetworkStatus};
use ipnet::IpNet;
use linux::nftables::Family;
use parking_lot::Mutex;

use crate::cleanup::CleanupError;
use crate::{Host, Names};
use addresses::{Exhausted, gateway};
use filter::PodTable;
use node::{Inner, Readiness};
use records::Records;

/// How the network is to be.
#[derive(Clone, Debug)]
pub struct Options {
    pub names: Names,
    /// Where addresses and changed settings are remembered.
    pub state: PathBuf,
    /// The ranges of all pods of the cluster: traffic to them is not masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    /// `None` takes that of the link with the default route.
    pub mtu: Option<u32>,
}

/// The built-in network of one node.
#[derive(Clone)]
pub struct BridgeNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pod network")]
    Kernel(#[from] linux::Error),
    #[error("pod network rules")]
    Rules(#[from] linux::nftables::BatchError),
    #[error("pod network records")]
    Records(#[from] std::io::Error),
    #[error("pod network settings")]
    Settings(#[from] CleanupError),
    #[error("pod network")]
    Exhausted(#[from] Exhausted),
    #[error("host port {port} cannot be mapped: {reason}")]
    HostPort { port: i64, reason: &'static str },
}

type Result<T> = std::result::Result<T, Error>;

impl BridgeNetwork {
    /// Reads what an earlier run left; wires nothing until the pod range is known.
    pub fn open(host: Host, options: Options) -> Result<Self> {
        let records = Records::open(&options.state)?;
        let tables = [Family::Ip, Family::Ip6].map(|family| PodTable::new(&options.names, family));
        let inner = Inner {
            host,
            options,
            records,
            tables,
            state: Mutex::default(),
            ranges_changed: tokio::sync::Notify::new(),
        };
        inner.recover()?;
        Ok(BridgeNetwork {
            inner: Arc::new(inner),
        })
    }

    pub fn bridge(&self) -> String {
        self.inner.options.names.bridge()
    }

    /// The bridge's addresses: where the node answers its pods. Empty until the range is known.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.inner
            .state
            .lock()
            .addresses
            .nets()
            .map(|net| gateway(&net))
            .collect()
    }

    /// Resolves when the pod range is known and the bridge has its addresses.
    pub async fn until_ready(&self) {
        loop {
            // Made before the look, so that no change falls in between.
            let changed = self.inner.ranges_changed.notified();
            if self.ready().is_ok() {
                return;
            }
            changed.await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(failed) => Err(Error::Records(std::io::Error::other(failed))),
        }
    }
}

#[async_trait]
impl PodNetwork for BridgeNetwork {
    async fn setup(
        &self,
        request: PodNetworkRequest,
    ) -> std::result::Result<PodNetworkStatus, PodNetworkError> {
        self.ready()
            .map_err(|reason| PodNetworkError::NotReady { reason })?;
        let sandbox = request.sandbox_id.clone();
        let ips = self.blocking(move |inner| inner.setup(&request)).await;
        ips.map(|ips| PodNetworkStatus { ips })
            .map_err(failed("setup", sandbox))
    }

    async fn teardown(&self, request: PodNetworkRequest) -> std::result::Result<(), PodNetworkError> {
        let sandbox = request.sandbox_id.clone();
        let done = self
            .blocking(move |inner| inner.teardown(&request.sandbox_id))
            .await;
        done.map_err(failed("teardown", sandbox))
    }

    fn ready(&self) -> std::result::Result<(), String> {
        match &self.inner.state.lock().ready {
            Readiness::Ready => Ok(()),
            Readiness::WaitingForRange => Err("the node has no pod CIDR yet".to_owned()),
            Readiness::Failed(reason) => Err(reason.clone()),
        }
    }

    async fn set_pod_cidr(&self, cidr: &str) -> std::result::Result<(), PodNetworkError> {
        let nets = parse_cidrs(cidr)?;
        let done = self.blocking(move |inner| inner.set_ranges(&nets)).await;
        self.inner.ranges_changed.notify_waiters();
        done.map_err(failed("set pod CIDR", String::new()))
    }
}

fn failed(operation: &'static str, sandbox_id: String) -> impl FnOnce(Error) -> PodNetworkError {
    move |source| PodNetworkError::Failed {
        operation,
        sandbox_id,
        source: Box::new(source),
    }
}

fn parse_cidrs(text: &str) -> std::result::Result<Vec<IpNet>, PodNetworkError> {
    let bad = |reason: &str| PodNetworkError::BadCidr {
        cidr: text.to_owned(),
        reason: reason.to_owned(),
    };
    let nets = text
        .split(',')
        .map(|part| {
            part.trim()
                .parse::<IpNet>()
                .map_err(|error| bad(&error.to_string()))
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    match nets.as_slice() {
        [one, two] if one.addr().is_ipv4() == two.addr().is_ipv4() => Err(bad("both are of one family")),
        [] | [_, _, _, ..] => Err(bad("one range per family")),
        all if all.iter().any(|net| net.max_prefix_len() - net.prefix_len() < 2) => Err(bad("too small")),
        _ => Ok(nets),
    }
}

impl Options {
    /// Where masquerading would hide who is calling.
    fn inside(&self) -> Vec<IpNet> {
        let multicast = ["224.0.0.0/4", "ff00::/8"]
            .iter()
            .filter_map(|net| net.parse().ok());
        IpNet::aggregate(&self.cluster_cidrs.iter().copied().chain(multicast).collect())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Where the state of the pod network stands under a node's directory.
pub fn state_dir(agent: &Path) -> PathBuf {
    agent.join("network")
}

#[cfg(test)]
mod tests;
