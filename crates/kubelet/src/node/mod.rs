//! The Node object: registration, status, lease; and what all parts of the kubelet share.

pub mod context;
pub mod lease;
pub mod machine;
pub mod object;
pub mod reporter;
