//! Bytes to values and back, along the tables: JSON, YAML and protobuf.

pub mod json;
pub mod proto;
pub mod scalar;
pub mod yaml;
