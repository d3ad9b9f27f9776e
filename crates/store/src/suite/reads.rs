//! Checks of ranges, of the past, and of forgetting it.

use super::{delete, everything, get, key, list, pairs, put};
use crate::{Error, KeyRange, RangeRequest, Select, Store};
use bytes::Bytes;
use std::sync::Arc;

pub(super) async fn ranges(store: Arc<dyn Store>, prefix: &'static str) {
    for name in ["a", "a/1", "a/2", "a0", "b"] {
        put(&store, key(prefix, name), name.to_owned()).await;
    }
    let check = async |range: KeyRange, expected: &[&str]| {
        let kvs = list(&store, range.clone(), 0).await;
        let found: Vec<_> = kvs
            .iter()
            .map(|kv| std::str::from_utf8(&kv.value).expect("text"))
            .collect();
        assert_eq!(found, expected, "{range:?}");
    };
    check(everything(prefix), &["a", "a/1", "a/2", "a0", "b"]).await;
    check(KeyRange::prefix(key(prefix, "a/")), &["a/1", "a/2"]).await;
    check(KeyRange::key(key(prefix, "a")), &["a"]).await;
    check(KeyRange::key(key(prefix, "c")), &[]).await;
    check(
        KeyRange::between(key(prefix, "a/2"), key(prefix, "b")),
        &["a/2", "a0"],
    )
    .await;
    check(KeyRange::between(key(prefix, "b"), key(prefix, "a")), &[]).await;
    check(
        KeyRange::prefix_from(&key(prefix, ""), key(prefix, "a/2\0")),
        &["a0", "b"],
    )
    .await;
    let whole = list(&store, KeyRange::all(), 0).await;
    assert!(
        whole.windows(2).all(|pair| pair[0].key < pair[1].key),
        "in order, each once"
    );
    assert!(whole.len() >= 5);
}

pub(super) async fn limits_and_counts(store: Arc<dyn Store>, prefix: &'static str) {
    for number in 0..10 {
        put(&store, key(prefix, &format!("{number}")), "value").await;
    }
    delete(&store, key(prefix, "3")).await;
    let revision = store.current_revision().await.expect("revision");
    for at in [0, revision] {
        let request = || RangeRequest::new(everything(prefix)).at(at);
        let page = store.range(request().limit(4)).await.expect("range");
        assert_eq!(
            (page.kvs.len(), page.more, page.count, page.revision),
            (4, true, 9, revision)
        );
        let page = store.range(request().limit(9)).await.expect("range");
        assert_eq!((page.kvs.len(), page.more, page.count), (9, false, 9));
        let keys = store
            .range(request().select(Select::KeysOnly).limit(2))
            .await
            .expect("range");
        assert_eq!((keys.kvs.len(), keys.more, keys.count), (2, true, 9));
        assert!(keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.version == 1));
        let count = store
            .range(request().select(Select::CountOnly))
            .await
            .expect("range");
        assert_eq!((count.kvs.len(), count.count), (0, 9));
    }
}

pub(super) async fn past_revisions(store: Arc<dyn Store>, prefix: &'static str) {
    let (a, b) = (key(prefix, "a"), key(prefix, "b"));
    let revisions = [
        put(&store, a.clone(), "1").await,
        put(&store, b.clone(), "1").await,
        put(&store, a.clone(), "2").await,
        delete(&store, a.clone()).await,
        put(&store, a.clone(), "3").await,
    ];
    let states: [&[(&[u8], &[u8])]; 5] = [
        &[(&a, b"1")],
        &[(&a, b"1"), (&b, b"1")],
        &[(&a, b"2"), (&b, b"1")],
        &[(&b, b"1")],
        &[(&a, b"3"), (&b, b"1")],
    ];
    for (revision, state) in revisions.into_iter().zip(states) {
        assert_eq!(
            pairs(&list(&store, everything(prefix), revision).await),
            state,
            "at {revision}"
        );
    }
    assert!(
        list(&store, everything(prefix), revisions[0] - 1)
            .await
            .is_empty()
    );
    let old = list(&store, KeyRange::key(a), revisions[2]).await;
    assert_eq!(
        (old[0].create_revision, old[0].mod_revision, old[0].version),
        (revisions[0], revisions[2], 2)
    );
    let requested = revisions[4] + 1;
    let error = store
        .range(RangeRequest::new(everything(prefix)).at(requested))
        .await
        .expect_err("future");
    assert!(
        matches!(error, Error::FutureRevision { requested: wanted, .. } if wanted == requested),
        "{error}"
    );
}

pub(super) async fn compaction(store: Arc<dyn Store>, prefix: &'static str) {
    let (a, b) = (key(prefix, "a"), key(prefix, "b"));
    let first = put(&store, a.clone(), "1").await;
    put(&store, b.clone(), "1").await;
    let second = put(&store, a.clone(), "2").await;
    let third = put(&store, a.clone(), "3").await;
    let before = list(&store, everything(prefix), second).await;
    store.compact(second).await.expect("compact");
    assert_eq!(store.status().await.expect("status").compact_revision, second);
    let error = store
        .range(RangeRequest::new(everything(prefix)).at(first))
        .await
        .expect_err("compacted");
    assert!(
        matches!(error, Error::Compacted { requested, compact_revision }
        if requested == first && compact_revision == second),
        "{error}"
    );
    assert_eq!(
        list(&store, everything(prefix), second).await,
        before,
        "the compacted revision itself stays"
    );
    assert_eq!(list(&store, everything(prefix), third).await.len(), 2);
    assert_eq!(get(&store, &b).await.expect("untouched since").value, "1");
    assert!(
        matches!(store.compact(second).await, Err(Error::Compacted { .. })),
        "only once"
    );
    assert!(
        matches!(store.compact(first).await, Err(Error::Compacted { .. })),
        "never back"
    );
    assert!(matches!(
        store.compact(third + 1000).await,
        Err(Error::FutureRevision { .. })
    ));
    store.compact(third).await.expect("compact to the newest");
    assert_eq!(
        pairs(&list(&store, everything(prefix), 0).await),
        [(&a[..], &b"3"[..]), (&b, b"1")]
    );
    let kv = get(&store, &a).await.expect("the key");
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version),
        (first, third, 3)
    );
}

pub(super) async fn deleted_then_compacted(store: Arc<dyn Store>, prefix: &'static str) {
    let a = key(prefix, "a");
    put(&store, a.clone(), "1").await;
    let deleted = delete(&store, a.clone()).await;
    let other = put(&store, key(prefix, "b"), "1").await;
    store.compact(other).await.expect("compact");
    assert_eq!(get(&store, &a).await, None);
    assert!(other > deleted);
    assert_eq!(list(&store, everything(prefix), 0).await.len(), 1);
    let back = put(&store, a.clone(), "2").await;
    let kv = get(&store, &a).await.expect("the key");
    assert_eq!((kv.create_revision, kv.version), (back, 1));
    assert_eq!(
        list(&store, everything(prefix), other).await.len(),
        1,
        "it did not exist in between"
    );
}

pub(super) async fn binary_and_empty(store: Arc<dyn Store>, prefix: &'static str) {
    let big: Bytes = (0..1_500_000_u32).map(|number| (number % 251) as u8).collect();
    let mut odd = key(prefix, "").to_vec();
    odd.extend_from_slice(&[0, 0xff, 0, 0xfe]);
    for (key, value) in [(key(prefix, "empty"), Bytes::new()), (Bytes::from(odd), big)] {
        put(&store, key.clone(), value.clone()).await;
        assert_eq!(get(&store, &key).await.expect("the key").value, value);
        assert_eq!(list(&store, KeyRange::key(key), 0).await[0].value, value);
    }
}
