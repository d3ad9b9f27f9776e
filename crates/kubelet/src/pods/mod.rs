//! Pods on this node: one worker each, from admission to the last trace removed.
//!
//! ```text
//!             admitted                ended, deleted,           everything
//!  source ──────────────► Running ──── evicted ───► Terminating ── stopped ──► Terminated ──► Finished
//!     └── refused ──► Finished                                      (volumes and groups go)       │
//!                                                                                deleted in the API: gone
//! ```
//! **Invariants:** one worker a UID; only the worker moves its pod, and never back; nothing of a pod is taken
//! away before its containers are stopped.

pub mod actions;
pub mod admission;
pub mod kill;
pub mod manifests;
pub mod mirror;
pub mod orphans;
pub mod resize;
pub mod source;
pub mod start;
pub mod sync;
pub mod sysctls;
pub mod worker;
pub mod workers;
