//! Cluster DNS: names of Services and pods, straight from the informers.
//!
//! ```text
//! query ─► server ─┬─ in the cluster's zone, or the reverse of one of its addresses ─► answer (pure)
//!                  └─ anything else ─► forward ─► the host's name servers
//! ```
//!
//! Follows the Kubernetes DNS specification 1.1.0, and CoreDNS where that leaves a choice: names without
//! ready endpoints do not exist, pod names are not checked against pods, time to live 5 s.
//!
//! Other kinds of names are asked of the host's name servers on the spot; there is no cache.
//!
//! **Invariant:** an answer about the cluster is made from the informers' present state; nothing of it is
//! cached.

mod answer;
mod forward;
mod index;
mod question;
mod server;

pub use forward::Forwarder;
pub use index::{Index, InformerIndex};
pub use server::{Options, Server, StartError};
