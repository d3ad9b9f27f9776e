//! Probes: is a container up, alive, ready?
//!
//! ```text
//!  machine (pure: when to probe, what a result means) ◄─ worker (one task a probe) ─► http tcp exec grpc
//!                                                            │
//!                                                            ▼
//!                                              results ─► pods::actions, status::generate
//! ```

pub mod grpc;
pub mod http;
pub mod machine;
pub mod results;
pub mod run;
pub mod worker;
