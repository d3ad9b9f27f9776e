//! Whole clusters inside a test: the real API server over a store in memory, the real scheduler and controllers, and
//! nodes that only pretend.
//!
//! On a paused tokio runtime everything runs on virtual time: simulated hours pass in moments, and waiting for a
//! condition ([`Cluster::until`]) moves the clock to the next timer by itself. [`Faults`] stand between the components
//! and the server.

mod cluster;
mod faults;
mod hollow;

pub use cluster::{Cluster, Options};
pub use faults::Faults;
pub use hollow::{FATE, HollowNodes};
