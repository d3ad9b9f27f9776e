//! The Kubernetes object model without any kind in it: a value tree, and an engine that reads, checks,
//! defaults, patches and writes values by tables.
//!
//! **Invariant:** nothing here knows a kind by name; what differs between kinds is in the tables
//! (`api`, or a custom resource's schema) or in a strategy (`resources`).

pub mod apply;
pub mod chance;
pub mod clock;
pub mod codec;
pub mod continue_token;
pub mod defaults;
pub mod field;
pub mod gvk;
pub mod level;
pub mod meta;
pub mod names;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod typed;
pub mod user;
pub mod value;

pub use value::{Key, Map, Value};
