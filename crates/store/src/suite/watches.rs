//! Checks of watches: everything once, in order, whole revisions, whoever is slow.

use super::{batch, brief, delete, events, everything, get, key, list, put, watch};
use crate::{Error, EventKind, KeyRange, Op, Store, Txn, WatchRequest};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) async fn across_keys_and_ranges(store: Arc<dyn Store>, prefix: &'static str) {
    let mut all = watch(&store, everything(prefix), 0).await;
    let mut one = watch(&store, KeyRange::key(key(prefix, "a")), 0).await;
    let first = put(&store, key(prefix, "a"), "1").await;
    let second = put(&store, key(prefix, "b"), "2").await;
    put(&store, format!("/elsewhere/{prefix}"), "x").await;
    let third = delete(&store, key(prefix, "a")).await;
    let (a, b) = (key(prefix, "a"), key(prefix, "b"));
    let seen = events(&mut all, 3).await;
    assert_eq!(
        seen.iter().map(brief).collect::<Vec<_>>(),
        [
            (EventKind::Put, first, &a[..], &b"1"[..]),
            (EventKind::Put, second, &b, b"2"),
            (EventKind::Delete, third, &a, b"")
        ]
    );
    assert!(seen.iter().all(|event| event.prev.is_none()), "not asked for");
    assert_eq!((seen[2].kv.create_revision, seen[2].kv.version), (0, 0));
    let seen = events(&mut one, 2).await;
    assert_eq!(
        seen.iter().map(|event| event.kv.mod_revision).collect::<Vec<_>>(),
        [first, third]
    );
}

pub(super) async fn from_the_past(store: Arc<dyn Store>, prefix: &'static str) {
    let first = put(&store, key(prefix, "a"), "1").await;
    let second = put(&store, key(prefix, "a"), "2").await;
    delete(&store, key(prefix, "a")).await;
    let mut whole = watch(&store, everything(prefix), first).await;
    let mut part = watch(&store, everything(prefix), second).await;
    let last = put(&store, key(prefix, "b"), "3").await;
    let seen = events(&mut whole, 4).await;
    let revisions: Vec<_> = seen.iter().map(|event| event.kv.mod_revision).collect();
    assert_eq!(revisions, [first, second, second + 1, last]);
    assert_eq!(events(&mut part, 3).await, seen[1..]);
}

pub(super) async fn from_the_future(store: Arc<dyn Store>, prefix: &'static str) {
    let base = store.current_revision().await.expect("revision");
    let mut later = watch(&store, everything(prefix), base + 3).await;
    for number in 1..=4 {
        put(&store, key(prefix, "a"), number.to_string()).await;
    }
    let seen = events(&mut later, 2).await;
    assert_eq!(
        seen.iter().map(|event| event.kv.mod_revision).collect::<Vec<_>>(),
        [base + 3, base + 4]
    );
}

pub(super) async fn whole_revisions(store: Arc<dyn Store>, prefix: &'static str) {
    const KEYS: usize = 100;
    let put_op = |number: usize, value: &'static str| {
        let key = key(prefix, &format!("{number:03}"));
        Op::Put {
            key,
            value: value.into(),
            lease: 0,
        }
    };
    let mut live = watch(&store, everything(prefix), 0).await;
    let mut revisions = Vec::new();
    for value in ["x", "y", "z"] {
        let then = (0..KEYS).map(|number| put_op(number, value)).collect();
        revisions.push(
            store
                .txn(Txn {
                    then,
                    ..Txn::default()
                })
                .await
                .expect("txn")
                .revision,
        );
    }
    let mut replay = watch(&store, everything(prefix), revisions[0]).await;
    for watch in [&mut live, &mut replay] {
        let mut seen = Vec::new();
        while seen.len() < revisions.len() * KEYS {
            let batch = batch(watch).await;
            assert_eq!(batch.events.len() % KEYS, 0, "a revision was split");
            assert!(batch.revision >= batch.events[batch.events.len() - 1].kv.mod_revision);
            seen.extend(batch.events);
        }
        for (place, event) in seen.iter().enumerate() {
            assert_eq!(event.kv.mod_revision, revisions[place / KEYS]);
            assert_eq!(
                event.kv.key,
                key(prefix, &format!("{:03}", place % KEYS)),
                "in order of the operations"
            );
        }
    }
}

pub(super) async fn with_previous_values(store: Arc<dyn Store>, prefix: &'static str) {
    let request = |from| WatchRequest::new(everything(prefix), from).prev_kv();
    let mut live = store.watch(request(0)).await.expect("watch");
    let a = key(prefix, "a");
    let first = put(&store, a.clone(), "1").await;
    put(&store, a.clone(), "2").await;
    delete(&store, a.clone()).await;
    put(&store, a.clone(), "3").await;
    let mut replay = store.watch(request(first)).await.expect("watch");
    for watch in [&mut live, &mut replay] {
        let seen = events(watch, 4).await;
        let prev: Vec<_> = seen
            .iter()
            .map(|event| {
                event
                    .prev
                    .as_ref()
                    .map(|prev| (&prev.value[..], prev.mod_revision, prev.version))
            })
            .collect();
        assert_eq!(
            prev,
            [
                None,
                Some((&b"1"[..], first, 1)),
                Some((b"2", first + 1, 2)),
                None
            ]
        );
    }
}

pub(super) async fn compacted(store: Arc<dyn Store>, prefix: &'static str) {
    let a = key(prefix, "a");
    let first = put(&store, a.clone(), "1").await;
    let second = put(&store, a.clone(), "2").await;
    let third = put(&store, a.clone(), "3").await;
    store.compact(third).await.expect("compact");
    for from in [first, second] {
        let mut old = watch(&store, everything(prefix), from).await;
        let error = old.next().await.expect("an answer").expect_err("compacted");
        assert!(
            matches!(error, Error::Compacted { compact_revision, .. } if compact_revision == third),
            "{error}"
        );
        assert!(old.next().await.is_none(), "an error ends the watch");
    }
    let mut kept = watch(&store, everything(prefix), third).await;
    let last = put(&store, a, "4").await;
    let seen = events(&mut kept, 2).await;
    assert_eq!((seen[0].kind, seen[0].kv.mod_revision), (EventKind::Put, third));
    assert_eq!((seen[1].kind, seen[1].kv.mod_revision), (EventKind::Put, last));
}

pub(super) async fn progress_is_told(store: Arc<dyn Store>, prefix: &'static str) {
    let request = WatchRequest::new(everything(prefix), 0).progress();
    let mut watch = store.watch(request).await.expect("watch");
    let handle = watch.progress_handle();
    let next = async |watch: &mut crate::Watch| {
        let next = tokio::time::timeout(Duration::from_secs(300), watch.next());
        next.await
            .expect("in time")
            .expect("the watch goes on")
            .expect("no error")
    };
    let base = store.current_revision().await.expect("revision");
    let first = next(&mut watch).await;
    assert!(first.events.is_empty() && first.revision >= base, "{first:?}");
    // Changes elsewhere are no news, but progress covers them.
    let elsewhere = put(&store, format!("/elsewhere/{prefix}"), "x").await;
    handle.request();
    let told = next(&mut watch).await;
    assert!(
        told.events.is_empty() && told.revision >= elsewhere,
        "{told:?} for {elsewhere}"
    );
    let here = put(&store, key(prefix, "a"), "x").await;
    handle.request();
    let mut seen = Vec::new();
    loop {
        let batch = next(&mut watch).await;
        seen.extend(batch.events);
        if batch.revision >= here {
            break;
        }
    }
    assert_eq!(seen.len(), 1, "progress never overtakes an event");
}

/// Far more than any queue holds, while another watch keeps up and the writer is not held up.
pub(super) async fn slow_reader_catches_up(store: Arc<dyn Store>, prefix: &'static str) {
    const CHANGES: usize = 3000;
    let mut slow = watch(&store, everything(prefix), 0).await;
    let mut quick = watch(&store, everything(prefix), 0).await;
    let reader = tokio::spawn(async move { events(&mut quick, CHANGES).await.len() });
    let mut revisions = Vec::new();
    for number in 0..CHANGES / 50 {
        let writes = (0..50).map(|place| {
            let key = key(prefix, &format!("{}", (number * 50 + place) % 700));
            put(&store, key, vec![b'x'; 4000])
        });
        revisions.extend(futures::future::join_all(writes).await);
    }
    revisions.sort_unstable();
    assert_eq!(reader.await.expect("the quick reader"), CHANGES);
    let seen = events(&mut slow, CHANGES).await;
    assert_eq!(
        seen.iter().map(|event| event.kv.mod_revision).collect::<Vec<_>>(),
        revisions
    );
    let last = put(&store, key(prefix, "last"), "x").await;
    assert_eq!(
        events(&mut slow, 1).await[0].kv.mod_revision,
        last,
        "and is up to date again"
    );
}

/// What watches tell adds up to what is stored, wherever they begin.
pub(super) async fn under_concurrent_writes(store: Arc<dyn Store>, prefix: &'static str) {
    const WRITERS: usize = 6;
    const ROUNDS: usize = 60;
    let base = put(&store, key(prefix, "base"), "x").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for round in 0..ROUNDS {
                let key = key(prefix, &format!("{}", (writer * 7 + round) % 20));
                if round % 5 == 4 {
                    delete(&store, key).await;
                } else {
                    put(&store, key, format!("{writer}/{round}")).await;
                }
            }
        });
    }
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        readers.spawn(async move {
            let mut watch = watch(&store, everything(prefix), base).await;
            let mut state: BTreeMap<Bytes, (Bytes, i64)> = BTreeMap::new();
            let mut newest = 0;
            loop {
                for event in batch(&mut watch).await.events {
                    assert!(event.kv.mod_revision > newest, "in order and once");
                    newest = event.kv.mod_revision;
                    match event.kind {
                        EventKind::Put => drop(state.insert(event.kv.key, (event.kv.value, newest))),
                        EventKind::Delete => {
                            drop(state.remove(&event.kv.key).expect("deletes what was there"))
                        }
                    }
                }
                if state.contains_key(&key(prefix, "end")) {
                    return state;
                }
            }
        });
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    put(&store, key(prefix, "end"), "x").await;
    let stored: BTreeMap<_, _> = list(&store, everything(prefix), 0)
        .await
        .into_iter()
        .map(|kv| (kv.key, (kv.value, kv.mod_revision)))
        .collect();
    assert!(get(&store, &key(prefix, "end")).await.is_some());
    for state in readers.join_all().await {
        assert_eq!(state, stored);
    }
}
