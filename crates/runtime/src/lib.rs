//! The container runtime: images, pods, and the CRI server that offers them.
//!
//! ```text
//!  kubelet, kijabi image ──CRI──► server ──► pods (Engine) ──► shim, one process per pod
//!  kubelet's exec, attach … ──► server/streaming ┘  │  └─────► cri::network::PodNetwork
//!                                                   └────────► images (content, layers, records)
//!                                      oci: from CRI to an OCI configuration
//! ```
//!
//! **Invariant:** the runtime can be killed at any moment: containers, their logs and exit codes are the
//! shims' business, and everything else is found again on disk by the next [`Runtime::start`].
//!
//! Everything made on the host is under the configured root, or in cgroups under the parents the kubelet
//! names, so [`cleanup`] finds it all. The runtime has no clock handed in: what it timestamps is the
//! kernel's doing, and happens in real time.

mod config;
mod error;
pub mod images;
mod oci;
mod pods;
mod runtime;
mod server;
pub mod shim;

pub use config::Config;
pub use error::RuntimeError;
pub use runtime::{Runtime, cleanup};
