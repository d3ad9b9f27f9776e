//! Random histories, compared step by step with a model that has no concurrency, no disk and no cleverness.
//!
//! The seed is printed; the same seed gives the same history.

use super::{everything, key};
use crate::{
    Compare, DeleteResponse, Error, Event, EventKind, KeyRange, KeyValue, Op, OpResponse, RangeRequest,
    RangeResponse, Result, Select, Store, Target, Txn, TxnResponse, Watch, WatchRequest, validate,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Closes or crashes a store and opens what is left of it; what was acknowledged must be.
pub type Reopen<'a> = &'a (dyn Fn(Arc<dyn Store>) -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync);

/// Random numbers that are the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }
}

/// Runs `steps` random steps. Gives the store back, which may be another after a reopening.
pub async fn run(
    mut store: Arc<dyn Store>,
    prefix: &'static str,
    seed: u64,
    steps: usize,
    reopen: Option<Reopen<'_>>,
) -> Arc<dyn Store> {
    println!("store model: seed {seed}, {steps} steps");
    let mut dice = Dice::new(seed);
    let mut model = Model::new(store.current_revision().await.expect("revision"), prefix);
    let mut watches: Vec<Watching> = Vec::new();
    for step in 0..steps {
        let at = format!("seed {seed}, step {step}");
        match dice.roll(100) {
            0..60 => {
                let txn = model.random_txn(&mut dice);
                let expected = model.txn(&txn);
                same(
                    &store.txn(txn.clone()).await,
                    &expected,
                    &format!("{at}: {txn:?}"),
                );
            }
            60..85 => {
                let request = model.random_range(&mut dice);
                let expected = model.range(&request, model.revision);
                same(
                    &store.range(request.clone()).await,
                    &expected,
                    &format!("{at}: {request:?}"),
                );
            }
            85..90 => {
                let key = model.random_key(&mut dice);
                let found = store.get(&key).await.expect("get");
                assert_eq!(found.revision, model.revision, "{at}");
                assert_eq!(found.kv.as_ref(), model.states[&model.revision].get(&key), "{at}");
            }
            90..94 => watches.push(Watching::begin(&store, &model, &mut dice).await),
            94..96 => {
                for watching in &mut watches {
                    watching.drain(&model, &at).await;
                }
                if dice.roll(2) == 0 && !watches.is_empty() {
                    watches.swap_remove(dice.roll(watches.len()));
                }
            }
            96..98 => {
                for watching in &mut watches {
                    watching.drain(&model, &at).await;
                }
                let revision = model.random_revision(&mut dice);
                same(
                    &store.compact(revision).await,
                    &model.compact(revision),
                    &format!("{at}: compact {revision}"),
                );
            }
            _ => {
                if let Some(reopen) = reopen {
                    for mut watching in watches.drain(..) {
                        watching.drain(&model, &at).await;
                    }
                    store = reopen(store).await;
                    assert_eq!(
                        store.current_revision().await.expect("revision"),
                        model.revision,
                        "{at}: reopened"
                    );
                }
            }
        }
    }
    for watching in &mut watches {
        watching.drain(&model, "the end").await;
    }
    store
}

fn same<T: PartialEq + std::fmt::Debug>(found: &Result<T>, expected: &Result<T>, at: &str) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{at}"),
        // etcd does not say which of several operations it was; the other checks compare the fields.
        (Err(found), Err(expected)) => {
            let kind = std::mem::discriminant::<Error>;
            assert_eq!(
                kind(found),
                kind(expected),
                "{at}: found {found}, expected {expected}"
            );
        }
        _ => panic!("{at}: found {found:?}, expected {expected:?}"),
    }
}

/// A watch, and what it has yet to deliver.
struct Watching {
    watch: Watch,
    request: WatchRequest,
    next: i64,
}

impl Watching {
    async fn begin(store: &Arc<dyn Store>, model: &Model, dice: &mut Dice) -> Self {
        let from = if dice.roll(2) == 0 {
            0
        } else {
            model.random_revision(dice).max(model.compacted).max(1)
        };
        let mut request = WatchRequest::new(model.random_keys(dice), from).progress();
        request.prev_kv = dice.roll(2) == 0;
        let watch = store.watch(request.clone()).await.expect("watch");
        let next = if from > 0 { from } else { model.revision + 1 };
        Self { watch, request, next }
    }

    async fn drain(&mut self, model: &Model, at: &str) {
        let expected: Vec<Event> = model
            .changes
            .range(self.next..)
            .flat_map(|(_, events)| events)
            .filter(|event| self.request.range.contains(&event.kv.key))
            .map(|event| Event {
                prev: event.prev.clone().filter(|_| self.request.prev_kv),
                ..event.clone()
            })
            .collect();
        self.next = self.next.max(model.revision + 1);
        // Also lets a watch without news learn that there was none, so that compaction does not hit it.
        self.watch.progress_handle().request();
        let mut found = Vec::new();
        let mut told = 0;
        // etcd before 3.4.25 and 3.5.8 tells of progress before events it covers.
        while told < model.revision || found.len() < expected.len() {
            let next = tokio::time::timeout(Duration::from_secs(300), self.watch.next()).await;
            let batch = next.unwrap_or_else(|_| panic!("{at}: {:?} says nothing more, compacted {}, told {told}, found {found:?}, expected {expected:?}", self.request, model.compacted));
            let batch = batch.expect("the watch goes on").expect("no error");
            told = told.max(batch.revision);
            found.extend(batch.events);
        }
        // Of the compacted revision itself, what was superseded may be gone, and in older versions of etcd
        // (before 3.5.19) a deletion too.
        let certain = |events: &[Event]| -> Vec<Event> {
            events
                .iter()
                .filter(|event| event.kv.mod_revision > model.compacted)
                .cloned()
                .collect()
        };
        assert_eq!(certain(&found), certain(&expected), "{at}: {:?}", self.request);
        let puts = |events: &[Event]| -> Vec<_> {
            let puts = events.iter().filter(|event| event.kind == EventKind::Put);
            puts.map(|event| (event.kv.mod_revision, event.kv.key.clone()))
                .collect()
        };
        assert_eq!(puts(&found), puts(&expected), "{at}: {:?}", self.request);
    }
}

/// A whole copy of the state for every revision.
struct Model {
    prefix: &'static str,
    first: i64,
    revision: i64,
    compacted: i64,
    states: BTreeMap<i64, BTreeMap<Bytes, KeyValue>>,
    changes: BTreeMap<i64, Vec<Event>>,
}

impl Model {
    fn new(revision: i64, prefix: &'static str) -> Self {
        let states = BTreeMap::from([(revision, BTreeMap::new())]);
        Self {
            prefix,
            first: revision,
            revision,
            compacted: 0,
            states,
            changes: BTreeMap::new(),
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResponse> {
        validate::txn(txn)?;
        let mut state = self.states[&self.revision].clone();
        let succeeded = txn.compare.iter().all(|compare| {
            let kv = state.get(&compare.key);
            match &compare.target {
                Target::ModRevision(wanted) => kv.map_or(0, |kv| kv.mod_revision) == *wanted,
                Target::CreateRevision(wanted) => kv.map_or(0, |kv| kv.create_revision) == *wanted,
                Target::Version(wanted) => kv.map_or(0, |kv| kv.version) == *wanted,
                Target::Value(wanted) => kv.is_some_and(|kv| kv.value == *wanted),
            }
        });
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        validate::branch(ops, self.revision, self.compacted, &|_| false)?;
        let revision = self.revision + 1;
        let mut events: Vec<Event> = Vec::new();
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                Op::Put { key, value, lease } => {
                    let prev = state.get(key).cloned();
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
                        mod_revision: revision,
                        version: prev.as_ref().map_or(1, |prev| prev.version + 1),
                        lease: *lease,
                    };
                    state.insert(key.clone(), kv.clone());
                    events.push(Event {
                        kind: EventKind::Put,
                        kv,
                        prev,
                    });
                    OpResponse::Put
                }
                Op::Delete(range) => {
                    let deleted: Vec<KeyValue> = state
                        .values()
                        .filter(|kv| range.contains(&kv.key))
                        .cloned()
                        .collect();
                    for prev in &deleted {
                        state.remove(&prev.key);
                        let key = prev.key.clone();
                        let kv = KeyValue {
                            key,
                            mod_revision: revision,
                            ..KeyValue::default()
                        };
                        events.push(Event {
                            kind: EventKind::Delete,
                            kv,
                            prev: Some(prev.clone()),
                        });
                    }
                    OpResponse::Delete(DeleteResponse { deleted })
                }
                Op::Range(request) => {
                    let visible = if events.is_empty() {
                        self.revision
                    } else {
                        revision
                    };
                    OpResponse::Range(match request.revision {
                        0 => answer(&state, request, visible),
                        past => answer(&self.states[&past.max(self.first)], request, visible),
                    })
                }
            });
        }
        if !events.is_empty() {
            self.revision = revision;
            self.states.insert(revision, state);
            self.changes.insert(revision, events);
        }
        Ok(TxnResponse {
            succeeded,
            revision: self.revision,
            responses,
        })
    }

    fn range(&self, request: &RangeRequest, visible: i64) -> Result<RangeResponse> {
        validate::readable(request.revision, self.revision, self.compacted)?;
        let at = if request.revision == 0 {
            self.revision
        } else {
            request.revision.max(self.first)
        };
        Ok(answer(&self.states[&at], request, visible))
    }

    fn compact(&mut self, revision: i64) -> Result<(), Error> {
        validate::compactable(revision, self.revision, self.compacted)?;
        self.compacted = revision;
        Ok(())
    }

    fn random_key(&self, dice: &mut Dice) -> Bytes {
        let names = ["a", "a/1", "a/2", "a/3", "b", "b/1", "b/2", "c", "c/c/c", "d"];
        key(self.prefix, names[dice.roll(names.len())])
    }

    fn random_keys(&self, dice: &mut Dice) -> KeyRange {
        match dice.roll(5) {
            0 | 1 => KeyRange::key(self.random_key(dice)),
            2 => KeyRange::prefix(self.random_key(dice)),
            3 => KeyRange::between(self.random_key(dice), self.random_key(dice)),
            _ => everything(self.prefix),
        }
    }

    fn random_revision(&self, dice: &mut Dice) -> i64 {
        let span = (self.revision - self.first).unsigned_abs() as usize + 1;
        // Now and then one that does not exist yet.
        self.first + dice.roll(span + 1) as i64 + i64::from(dice.roll(20) == 0)
    }

    fn random_range(&self, dice: &mut Dice) -> RangeRequest {
        let revision = if dice.roll(2) == 0 {
            0
        } else {
            self.random_revision(dice)
        };
        let limit = if dice.roll(2) == 0 { 0 } else { 1 + dice.roll(4) };
        let select = [Select::Full, Select::Full, Select::KeysOnly, Select::CountOnly][dice.roll(4)];
        RangeRequest {
            range: self.random_keys(dice),
            revision,
            limit,
            select,
        }
    }

    fn random_txn(&self, dice: &mut Dice) -> Txn {
        let known = &self.states[&self.revision];
        let compare = (0..dice.roll(3))
            .map(|_| {
                let key = self.random_key(dice);
                let kv = known.get(&key).cloned().unwrap_or_default();
                let off = i64::from(dice.roll(3) == 0);
                let target = match dice.roll(4) {
                    0 => Target::ModRevision(kv.mod_revision + off),
                    1 => Target::CreateRevision(kv.create_revision + off),
                    2 => Target::Version(kv.version + off),
                    _ => Target::Value(kv.value),
                };
                Compare { key, target }
            })
            .collect();
        let then = (0..dice.roll(4)).map(|_| self.random_op(dice)).collect();
        let otherwise = (0..dice.roll(3)).map(|_| self.random_op(dice)).collect();
        Txn {
            compare,
            then,
            otherwise,
        }
    }

    fn random_op(&self, dice: &mut Dice) -> Op {
        match dice.roll(10) {
            0..6 => {
                let size = [0, 3, 40, 5000][dice.roll(4)];
                let value = vec![b'a' + dice.roll(26) as u8; size];
                Op::Put {
                    key: self.random_key(dice),
                    value: value.into(),
                    lease: 0,
                }
            }
            6 | 7 => Op::Delete(self.random_keys(dice)),
            _ => Op::Range(self.random_range(dice)),
        }
    }
}

fn answer(state: &BTreeMap<Bytes, KeyValue>, request: &RangeRequest, visible: i64) -> RangeResponse {
    let found: Vec<&KeyValue> = state
        .values()
        .filter(|kv| request.range.contains(&kv.key))
        .collect();
    let limit = if request.limit == 0 {
        usize::MAX
    } else {
        request.limit
    };
    let kvs: Vec<KeyValue> = match request.select {
        Select::Full => found.iter().take(limit).map(|kv| (*kv).clone()).collect(),
        Select::KeysOnly => found
            .iter()
            .take(limit)
            .map(|kv| KeyValue {
                value: Bytes::new(),
                ..(*kv).clone()
            })
            .collect(),
        Select::CountOnly => Vec::new(),
    };
    let more = request.select != Select::CountOnly && found.len() > limit;
    RangeResponse {
        kvs,
        more,
        count: found.len() as i64,
        revision: visible,
    }
}
