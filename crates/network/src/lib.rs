//! The node's network: how pods are wired, and how Services reach them.
//!
//! ```text
//!   pod ── eth0 ═ veth ═╗
//!   pod ── eth0 ═ veth ═╬═ bridge ── host ── other nodes, the world
//!                          │            │
//!                          └─ nf_tables: Services → pods, host ports, masquerade
//! ```
//!
//! * [`pod`]: bridge, veth pairs, addresses, routes, host ports ([`cri::network::PodNetwork`]).
//! * [`proxy`]: Services and EndpointSlices to nf_tables maps.
//! * [`cleanup`]: takes everything of an instance away again.
//!
//! **Invariant:** every link and table carries the instance's id in its name ([`Names`]); nothing without
//! that name is changed, and what an instance made can be found by the id alone.
//!
//! Works in whatever network namespace the process is in.

mod cleanup;
mod host;
mod names;
pub mod pod;
pub mod proxy;

pub use cleanup::{Leftovers, cleanup, leftovers};
pub use host::Host;
pub use names::{BadInstanceId, Names};
