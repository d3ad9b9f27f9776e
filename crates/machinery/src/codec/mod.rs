//! Bytes to values and back, along the tables: JSON, YAML, protobuf and CBOR.

pub mod cbor;
pub mod frame;
pub mod json;
pub mod proto;
pub mod scalar;
pub mod yaml;
