//! The container runtime as the kubelet sees it: CRI and nothing else.
//!
//! ```text
//!  client ── calls over the socket          labels ── what a container carries so that a restarted
//!  events ── "look again at this pod"                 kubelet knows it: names, hash, restart count
//!  status ── a pod's snapshot ─► pods::actions, status::*
//!  config ── PodSandboxConfig, ContainerConfig from a pod spec
//! ```
//!
//! **Invariant:** nothing about a pod's containers is remembered that the runtime cannot tell again.

pub mod client;
pub mod config;
pub mod events;
pub mod labels;
pub mod resources;
pub mod security;
pub mod status;
pub mod termination_message;
