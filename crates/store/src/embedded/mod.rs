//! The embedded engine: one file, one writer, everything acknowledged is on disk.
//!
//! ```text
//!  txn ─► inbox ─► writer thread: draft ─► storage (one fsync) ─► index ─► hub ─► answers
//!                     ▲ decides against index + drafts      │         │
//!  range ────────────────────────────────────────── index + storage   └─► queues of watches
//!  watch ◄── queue, or index.recent, or storage when lagging
//! ```
//!
//! Many concurrent transactions are decided in order by one thread, made durable together, then shown
//! to readers and watches, then acknowledged.
//!
//! **Invariant:** memory (`index`, `hub`, `lease`) changes only after the commit that says the same.
//! **Invariant:** locks are taken in the order hub, index, storage.
//!
//! It wakes nobody and polls nothing while nothing happens. It does not replicate; etcd does.

mod disk;
mod draft;
mod engine;
mod feed;
mod hub;
mod inbox;
mod index;
mod record;
mod storage;
mod writer;

pub use disk::{DataDir, Disk, DiskFile};
pub use engine::{Embedded, Options};
