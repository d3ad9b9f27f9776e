//! The shared suite on each engine of this crate.

use futures::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use store::embedded::Options;
use store::suite::{self, model};
use store::{Embedded, Error, EventKind, KeyRange, Memory, Op, RangeRequest, Store, Txn, WatchRequest};

/// Little of everything, so that small tests reach the slow paths too.
fn small() -> Options {
    Options {
        cache_bytes: 1 << 20,
        recent_bytes: 16 << 10,
        log_bytes: 32 << 10,
        watch_records: 64,
        watch_bytes: 64 << 10,
        ..Options::default()
    }
}

async fn embedded(dir: PathBuf, options: Options) -> Arc<dyn Store> {
    Arc::new(Embedded::open(&dir, options).await.expect("open"))
}

/// Another history on every run of the nightly job, the same one otherwise.
fn seed() -> u64 {
    std::env::var("STORE_SEED").map_or(1, |seed| seed.parse().expect("STORE_SEED is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_passes_the_suite() {
    suite::all(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_passes_the_suite() {
    let dir = tempfile::tempdir().expect("a directory");
    suite::all(embedded(dir.path().join("normal"), Options::default()).await).await;
    suite::all(embedded(dir.path().join("small"), small()).await).await;
}

#[tokio::test]
async fn memory_follows_the_model() {
    for seed in seed()..seed() + 5 {
        model::run(Arc::new(Memory::new()), "model", seed, 1000, None).await;
    }
}

#[tokio::test]
async fn embedded_follows_the_model() {
    let dir = tempfile::tempdir().expect("a directory");
    for seed in seed()..seed() + 5 {
        let path = dir.path().join(seed.to_string());
        let store = embedded(path.clone(), small()).await;
        let reopen = move |store: Arc<dyn Store>| -> futures::future::BoxFuture<'static, Arc<dyn Store>> {
            let path = path.clone();
            Box::pin(async move {
                store.close().await.expect("close");
                drop(store);
                embedded(path, small()).await
            })
        };
        model::run(store, "model", seed, 1000, Some(&reopen)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = embedded(dir.path().to_owned(), small()).await;
    let put = |name: &'static str, lease| {
        Txn::always(Op::Put {
            key: name.into(),
            value: "x".into(),
            lease,
        })
    };
    let ttl = std::time::Duration::from_secs(3600);
    let (kept, revoked) = (
        store.lease_grant(ttl).await.expect("grant"),
        store.lease_grant(ttl).await.expect("grant"),
    );
    for txn in [put("/a", kept.id), put("/b", revoked.id), put("/c", 0)] {
        store.txn(txn).await.expect("put");
    }
    store.lease_revoke(revoked.id).await.expect("revoke");
    store.close().await.expect("close");
    drop(store);
    let store = embedded(dir.path().to_owned(), small()).await;
    assert!(matches!(
        store.lease_keep_alive(revoked.id).await,
        Err(Error::LeaseNotFound(_))
    ));
    assert_eq!(store.lease_keep_alive(kept.id).await.expect("still there"), kept);
    let next = store.lease_grant(ttl).await.expect("grant");
    assert!(next.id > revoked.id, "no lease is given twice");
    store.lease_revoke(kept.id).await.expect("revoke");
    let left = store
        .range(RangeRequest::new(KeyRange::all()))
        .await
        .expect("range")
        .kvs;
    assert_eq!(left.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"/c"]);
}

/// Superseded history gives its space back: the files stop growing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_gives_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = embedded(dir.path().to_owned(), small()).await;
    let mut sizes = Vec::new();
    for _ in 0..12 {
        let writes =
            (0..400).map(|number| store.txn(Txn::put(format!("/{}", number % 20), vec![b'x'; 2000])));
        let revisions = futures::future::try_join_all(writes).await.expect("puts");
        store
            .compact(revisions[revisions.len() - 1].revision)
            .await
            .expect("compact");
        // Removal goes on behind: until little more than the newest values is left.
        let removed = async {
            while store.status().await.expect("status").size_in_use > 30 * 2100 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), removed)
            .await
            .expect("history is removed");
        sizes.push(store.status().await.expect("status").size);
    }
    assert!(sizes[11] < sizes[3] + sizes[3] / 2, "{sizes:?}");
}

/// Where etcd before 3.5.19 loses an event, our engines do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_at_the_compacted_revision_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let stores: [Arc<dyn Store>; 2] = [
        Arc::new(Memory::new()),
        embedded(dir.path().to_owned(), small()).await,
    ];
    for store in stores {
        store.txn(Txn::put("/a", "1")).await.expect("put");
        let deletion = Txn::always(Op::Delete(KeyRange::key("/a")));
        let deleted = store.txn(deletion).await.expect("delete").revision;
        store.txn(Txn::put("/b", "1")).await.expect("put");
        store.compact(deleted).await.expect("compact");
        let request = WatchRequest::new(KeyRange::all(), deleted).prev_kv();
        let mut watch = store.watch(request).await.expect("watch");
        let first = watch.next().await.expect("the watch goes on").expect("a batch");
        assert_eq!(
            (first.events[0].kind, &first.events[0].kv.key[..]),
            (EventKind::Delete, &b"/a"[..])
        );
        assert_eq!(
            first.events[0].prev.as_ref().expect("what was deleted").value,
            "1"
        );
    }
}
