//! SPDY/3.1, as far as it is in use: what `moby/spdystream` sends and understands.
//!
//! There is no flow control by windows (nobody on the other side keeps any): a reader that does not read
//! holds up the connection, as TCP would.

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, Stream};
