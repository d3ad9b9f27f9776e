//! Everything in memory, one lock, no cleverness: the executable description of what a store does,
//! and the store of tests that need none on disk.
//!
//! Not for load: every watch wakes at every revision, and history lives until compacted.

use crate::lease::{Lessor, Revoke};
use crate::{
    Batch, Compare, DeleteResponse, Error, Event, EventKind, FIRST_REVISION, GetResponse, KeyRange, KeyValue,
    Lease, LeaseId, Op, OpResponse, ProgressHandle, RangeRequest, RangeResponse, Result, Select, Status,
    Store, Target, Txn, TxnResponse, Watch, WatchRequest, validate,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// The in-memory engine.
#[derive(Debug)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    lessor: Lessor,
    /// Wakes the watches, in the order in which they began to wait.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    revision: i64,
    compact_revision: i64,
    next_lease: LeaseId,
    closed: bool,
    /// Per key what stood from each revision on; a deletion has version 0.
    keys: BTreeMap<Bytes, Vec<KeyValue>>,
    log: BTreeMap<i64, Vec<Event>>,
}

impl Memory {
    #[allow(
        clippy::new_without_default,
        reason = "a store is made on purpose, never as somebody's default"
    )]
    pub fn new() -> Self {
        let state = State {
            revision: FIRST_REVISION,
            compact_revision: 0,
            next_lease: 1,
            closed: false,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                lessor: Lessor::default(),
                changed: Notify::new(),
            }),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.lessor.close();
    }
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &[u8]) -> Result<GetResponse> {
        let state = self.shared.state.lock();
        state.open()?;
        let kv = state
            .keys
            .get(key)
            .and_then(|history| at(history, state.revision))
            .cloned();
        Ok(GetResponse {
            kv,
            revision: state.revision,
        })
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        let state = self.shared.state.lock();
        state.open()?;
        state.range(&request, state.revision)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        self.shared.txn(&txn)
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        let shared = self.shared.clone();
        let state = shared.state.lock();
        state.open()?;
        let next = if request.from_revision > 0 {
            request.from_revision
        } else {
            state.revision + 1
        };
        let asked = Arc::new(AtomicBool::new(request.progress));
        let handle = ProgressHandle::new({
            let (asked, shared, wanted) = (asked.clone(), shared.clone(), request.progress);
            move || {
                if wanted {
                    asked.store(true, Ordering::Release);
                    shared.changed.notify_waiters();
                }
            }
        });
        drop(state);
        let cursor = Cursor {
            shared,
            request,
            next,
            asked,
            done: false,
        };
        Ok(Watch::new(Box::pin(stream::unfold(cursor, Cursor::step)), handle))
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.open()?;
        state.compact(revision)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let ttl = Lessor::round(ttl);
        let id = {
            let mut state = self.shared.state.lock();
            state.open()?;
            state.next_lease += 1;
            state.next_lease - 1
        };
        let weak = Arc::downgrade(&self.shared);
        let revoke: Revoke = Arc::new(move |id| {
            let weak = weak.clone();
            Box::pin(async move { weak.upgrade().is_none_or(|shared| shared.revoke(id).is_ok()) })
        });
        self.shared.lessor.grant(id, ttl, &revoke);
        Ok(Lease { id, ttl })
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.shared.state.lock().open()?;
        self.shared.lessor.keep_alive(id)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.shared.revoke(id)
    }

    async fn current_revision(&self) -> Result<i64> {
        let state = self.shared.state.lock();
        state.open()?;
        Ok(state.revision)
    }

    async fn status(&self) -> Result<Status> {
        let state = self.shared.state.lock();
        state.open()?;
        let all = RangeRequest::new(KeyRange::all()).select(Select::CountOnly);
        let keys = state.range(&all, state.revision)?.count.unsigned_abs();
        Ok(Status {
            revision: state.revision,
            compact_revision: state.compact_revision,
            keys,
            ..Status::default()
        })
    }

    async fn close(&self) -> Result<()> {
        self.shared.state.lock().closed = true;
        self.shared.lessor.close();
        self.shared.changed.notify_waiters();
        Ok(())
    }
}

impl Shared {
    fn txn(&self, txn: &Txn) -> Result<TxnResponse> {
        validate::txn(txn)?;
        let mut state = self.state.lock();
        state.open()?;
        let succeeded = txn.compare.iter().all(|compare| state.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        validate::branch(ops, state.revision, state.compact_revision, &|lease| {
            self.lessor.exists(lease)
        })?;
        let revision = state.revision + 1;
        let mut events = Vec::new();
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let visible = if events.is_empty() { revision - 1 } else { revision };
            responses.push(match op {
                Op::Put { key, value, lease } => {
                    events.push(state.put(revision, key, value, *lease, &self.lessor));
                    OpResponse::Put
                }
                Op::Delete(range) => {
                    let deleted = state.range(&RangeRequest::new(range.clone()), visible)?.kvs;
                    events.extend(deleted.iter().map(|kv| state.delete(revision, kv, &self.lessor)));
                    OpResponse::Delete(DeleteResponse { deleted })
                }
                Op::Range(request) => OpResponse::Range(state.range(request, visible)?),
            });
        }
        if !events.is_empty() {
            state.revision = revision;
            state.log.insert(revision, events);
            self.changed.notify_waiters();
        }
        Ok(TxnResponse {
            succeeded,
            revision: state.revision,
            responses,
        })
    }

    fn revoke(&self, id: LeaseId) -> Result<()> {
        let ops = self
            .lessor
            .keys(id)?
            .into_iter()
            .map(|key| Op::Delete(KeyRange::key(key)))
            .collect();
        self.txn(&Txn {
            then: ops,
            ..Txn::default()
        })?;
        self.lessor.remove(id);
        Ok(())
    }
}

impl State {
    fn open(&self) -> Result<()> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self
            .keys
            .get(&compare.key)
            .and_then(|history| at(history, i64::MAX));
        match &compare.target {
            Target::ModRevision(wanted) => kv.map_or(0, |kv| kv.mod_revision) == *wanted,
            Target::CreateRevision(wanted) => kv.map_or(0, |kv| kv.create_revision) == *wanted,
            Target::Version(wanted) => kv.map_or(0, |kv| kv.version) == *wanted,
            Target::Value(wanted) => kv.is_some_and(|kv| kv.value == *wanted),
        }
    }

    fn readable(&self, requested: i64, current: i64) -> Result<()> {
        validate::readable(requested, current, self.compact_revision)
    }

    fn range(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse> {
        self.readable(request.revision, current)?;
        let revision = if request.revision > 0 {
            request.revision
        } else {
            current
        };
        let mut response = RangeResponse {
            revision: current,
            ..RangeResponse::default()
        };
        for (_, history) in self.keys.range(request.range.start.clone()..) {
            let Some(kv) = at(history, revision) else { continue };
            if !request.range.contains(&kv.key) {
                break;
            }
            response.count += 1;
            if request.select == Select::CountOnly {
                continue;
            }
            if request.limit > 0 && response.kvs.len() == request.limit {
                response.more = true;
                continue;
            }
            response.kvs.push(kv.clone());
            if request.select == Select::KeysOnly {
                response.kvs.last_mut().expect("pushed above").value = Bytes::new();
            }
        }
        Ok(response)
    }

    fn put(&mut self, revision: i64, key: &Bytes, value: &Bytes, lease: LeaseId, lessor: &Lessor) -> Event {
        let history = self.keys.entry(key.clone()).or_default();
        let prev = at(history, i64::MAX).cloned();
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
            mod_revision: revision,
            version: prev.as_ref().map_or(0, |prev| prev.version) + 1,
            lease,
        };
        history.push(kv.clone());
        lessor.attach(key, prev.as_ref().map_or(0, |prev| prev.lease), lease);
        Event {
            kind: EventKind::Put,
            kv,
            prev,
        }
    }

    fn delete(&mut self, revision: i64, kv: &KeyValue, lessor: &Lessor) -> Event {
        let tombstone = KeyValue {
            key: kv.key.clone(),
            mod_revision: revision,
            ..KeyValue::default()
        };
        self.keys
            .entry(kv.key.clone())
            .or_default()
            .push(tombstone.clone());
        lessor.attach(&kv.key, kv.lease, 0);
        Event {
            kind: EventKind::Delete,
            kv: tombstone,
            prev: Some(kv.clone()),
        }
    }

    fn compact(&mut self, revision: i64) -> Result<()> {
        validate::compactable(revision, self.revision, self.compact_revision)?;
        self.compact_revision = revision;
        self.log = self.log.split_off(&revision);
        self.keys.retain(|_, history| {
            let newest_below = history
                .iter()
                .rposition(|kv| kv.mod_revision < revision)
                .unwrap_or(0);
            history.drain(..newest_below);
            !(history.len() == 1 && history[0].version == 0 && history[0].mod_revision < revision)
        });
        Ok(())
    }
}

/// What stood at `revision`.
fn at(history: &[KeyValue], revision: i64) -> Option<&KeyValue> {
    history
        .iter()
        .rev()
        .find(|kv| kv.mod_revision <= revision)
        .filter(|kv| kv.version > 0)
}

/// Where one watch stands.
struct Cursor {
    shared: Arc<Shared>,
    request: WatchRequest,
    /// The first revision not yet delivered.
    next: i64,
    asked: Arc<AtomicBool>,
    done: bool,
}

impl Cursor {
    async fn step(mut self) -> Option<(Result<Batch>, Self)> {
        loop {
            if self.done {
                return None;
            }
            let shared = Arc::clone(&self.shared);
            let mut changed = pin!(shared.changed.notified());
            // Listening before looking: a change in between is heard.
            changed.as_mut().enable();
            if let Some(batch) = self.read().transpose() {
                self.done = batch.is_err();
                return Some((batch, self));
            }
            if self.shared.state.lock().closed {
                return None;
            }
            changed.await;
        }
    }

    fn read(&mut self) -> Result<Option<Batch>> {
        let asked = self.asked.swap(false, Ordering::AcqRel);
        let state = self.shared.state.lock();
        if self.next < state.compact_revision {
            let compact_revision = state.compact_revision;
            return Err(Error::Compacted {
                requested: self.next,
                compact_revision,
            });
        }
        let events: Vec<Event> = state
            .log
            .range(self.next..)
            .flat_map(|(_, events)| events)
            .filter(|event| self.request.range.contains(&event.kv.key))
            .map(|event| Event {
                prev: event.prev.clone().filter(|_| self.request.prev_kv),
                ..event.clone()
            })
            .collect();
        self.next = self.next.max(state.revision + 1);
        let send = !events.is_empty() || asked;
        Ok(send.then_some(Batch {
            revision: state.revision,
            events,
        }))
    }
}
