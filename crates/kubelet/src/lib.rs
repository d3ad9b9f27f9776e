//! The kubelet: runs the pods that are bound to its node, and says how they fare.
//!
//! ```text
//!  API server ──watch──► pods::source ──► pods::worker (one a pod) ──CRI──► runtime
//!       ▲                                  │   actions, volumes, images, probes, cgroups
//!       └── status::manager ◄──────────────┘
//!       └── node (registration, status, lease)      server (HTTPS: logs, exec, stats) ◄── API server
//! ```
//!
//! **Invariants:** what runs is asked of the runtime, never remembered, so a restarted kubelet takes over what
//! runs; choosing is pure ([`pods::actions`], [`status::generate`]), doing is apart; nothing polls.

pub mod allocation;
pub mod backoff;
pub mod cgroups;
pub mod config;
pub mod configuration;
pub mod csi;
pub mod devices;
pub mod dns;
pub mod downward;
pub mod env;
pub mod error;
pub mod events;
pub mod eviction;
pub mod hostname;
pub mod housekeeping;
pub mod images;
pub mod kubelet;
pub mod lifecycle;
pub mod logs;
pub mod node;
pub mod objects;
pub mod paths;
pub mod pod;
pub mod pods;
pub mod probes;
pub mod qos;
pub mod quantity;
pub mod registry;
pub mod runtime;
pub mod server;
pub mod status;
pub mod volumes;

pub use config::{Config, ServerConfig, Settings};
pub use error::{Error, Result};
pub use kubelet::Kubelet;
