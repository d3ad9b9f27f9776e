//! Checks of leases.

use super::{delete, events, everything, get, key, list, watch};
use crate::{Error, EventKind, LeaseId, Op, Store, Txn};
use std::sync::Arc;
use std::time::Duration;

async fn put(store: &Arc<dyn Store>, prefix: &str, name: &str, lease: LeaseId) -> i64 {
    let op = Op::Put {
        key: key(prefix, name),
        value: "x".into(),
        lease,
    };
    store.txn(Txn::always(op)).await.expect("put").revision
}

pub(super) async fn keys_leave_with_their_lease(store: Arc<dyn Store>, prefix: &'static str) {
    let lease = store.lease_grant(Duration::from_secs(3600)).await.expect("grant");
    assert!(lease.ttl >= Duration::from_secs(3600));
    let other = store.lease_grant(Duration::from_secs(3600)).await.expect("grant");
    assert_ne!(lease.id, other.id);
    for name in ["gone-1", "gone-2", "moved", "freed", "deleted"] {
        put(&store, prefix, name, lease.id).await;
    }
    assert_eq!(
        get(&store, &key(prefix, "gone-1")).await.expect("the key").lease,
        lease.id
    );
    put(&store, prefix, "moved", other.id).await;
    put(&store, prefix, "freed", 0).await;
    delete(&store, key(prefix, "deleted")).await;
    let base = put(&store, prefix, "deleted", 0).await;
    let mut watch = watch(&store, everything(prefix), 0).await;
    store.lease_revoke(lease.id).await.expect("revoke");
    let seen = events(&mut watch, 2).await;
    assert!(
        seen.iter()
            .all(|event| event.kind == EventKind::Delete && event.kv.mod_revision == base + 1)
    );
    let left = list(&store, everything(prefix), 0).await;
    let names: Vec<_> = left.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(
        names,
        [key(prefix, "deleted"), key(prefix, "freed"), key(prefix, "moved")]
    );
    assert!(matches!(
        store.lease_revoke(lease.id).await,
        Err(Error::LeaseNotFound(_))
    ));
    store.lease_revoke(other.id).await.expect("revoke");
    assert_eq!(get(&store, &key(prefix, "moved")).await, None);
}

pub(super) async fn unknown_leases(store: Arc<dyn Store>, prefix: &'static str) {
    const UNKNOWN: LeaseId = 0x7fff_0000_0000;
    let op = Op::Put {
        key: key(prefix, "a"),
        value: "x".into(),
        lease: UNKNOWN,
    };
    assert!(matches!(
        store.txn(Txn::always(op)).await,
        Err(Error::LeaseNotFound(UNKNOWN))
    ));
    assert!(matches!(
        store.lease_keep_alive(UNKNOWN).await,
        Err(Error::LeaseNotFound(UNKNOWN))
    ));
    assert!(matches!(
        store.lease_revoke(UNKNOWN).await,
        Err(Error::LeaseNotFound(UNKNOWN))
    ));
    assert_eq!(get(&store, &key(prefix, "a")).await, None);
}

pub(super) async fn expiry_deletes_keys(store: Arc<dyn Store>, prefix: &'static str) {
    let lease = store.lease_grant(Duration::from_secs(1)).await.expect("grant");
    let mut watch = watch(&store, everything(prefix), 0).await;
    put(&store, prefix, "a", lease.id).await;
    put(&store, prefix, "stays", 0).await;
    let seen = events(&mut watch, 3).await;
    assert_eq!(
        (seen[2].kind, &seen[2].kv.key),
        (EventKind::Delete, &key(prefix, "a"))
    );
    assert_eq!(list(&store, everything(prefix), 0).await.len(), 1);
    // The lease goes a moment after its keys.
    while store.lease_keep_alive(lease.id).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        store.lease_keep_alive(lease.id).await,
        Err(Error::LeaseNotFound(_))
    ));
}

pub(super) async fn keeping_alive_starts_again(store: Arc<dyn Store>, prefix: &'static str) {
    let lease = store.lease_grant(Duration::from_secs(2)).await.expect("grant");
    put(&store, prefix, "a", lease.id).await;
    // Kept alive for longer than it would live alone. Time itself is what is checked here.
    for _ in 0..4 {
        tokio::time::sleep(lease.ttl / 3).await;
        assert_eq!(store.lease_keep_alive(lease.id).await.expect("alive"), lease);
        assert!(get(&store, &key(prefix, "a")).await.is_some());
    }
    let mut watch = watch(&store, everything(prefix), 0).await;
    assert_eq!(events(&mut watch, 1).await[0].kind, EventKind::Delete);
}
