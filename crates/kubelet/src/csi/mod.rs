//! Storage drivers (CSI): which are here, and what is asked of them.
//!
//! ```text
//!  registry ──► drivers (name → client) ──► node_info (CSINode, labels)
//!  volumes::csi, volumes::persistent_claim ──► mount: attach, stage, publish, expand
//!  a pod ends ──► release: unpublish, unstage
//! ```
//!
//! **Invariant:** what is published and staged is written down on disk ([`records`]) before the driver is asked, and
//! is struck off after it has undone it; a kubelet that starts anew knows by that what there is to undo.

pub mod attach;
pub mod client;
pub mod drivers;
pub mod expand;
pub mod mount;
pub mod node_info;
pub mod records;
pub mod release;

pub use drivers::Drivers;
