//! Pods and containers: their state, what can be done to them, and how they are found again.
//!
//! ```text
//! <root>/pods/<id>/request.pb      what the kubelet asked for
//!                  pod.json        what became of it; written last, so a pod without it never was
//!                  shim.sock shm/ resolv.conf hostname
//!                  c/<id>/         a container: request.pb container.json config.json exit.json
//!                                  upper/ work/ rootfs/
//! <root>/netns/<id>                the pod's network, kept by a bind mount
//! ```
//!
//! **Invariant:** memory holds nothing that the directories and the shims could not tell again.

mod container;
mod engine;
mod events;
mod exec;
mod metrics;
mod prepare;
mod recover;
mod rootfs;
mod sandbox;
mod state;
mod stats;
mod status;
mod stop_signal;

pub(crate) use engine::{Engine, internal};
pub(crate) use exec::{ExecStreams, Wanted};
pub(crate) use metrics::descriptors as metric_descriptors;
pub(crate) use state::Container;
pub(crate) use status::{container_item, pod_item};
