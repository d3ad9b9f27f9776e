//! pods
pub mod actions;
