//! The store: revisioned bytes with etcd's semantics, behind one `dyn` trait.
//!
//! A [`Store`] maps keys to values and counts every change with one revision counter. It knows no
//! kinds, no encodings and no Kubernetes. What it promises is what etcd promises, in etcd's words:
//!
//! - **Invariant:** a transaction that changes something gets the next revision; all its changes
//!   carry that one revision. An empty store stands at revision 1, so the first change is revision 2.
//! - **Invariant:** whatever was acknowledged is durable, and nothing is visible to a range or a watch
//!   before it is durable. A revision is never used twice, whatever crashes.
//! - **Invariant:** reads are linearizable: a range at revision 0 sees every transaction acknowledged
//!   before it was asked.
//! - **Invariant:** a watch delivers every change of its range once, in order, a revision never split
//!   across batches, or ends with [`Error::Compacted`]. A slow reader never holds up a writer.
//!
//! [`Embedded`] keeps everything on the local disk, [`Etcd`] in an etcd cluster, of which [`Elsewhere`] shows another prefix.
//! [`Memory`] keeps everything in memory and is the executable description of these rules.
//! What it deliberately lacks: users, quotas, leader election, kinds.

mod elsewhere;
pub mod embedded;
mod error;
mod etcd;
mod lease;
mod memory;
pub mod suite;
mod types;
mod validate;
mod watch;

pub use elsewhere::Elsewhere;
pub use embedded::Embedded;
pub use error::{Error, Result};
pub use etcd::{Etcd, EtcdTls};
pub use memory::Memory;
pub use types::{
    Batch, Compare, DeleteResponse, Event, EventKind, GetResponse, KeyRange, KeyValue, Lease, LeaseId, Op,
    OpResponse, RangeRequest, RangeResponse, Select, Status, Target, Txn, TxnResponse, WatchRequest,
};
pub use watch::{ProgressHandle, Watch};

use async_trait::async_trait;
use std::fmt::Debug;
use std::time::Duration;

/// The revision of a store nothing was ever written to.
pub const FIRST_REVISION: i64 = 1;

/// A revisioned key-value store. See the crate documentation for what every implementation promises.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// One key, newest state.
    async fn get(&self, key: &[u8]) -> Result<GetResponse>;

    /// The keys of a range in order, at the newest or at an earlier revision.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse>;

    /// Compares and then does one of two lists of operations, all or nothing, durable when this returns.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse>;

    /// Changes to a range from a revision on. When this returns, the watch stands: with
    /// `from_revision` 0 it sees everything acknowledged afterwards. A revision already compacted
    /// is reported by the stream ([`Error::Compacted`]), not here.
    async fn watch(&self, request: WatchRequest) -> Result<Watch>;

    /// Forgets history below `revision`: what was superseded before it can no longer be read or
    /// watched. Returns when the fact is durable; the space is reclaimed soon after.
    async fn compact(&self, revision: i64) -> Result<()>;

    /// A lease of at least one second. Keys put with it are deleted when it expires or is revoked.
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease>;

    /// Starts the lease's time to live again.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease>;

    /// Ends the lease and deletes its keys in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<()>;

    /// The revision of the newest acknowledged change.
    async fn current_revision(&self) -> Result<i64>;

    /// Revisions and size, for metrics and diagnosis.
    async fn status(&self) -> Result<Status>;

    /// Finishes what is under way and ends every watch. Later calls fail with [`Error::Closed`].
    /// Closing twice is harmless.
    async fn close(&self) -> Result<()>;
}
