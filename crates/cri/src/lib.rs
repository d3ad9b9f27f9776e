//! The container runtime interface (CRI v1 of Kubernetes v1.36): messages, client and server bindings.
//!
//! The kubelet speaks [`v1`] and nothing else to whatever runs its containers; [`connect`] gives it both
//! clients over one unix socket. [`network::PodNetwork`] is the contract between the embedded runtime and
//! whoever wires pods to the network. [`images`] is our own small addition for `kijabi image`.
//!
//! **Invariant:** `proto/` states the interface's facts (names and numbers), without Windows; a message of
//! a newer peer decodes, its unknown fields dropped.

mod connect;
mod filter;
pub mod network;

pub use connect::{Clients, ConnectError, MAX_MESSAGE_SIZE, connect};

/// Package `runtime.v1`.
#[allow(clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Package `kijabi.images.v1`: import and progress, served on the runtime's socket beside CRI.
#[allow(clippy::all, unreachable_pub)]
pub mod images {
    tonic::include_proto!("kijabi.images.v1");
}

impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for images::PullRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullRequest")
            .field("image", &self.image)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
