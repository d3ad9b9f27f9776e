//! runtime
pub mod images;
pub mod shim;
