//! Checks of transactions: what they see, what they change, what they refuse.

use super::{everything, get, key, list, pairs, put};
use crate::{
    Compare, DeleteResponse, Error, KeyRange, Op, OpResponse, RangeRequest, Store, Target, Txn, TxnResponse,
};
use bytes::Bytes;
use std::sync::Arc;

pub(super) async fn revisions_and_versions(store: Arc<dyn Store>, prefix: &'static str) {
    let key = key(prefix, "a");
    let base = store.current_revision().await.expect("revision");
    assert_eq!(get(&store, &key).await, None);
    for version in 1..=3 {
        assert_eq!(
            put(&store, key.clone(), format!("v{version}")).await,
            base + version
        );
        let kv = get(&store, &key).await.expect("the key");
        assert_eq!(
            (kv.create_revision, kv.mod_revision, kv.version, kv.lease),
            (base + 1, base + version, version, 0)
        );
        assert_eq!(kv.value, format!("v{version}"));
    }
    assert_eq!(super::delete(&store, key.clone()).await, base + 4);
    assert_eq!(get(&store, &key).await, None);
    assert_eq!(
        super::delete(&store, key.clone()).await,
        base + 4,
        "deleting nothing is no change"
    );
    assert_eq!(put(&store, key.clone(), "again").await, base + 5);
    let kv = get(&store, &key).await.expect("the key");
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version),
        (base + 5, base + 5, 1)
    );
    assert_eq!(store.current_revision().await.expect("revision"), base + 5);
}

pub(super) async fn comparisons(store: Arc<dyn Store>, prefix: &'static str) {
    let (a, missing) = (key(prefix, "a"), key(prefix, "missing"));
    let first = put(&store, a.clone(), "one").await;
    let second = put(&store, a.clone(), "two").await;
    let value = |text: &'static str| Target::Value(Bytes::from_static(text.as_bytes()));
    let cases = [
        (&a, Target::ModRevision(second), true),
        (&a, Target::ModRevision(first), false),
        (&a, Target::ModRevision(0), false),
        (&a, Target::CreateRevision(first), true),
        (&a, Target::CreateRevision(second), false),
        (&a, Target::Version(2), true),
        (&a, Target::Version(0), false),
        (&a, value("two"), true),
        (&a, value("one"), false),
        (&missing, Target::ModRevision(0), true),
        (&missing, Target::CreateRevision(0), true),
        (&missing, Target::Version(0), true),
        (&missing, Target::ModRevision(second), false),
        (&missing, value(""), false),
    ];
    for (key, target, holds) in cases {
        let compare = vec![Compare {
            key: key.clone(),
            target: target.clone(),
        }];
        let response = store
            .txn(Txn {
                compare,
                ..Txn::default()
            })
            .await
            .expect("txn");
        let expected = TxnResponse {
            succeeded: holds,
            revision: second,
            responses: vec![],
        };
        assert_eq!(response, expected, "{key:?} {target:?}");
    }
    let both = vec![
        Compare {
            key: a.clone(),
            target: Target::Version(2),
        },
        Compare {
            key: missing,
            target: Target::Version(1),
        },
    ];
    let response = store
        .txn(Txn {
            compare: both,
            ..Txn::default()
        })
        .await
        .expect("txn");
    assert!(!response.succeeded, "every comparison must hold");
}

pub(super) async fn shorthands(store: Arc<dyn Store>, prefix: &'static str) {
    let key = key(prefix, "a");
    let created = store
        .txn(Txn::create(key.clone(), "one", 0))
        .await
        .expect("create");
    assert!(created.succeeded);
    let again = store
        .txn(Txn::create(key.clone(), "two", 0))
        .await
        .expect("create again");
    assert!(!again.succeeded);
    assert_eq!(again.revision, created.revision);
    assert_eq!(again.found().expect("what is there").value, "one");
    let updated = store
        .txn(Txn::update(key.clone(), created.revision, "two", 0))
        .await
        .expect("update");
    assert!(updated.succeeded);
    let stale = store
        .txn(Txn::update(key.clone(), created.revision, "three", 0))
        .await
        .expect("stale update");
    assert_eq!(
        stale.found().expect("what is there").mod_revision,
        updated.revision
    );
    let stale = store
        .txn(Txn::delete(key.clone(), created.revision))
        .await
        .expect("stale delete");
    assert_eq!(stale.found().expect("what is there").value, "two");
    let deleted = store
        .txn(Txn::delete(key.clone(), updated.revision))
        .await
        .expect("delete");
    assert!(deleted.succeeded);
    let gone = store
        .txn(Txn::update(key.clone(), updated.revision, "x", 0))
        .await
        .expect("update of nothing");
    assert!(!gone.succeeded);
    assert_eq!(gone.found(), None);
}

pub(super) async fn many_changes_one_revision(store: Arc<dyn Store>, prefix: &'static str) {
    let base = put(&store, key(prefix, "c"), "old").await;
    let put_op = |name: &str, value: &'static str| Op::Put {
        key: key(prefix, name),
        value: value.into(),
        lease: 0,
    };
    let range = || Op::Range(RangeRequest::new(everything(prefix)));
    let then = vec![
        range(),
        put_op("a", "1"),
        range(),
        put_op("b", "2"),
        Op::Delete(KeyRange::key(key(prefix, "c"))),
        range(),
        Op::Range(RangeRequest::new(everything(prefix)).at(base)),
    ];
    let response = store
        .txn(Txn {
            then,
            ..Txn::default()
        })
        .await
        .expect("txn");
    assert!(response.succeeded);
    assert_eq!(response.revision, base + 1);
    let seen: Vec<Vec<&[u8]>> = response
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range(range) => Some(range.kvs.iter().map(|kv| &kv.value[..]).collect()),
            _ => None,
        })
        .collect();
    let expected: Vec<Vec<&[u8]>> = vec![vec![b"old"], vec![b"1", b"old"], vec![b"1", b"2"], vec![b"old"]];
    assert_eq!(seen, expected, "a transaction sees its own changes");
    let OpResponse::Delete(DeleteResponse { deleted }) = &response.responses[4] else {
        panic!("a deletion")
    };
    assert_eq!(pairs(deleted), [(&key(prefix, "c")[..], &b"old"[..])]);
    let kvs = list(&store, everything(prefix), 0).await;
    assert!(kvs.iter().all(|kv| kv.mod_revision == base + 1));
}

pub(super) async fn deleting_ranges(store: Arc<dyn Store>, prefix: &'static str) {
    for name in ["a", "b", "b/x", "c"] {
        put(&store, key(prefix, name), name.to_owned()).await;
    }
    let base = store.current_revision().await.expect("revision");
    let op = Op::Delete(KeyRange::prefix(key(prefix, "b")));
    let response = store.txn(Txn::always(op.clone())).await.expect("delete");
    assert_eq!(response.revision, base + 1);
    let [OpResponse::Delete(deletion)] = &response.responses[..] else {
        panic!("a deletion")
    };
    let names: Vec<_> = deletion.deleted.iter().map(|kv| &kv.value[..]).collect();
    assert_eq!(names, [&b"b"[..], b"b/x"]);
    let again = store.txn(Txn::always(op)).await.expect("delete nothing");
    assert_eq!(again.revision, base + 1);
    let left = list(&store, everything(prefix), 0).await;
    assert_eq!(
        left.iter().map(|kv| &kv.value[..]).collect::<Vec<_>>(),
        [&b"a"[..], b"c"]
    );
    assert_eq!(list(&store, everything(prefix), base).await.len(), 4);
}

pub(super) async fn impossible_requests(store: Arc<dyn Store>, prefix: &'static str) {
    let base = put(&store, key(prefix, "a"), "x").await;
    let put_op = || Op::Put {
        key: key(prefix, "a"),
        value: "y".into(),
        lease: 0,
    };
    let check = async |then: Vec<Op>, wanted: fn(&Error) -> bool| {
        let error = store
            .txn(Txn {
                then: then.clone(),
                ..Txn::default()
            })
            .await
            .expect_err("refused");
        assert!(wanted(&error), "{then:?}: {error}");
    };
    check(vec![put_op(), put_op()], |error| {
        matches!(error, Error::DuplicateKey { .. })
    })
    .await;
    check(vec![put_op(), Op::Delete(everything(prefix))], |error| {
        matches!(error, Error::DuplicateKey { .. })
    })
    .await;
    check(vec![Op::Delete(everything(prefix)), put_op()], |error| {
        matches!(error, Error::DuplicateKey { .. })
    })
    .await;
    check(
        vec![Op::Put {
            key: Bytes::new(),
            value: "y".into(),
            lease: 0,
        }],
        |error| matches!(error, Error::Invalid(_)),
    )
    .await;
    let future = Op::Range(RangeRequest::new(everything(prefix)).at(base + 1000));
    check(vec![put_op(), future], |error| {
        matches!(error, Error::FutureRevision { .. })
    })
    .await;
    assert_eq!(
        get(&store, &key(prefix, "a")).await.expect("the key").value,
        "x",
        "nothing was done by halves"
    );
    assert_eq!(store.current_revision().await.expect("revision"), base);
}

/// No update is lost and no revision given twice, whoever comes together.
pub(super) async fn concurrent_counters(store: Arc<dyn Store>, prefix: &'static str) {
    const TASKS: usize = 8;
    const ROUNDS: usize = 25;
    let shared = key(prefix, "counter");
    put(&store, shared.clone(), "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (store, shared) = (store.clone(), shared.clone());
        tasks.spawn(async move {
            let mut revisions = Vec::new();
            let mut current = get(&store, &shared).await.expect("the counter");
            while revisions.len() < ROUNDS {
                let count: usize = std::str::from_utf8(&current.value)
                    .expect("text")
                    .parse()
                    .expect("a number");
                let next = Txn::update(shared.clone(), current.mod_revision, (count + 1).to_string(), 0);
                let response = store.txn(next).await.expect("update");
                if response.succeeded {
                    revisions.push(response.revision);
                    current = get(&store, &shared).await.expect("the counter");
                    assert!(
                        current.mod_revision >= response.revision,
                        "reads see what was acknowledged"
                    );
                } else {
                    current = response.found().expect("what is there");
                }
            }
            revisions
        });
    }
    let mut revisions: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(
        revisions.len(),
        TASKS * ROUNDS,
        "every change has its own revision"
    );
    let counter = get(&store, &shared).await.expect("the counter");
    assert_eq!(counter.value, (TASKS * ROUNDS).to_string());
    assert_eq!(counter.version as usize, TASKS * ROUNDS + 1);
}
