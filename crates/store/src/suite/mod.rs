//! What every [`Store`] must do, as checks that run against any of them. For tests only.
//!
//! A check gets a store others have used before: it works under a prefix of its own and compares
//! revisions with the one it found. Every check panics with what it expected. [`all`] runs the
//! lot; [`model::run`] compares random histories with a sequential model.

mod leases;
pub mod model;
mod reads;
mod txns;
mod watches;

use crate::{Batch, Error, Event, EventKind, KeyRange, KeyValue, RangeRequest, Store, Txn, Watch};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// One check: its name, and what it does under a prefix.
pub type Check = (
    &'static str,
    fn(Arc<dyn Store>, &'static str) -> BoxFuture<'static, ()>,
);

macro_rules! checks {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((stringify!($name), |store, prefix| Box::pin($module::$name(store, prefix)))),*]
    };
}

/// Every check but that for closing, which ends the store.
pub const CHECKS: &[Check] = checks![
    leases::expiry_deletes_keys,
    leases::keys_leave_with_their_lease,
    leases::keeping_alive_starts_again,
    leases::unknown_leases,
    reads::binary_and_empty,
    reads::compaction,
    reads::deleted_then_compacted,
    reads::limits_and_counts,
    reads::past_revisions,
    reads::ranges,
    txns::comparisons,
    txns::concurrent_counters,
    txns::deleting_ranges,
    txns::impossible_requests,
    txns::many_changes_one_revision,
    txns::revisions_and_versions,
    txns::shorthands,
    watches::across_keys_and_ranges,
    watches::compacted,
    watches::from_the_future,
    watches::from_the_past,
    watches::progress_is_told,
    watches::slow_reader_catches_up,
    watches::under_concurrent_writes,
    watches::whole_revisions,
    watches::with_previous_values,
];

/// Runs every check on one store, and closes it.
pub async fn all(store: Arc<dyn Store>) {
    for (name, check) in CHECKS {
        println!("store check: {name}");
        check(store.clone(), name).await;
    }
    closing(store).await;
}

/// Closing ends watches and refuses everything else, once or twice.
pub async fn closing(store: Arc<dyn Store>) {
    let mut watch = watch(&store, KeyRange::all(), 0).await;
    put(&store, "/closing", "x").await;
    store.close().await.expect("close");
    store.close().await.expect("close again");
    let first = watch
        .next()
        .await
        .expect("what was acknowledged is delivered")
        .expect("a batch");
    assert_eq!(first.events.len(), 1);
    assert!(watch.next().await.is_none(), "the watch has ended");
    assert!(matches!(store.get(b"/closing").await, Err(Error::Closed)));
    assert!(matches!(
        store.txn(Txn::put("/closing", "y")).await,
        Err(Error::Closed)
    ));
    assert!(matches!(store.current_revision().await, Err(Error::Closed)));
}

fn key(prefix: &str, name: &str) -> Bytes {
    Bytes::from(format!("/suite/{prefix}/{name}"))
}

fn everything(prefix: &str) -> KeyRange {
    KeyRange::prefix(format!("/suite/{prefix}/"))
}

async fn put(store: &Arc<dyn Store>, key: impl Into<Bytes>, value: impl Into<Bytes>) -> i64 {
    store.txn(Txn::put(key, value)).await.expect("put").revision
}

async fn delete(store: &Arc<dyn Store>, key: impl Into<Bytes>) -> i64 {
    store
        .txn(Txn::always(crate::Op::Delete(KeyRange::key(key))))
        .await
        .expect("delete")
        .revision
}

async fn get(store: &Arc<dyn Store>, key: &[u8]) -> Option<KeyValue> {
    store.get(key).await.expect("get").kv
}

async fn list(store: &Arc<dyn Store>, range: KeyRange, revision: i64) -> Vec<KeyValue> {
    store
        .range(RangeRequest::new(range).at(revision))
        .await
        .expect("range")
        .kvs
}

fn pairs(kvs: &[KeyValue]) -> Vec<(&[u8], &[u8])> {
    kvs.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect()
}

async fn watch(store: &Arc<dyn Store>, range: KeyRange, from: i64) -> Watch {
    store
        .watch(crate::WatchRequest::new(range, from))
        .await
        .expect("watch")
}

/// The next batch with events.
async fn batch(watch: &mut Watch) -> Batch {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(300), watch.next());
        let batch = next
            .await
            .expect("a batch in time")
            .expect("the watch goes on")
            .expect("no error");
        if !batch.events.is_empty() {
            return batch;
        }
    }
}

/// The next events, as many as asked for.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(batch(watch).await.events);
    }
    assert_eq!(events.len(), count, "{events:#?}");
    events
}

fn brief(event: &Event) -> (EventKind, i64, &[u8], &[u8]) {
    (event.kind, event.kv.mod_revision, &event.kv.key, &event.kv.value)
}
