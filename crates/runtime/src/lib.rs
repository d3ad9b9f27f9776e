//! runtime
pub mod images;
mod oci;
pub mod shim;
