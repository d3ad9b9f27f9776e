//! The scheduler: gives every pod that asks for it a node.
//!
//! ```text
//!  informers ─► queue ─► cycle: snapshot ─► prefilter ─► filter ─► (postfilter) ─► score ─► assume ─┐
//!     │                                                                                            │
//!     └──────► cache (nodes, pods, assumed pods) ◄─────────────────────────────────────────────────┤
//!                                                              bind task, many in flight ◄─────────┘
//! ```
//!
//! One pod at a time is decided, on an immutable snapshot that shares every unchanged node with the last one;
//! binding happens off that path. Plugins are pure questions over the snapshot ([`framework`]), one file each
//! in [`plugins`], with upstream's names, weights and messages.
//!
//! **Invariant:** a decided pod is assumed in the cache before the next pod is looked at.
//! **Invariant:** nothing here waits on the API inside a cycle.
//!
//! Not here yet: several profiles, extenders, gang scheduling.

mod bind;
mod cache;
mod cycle;
mod devices;
mod diagnosis;
mod events;
pub mod framework;
pub mod node_info;
pub mod plugins;
pub mod pod_info;
mod preemption;
mod queue;
pub mod resource;
mod scheduler;
pub mod snapshot;

pub use scheduler::{Options, Scheduler};
