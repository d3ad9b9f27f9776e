//! The kernel as this crate sees it: one bundle of handles, real or recording.

use std::path::Path;
use std::sync::Arc;

use linux::Kernel;
use linux::conntrack::{Conntrack, KernelConntrack};
use linux::namespace::Namespaces;
use linux::netlink::{Links, Netlink};
use linux::nftables::{Nftables, Ruleset};

/// Opens the links of the namespace kept at a path.
type OpenLinks = dyn Fn(&Path) -> linux::Result<Arc<dyn Links>> + Send + Sync;

/// Handles on the host's network namespace and a way into the pods'.
#[derive(Clone)]
pub struct Host {
    pub links: Arc<dyn Links>,
    pub ruleset: Arc<dyn Ruleset>,
    pub conntrack: Arc<dyn Conntrack>,
    pub namespaces: Arc<dyn Namespaces>,
    open: Arc<OpenLinks>,
}

impl Host {
    /// The kernel, in the calling thread's network namespace.
    pub fn kernel() -> linux::Result<Self> {
        Ok(Host {
            links: Arc::new(Netlink::open()?),
            ruleset: Arc::new(Nftables::open()?),
            conntrack: Arc::new(KernelConntrack::open()?),
            namespaces: Arc::new(Kernel),
            open: Arc::new(|path| Ok(Arc::new(Netlink::open_in(path)?))),
        })
    }

    /// A recorder, which also records for the inside of every pod.
    pub fn fake(host: Arc<linux::fake::Recorder>) -> Self {
        let outside = host.clone();
        Host {
            links: host.clone(),
            ruleset: host.clone(),
            conntrack: host.clone(),
            namespaces: host,
            open: Arc::new(move |net| Ok(outside.inside(net))),
        }
    }

    pub(crate) fn inside(&self, net: &Path) -> linux::Result<Arc<dyn Links>> {
        (self.open)(net)
    }
}
