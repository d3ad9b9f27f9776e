//! API services: groups and versions that another server answers for, behind a Service of this cluster.
//!
//! ```text
//! watch of APIServices ─► follow ─► remotes (who answers for which group and version)
//!                           └─────► check: is it there? ─► condition Available, discovery of what it serves
//! request to a remote's group and version, authenticated and authorized here ─► proxy ─► the other server
//! ```
//!
//! The other server is told who asks in headers (`X-Remote-User` …), which it believes because we show it a
//! certificate of the front proxy's authority; which authority that is stands in the ConfigMap
//! `extension-apiserver-authentication`. Groups and versions this server answers for itself have APIServices too, made
//! here ([`local`]).
//!
//! **Invariant:** another server, whatever it does, costs the request that asks it, and the check of its own
//! availability; nothing else waits for it.

mod check;
pub(crate) mod discovery;
mod follow;
mod local;
mod proxy;
mod remote;

pub(crate) use follow::start;
pub(crate) use proxy::{answer, find};

use arc_swap::ArcSwap;
use compact_str::CompactString;
use remote::Remote;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::certs::Identity;

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";

/// How other servers know that it is us who ask them for others.
#[derive(Clone)]
pub struct FrontProxy {
    /// What we show.
    pub identity: Identity,
    /// Who vouches for it.
    pub authority: String,
    /// Who vouches for clients' own certificates.
    pub client_authority: String,
}

/// The name the front proxy's certificate has.
pub const FRONT_PROXY_NAME: &str = "front-proxy-client";

/// Group and version.
type Place = (CompactString, CompactString);
type Remotes = BTreeMap<Place, Arc<Remote>>;

/// What other servers answer for.
#[derive(Default)]
pub struct Aggregation {
    front_proxy: Option<FrontProxy>,
    remotes: ArcSwap<Remotes>,
}

impl Aggregation {
    pub(crate) fn new(front_proxy: Option<FrontProxy>) -> Self {
        Self {
            front_proxy,
            ..Self::default()
        }
    }

    pub(crate) fn front_proxy(&self) -> Option<&FrontProxy> {
        self.front_proxy.as_ref()
    }
}
