//! The embedded engine: one writer, everything acknowledged is on disk.
//!
//! ```text
//!  txn ──► inbox ──► writer: draft ──► log (one sync) ──► index ──► hub ──► answers
//!                              ▲                            │         └─► queues of watches
//!                              └── index, recent records ◄──┘
//!                    keeper: ◄─ a file of the log is full ─ records ──► tables (redb)
//!
//!  range ◄── index, recent records, tables        watch ◄── queue, else recent records, else tables
//! ```
//!
//! Many concurrent transactions are decided in order by one thread, made durable together, then shown
//! to readers and watches, then acknowledged. The tables follow in big steps.
//!
//! Why a log before `redb`: measured without one, a commit of `redb` cost 110 µs of processor time and 37 KB of
//! writes however small it was (fsync of 80 µs), and under an API server that keeps both cores busy only
//! some three writes come together. 8 in flight: 62 µs a write without the log, 19 with it, client
//! included. Now: `cargo run --release -p store --example bench`.
//!
//! **Invariant:** memory (`index`, `hub`, `lease`) changes only after the frame that says the same is synced.
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
mod keeper;
mod log;
mod opening;
mod record;
mod storage;
mod writer;

pub use disk::{DataDir, Disk, DiskFile};
pub use engine::{Embedded, Options};
