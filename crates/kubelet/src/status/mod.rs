//! The status the kubelet writes into a Pod.
//!
//! ```text
//!  runtime::status ─┐
//!  probes::results ─┼─► containers ─► phase ─► conditions      = generate (pure)
//!  last written ────┘                                              │
//!                       manager: versions, one writer a pod ◄──────┘ ─► patch ─► API server
//! ```
//!
//! **Invariant:** a status is written only when it differs from what stands, and a pod that has ended never
//! goes back.

pub mod conditions;
pub mod containers;
pub mod generate;
pub mod manager;
pub mod patch;
pub mod phase;
