//! Whole clusters inside a test: the real API server over a store in memory, the real scheduler and controllers, and
//! nodes that only pretend.
//!
//! On a paused tokio runtime everything runs on virtual time: simulated hours pass in moments, and waiting for a
//! condition ([`Cluster::until`]) moves the clock to the next timer by itself. [`Faults`] stand between the components
//! and the server, and [`simulation`] lets hours of them pass, judging every revision of the store.

mod clock;
mod cluster;
mod faults;
mod hollow;
pub mod simulation;
mod usage;

pub use cluster::{Cluster, Options};
pub use faults::{Component, Faults, Rates};
pub use hollow::{FATE, Habits, HollowNodes};
pub use usage::Usage;
