//! Why a store refused or failed. The API server maps these to a `Status`; the texts are for operators.

use std::path::PathBuf;
use std::sync::Arc;

/// What every operation of a store returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Cheap to clone, because one failed commit answers many waiting transactions.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The revision asked for is no longer kept.
    #[error("revision {requested} has been compacted, the oldest kept is {compact_revision}")]
    Compacted { requested: i64, compact_revision: i64 },

    /// The revision asked for does not exist yet.
    #[error("revision {requested} is in the future, the newest is {current}")]
    FutureRevision { requested: i64, current: i64 },

    /// The transaction changes a key twice, which one revision cannot express.
    #[error("duplicate key given in transaction: {}", key.escape_ascii())]
    DuplicateKey { key: bytes::Bytes },

    /// The request makes no sense, whatever the store holds.
    #[error("invalid request: {0}")]
    Invalid(&'static str),

    /// The transaction is bigger than the store takes.
    #[error("transaction of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },

    /// No such lease, or it has expired.
    #[error("lease {0:x} not found")]
    LeaseNotFound(i64),

    /// The disk is full. Nothing was changed; reads go on, writes work again once there is space.
    #[error("no space left for the store in {}", path.display())]
    NoSpace { path: PathBuf },

    /// Nothing is known about the outcome: the change may or may not have happened.
    #[error("store unavailable: {reason}")]
    Unavailable {
        reason: String,
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },

    /// What was read is not what was written.
    #[error("{} is corrupt ({detail}); restore the data directory from a backup, or move the file away to start empty",
        path.display())]
    Corrupt { path: PathBuf, detail: String },

    /// Another process has the data directory open.
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },

    /// The data directory cannot be opened or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },

    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}
