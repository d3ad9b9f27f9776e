//! Bytes between machines: HTTP/1.1 and 2 over TLS, certificates, and the upgraded streams that exec,
//! attach and port-forward use. Knows no kind and no route.

pub mod body;
pub mod certs;
mod gather;
pub mod server;
pub mod streams;
pub mod tls;
