//! The streams of exec, attach and port-forward, as every kubectl there is speaks them.
//!
//! ```text
//!  request headers ──► Upgrade::negotiate ──► 101 response
//!  upgraded bytes  ──► Upgrade::remote_command ──► Streams { stdin, stdout, stderr, resize, status }
//!                  └─► Upgrade::port_forward   ──► Forwards, one pair of streams a connection
//!
//!  WebSocket  v5.channel.k8s.io, v4…, channel.k8s.io and their base64 forms; newer kubectl
//!  SPDY/3.1   v4.channel.k8s.io … v2, portforward.k8s.io; kubectl before 1.29, and inside a WebSocket
//!             (SPDY/3.1+portforward.k8s.io) kubectl's port-forward from 1.31 on
//! ```
//!
//! **Invariant:** every queue between the connection and its streams is bounded: a slow side slows the other
//! down and costs no memory.

mod channel;
mod forward;
mod negotiate;
mod remote;
pub mod spdy;
mod websocket;

pub use channel::{Reader, Writer};
pub use forward::{Forward, Forwards};
pub use negotiate::{Kind, Refused, Upgrade};
pub use remote::{Options, Outcome, Streams, TerminalSize};

use tokio::io::{AsyncRead, AsyncWrite};

/// An upgraded connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An upgraded connection of whatever kind; the protocols below are compiled once.
pub type BoxIo = Box<dyn Io>;
