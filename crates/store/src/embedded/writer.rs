//! The one thread that changes anything: decide, make durable, show, acknowledge.
//!
//! After a failed commit nobody knows what is on disk. The writer then opens the file anew
//! and looks: what landed is shown and acknowledged, what did not is refused. While the file
//! cannot be opened, everything is refused and the next request tries again.

use super::draft::{Draft, Source};
use super::engine::Shared;
use super::inbox::{Reply, Request};
use super::index::History;
use super::record::{Position, Record, Version};
use super::storage::{Changes, Fault, Snapshot, State, unavailable};
use crate::{Error, FIRST_REVISION, KeyRange, LeaseId, Op, Result, Txn, TxnResponse, validate};
use bytes::Bytes;
use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Records of history looked at by one step of compaction, which writes wait for.
const PURGE_STEP: usize = 256;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    /// The opening of the file this thread has caught up with.
    generation: u64,
    next_lease: LeaseId,
    /// Compaction has dealt with everything before.
    purged_to: Position,
    /// The disk was full at the last attempt.
    full: bool,
    /// Compaction failed and waits for the next commit that works.
    purge_stuck: bool,
}

/// An answer that is given when its changes are durable.
enum Answer {
    Txn(Reply<TxnResponse>, Result<TxnResponse>),
    Lease(Reply<LeaseId>, LeaseId),
    Done(Reply<()>, Result<()>),
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, state: &State) -> Self {
        let generation = shared.storage.generation();
        let (next_lease, purged_to) = (state.next_lease, state.purged_to);
        Self {
            shared,
            generation,
            next_lease,
            purged_to,
            full: false,
            purge_stuck: false,
        }
    }

    pub(crate) fn run(mut self) {
        while let Some(requests) = self.shared.inbox.take(self.has_to_purge()) {
            let mut requests = requests.into_iter().peekable();
            while requests.peek().is_some() {
                self.group(&mut requests);
            }
            if self.has_to_purge() {
                self.purge();
            }
        }
        self.shared.lessor.close();
        self.shared.hub.close();
        self.shared.storage.close();
    }

    /// Deals with requests in one commit. Ending a lease has a commit of its own, because it has to
    /// see the keys of every earlier one.
    fn group(&mut self, requests: &mut std::iter::Peekable<impl Iterator<Item = Request>>) {
        if let Err(error) = self.catch_up() {
            requests.for_each(|request| refuse(request, &error));
            return;
        }
        let mut changes = Changes::default();
        let mut answers = Vec::new();
        if let Some(Request::Revoke(..)) = requests.peek() {
            if let Some(Request::Revoke(id, reply)) = requests.next() {
                let result = self.draft_revoke(id, &mut changes);
                answers.push(Answer::Done(reply, result));
            }
        } else {
            let taken = std::iter::from_fn(|| requests.next_if(|next| !matches!(next, Request::Revoke(..))));
            self.draft(taken, &mut changes, &mut answers);
        }
        let outcome = self.carry_out(&changes);
        for answer in answers {
            answer.give(&outcome);
        }
    }

    fn draft(
        &mut self,
        requests: impl Iterator<Item = Request>,
        changes: &mut Changes,
        answers: &mut Vec<Answer>,
    ) {
        let shared = self.shared.clone();
        let index = shared.index.read();
        let source = Lazy::new(&shared);
        let lease_exists = |id| shared.lessor.exists(id);
        let mut draft = Draft::new(&index, &source, &lease_exists);
        let mut compact_revision = index.compact_revision;
        for request in requests {
            answers.push(match request {
                Request::Txn(txn, reply) => Answer::Txn(reply, draft.txn(&txn).map_err(error_of)),
                Request::Compact(revision, reply) => {
                    let checked = validate::compactable(revision, index.revision, compact_revision);
                    if checked.is_ok() {
                        compact_revision = revision;
                        changes.compact_revision = Some(revision);
                    }
                    Answer::Done(reply, checked)
                }
                Request::Grant(ttl, reply) => {
                    let id = self.next_lease;
                    self.next_lease += 1;
                    changes.next_lease = Some(self.next_lease);
                    changes.leases_granted.push((id, ttl));
                    Answer::Lease(reply, id)
                }
                Request::Revoke(id, reply) => Answer::Done(reply, Err(Error::LeaseNotFound(id))),
            });
        }
        changes.records = draft.into_records();
    }

    fn draft_revoke(&mut self, id: LeaseId, changes: &mut Changes) -> Result<()> {
        let keys = self.shared.lessor.keys(id)?;
        let ops = keys
            .into_iter()
            .map(|key| Op::Delete(KeyRange::key(key)))
            .collect();
        let index = self.shared.index.read();
        let source = Lazy::new(&self.shared);
        let mut draft = Draft::new(&index, &source, &|_| false);
        draft
            .txn(&Txn {
                then: ops,
                ..Txn::default()
            })
            .map_err(error_of)?;
        changes.records = draft.into_records();
        changes.leases_revoked.push(id);
        Ok(())
    }

    /// Makes changes durable and shows them.
    fn carry_out(&mut self, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if self.full && !changes.records.is_empty() {
            let disk = self.shared.storage.disk();
            if disk.has_space().is_err() {
                return Err(Error::NoSpace {
                    path: disk.path().to_owned(),
                });
            }
        }
        match self.shared.storage.commit(self.generation, changes) {
            Ok(purged) => {
                self.full = false;
                self.purge_stuck = false;
                self.show(changes, purged);
                Ok(())
            }
            Err(fault) => {
                let error = error_of(fault);
                self.full = matches!(error, Error::NoSpace { .. });
                if !self.full {
                    tracing::error!(%error, "a commit of the store failed");
                }
                self.settle(changes, error)
            }
        }
    }

    /// Finds out whether a commit that reported an error happened.
    fn settle(&mut self, changes: &Changes, error: Error) -> Result<()> {
        self.shared.storage.reopen(self.generation).map_err(|source| {
            tracing::error!(%source, "the store cannot be opened after a failed commit");
            unavailable(
                "a commit failed and the file cannot be opened",
                Some(Arc::new(source)),
            )
        })?;
        let state = self.look()?;
        let landed = match changes.records.last() {
            Some(last) => self.shared.index.read().revision >= last.revision(),
            None => {
                let has = |id: &LeaseId| state.leases.iter().any(|(known, _)| known == id);
                changes
                    .compact_revision
                    .is_none_or(|revision| state.compact_revision >= revision)
                    && changes.leases_granted.iter().all(|(id, _)| has(id))
                    && !changes.leases_revoked.iter().any(has)
                    && changes
                        .purged_to
                        .is_none_or(|position| state.purged_to >= position)
            }
        };
        if landed { Ok(()) } else { Err(error) }
    }

    /// If somebody opened the file anew, finds what a failed commit left behind.
    fn catch_up(&mut self) -> Result<()> {
        if self.shared.storage.generation() == self.generation {
            return Ok(());
        }
        self.shared.storage.reopen(self.generation)?;
        self.look().map(|_| ())
    }

    /// Brings memory up to what is on disk.
    fn look(&mut self) -> Result<State> {
        let shared = self.shared.clone();
        let known = shared.index.read().revision;
        let (state, records, complete, generation) = shared.read(|| {
            let snapshot = shared.storage.snapshot()?;
            let mut records = Vec::new();
            let mut complete = known == FIRST_REVISION;
            snapshot.walk(Position::start_of(known), |entry| {
                if entry.at.position.revision() == known {
                    complete = true;
                } else {
                    let (key, at) = (Bytes::copy_from_slice(entry.key), entry.at);
                    records.push(Record {
                        key,
                        value: Bytes::new(),
                        at,
                        prev: entry.prev,
                    });
                }
                ControlFlow::Continue(())
            })?;
            for record in records.iter_mut().filter(|record| !record.at.is_deletion()) {
                record.value = snapshot.required(record.at.position)?;
            }
            Ok((snapshot.state()?, records, complete, snapshot.generation))
        })?;
        if !complete {
            let detail =
                format!("acknowledged revision {known} is missing: the disk lost what it said was safe");
            return Err(Error::Corrupt {
                path: shared.storage.disk().path().to_owned(),
                detail,
            });
        }
        self.generation = generation;
        self.next_lease = self.next_lease.max(state.next_lease);
        self.purged_to = state.purged_to;
        let found = Changes {
            records: records.into_iter().map(Arc::new).collect(),
            compact_revision: Some(state.compact_revision),
            ..Changes::default()
        };
        self.show(&found, 0);
        Ok(state)
    }

    /// Shows durable changes to readers and watches.
    fn show(&mut self, changes: &Changes, purged: u64) {
        let shared = &self.shared;
        let mut watched = shared.hub.lock();
        let revision = {
            let mut index = shared.index.write();
            for record in &changes.records {
                let before = record.prev.map_or(0, |prev| prev.lease);
                if before != record.at.lease {
                    shared.lessor.attach(&record.key, before, record.at.lease);
                }
                index.apply(record.clone());
            }
            if let Some(revision) = changes.compact_revision {
                index.compact_revision = index.compact_revision.max(revision);
            }
            index.stored = index.stored.saturating_sub(purged);
            index.revision
        };
        if !changes.records.is_empty() {
            shared.hub.publish(&mut watched, &changes.records, revision);
        }
        drop(watched);
        for id in &changes.leases_revoked {
            shared.lessor.remove(*id);
        }
        if let Some(position) = changes.purged_to {
            self.purged_to = position;
        }
    }

    fn has_to_purge(&self) -> bool {
        let target = Position::start_of(self.shared.index.read().compact_revision);
        !self.purge_stuck && self.purged_to < target
    }

    /// One step of removing what compaction made unreachable: what was superseded below the compacted
    /// revision, and deletions below it.
    fn purge(&mut self) {
        if let Err(error) = self.catch_up().and_then(|()| self.purge_step()) {
            tracing::warn!(%error, "compacting the store failed, trying again after the next write");
            self.purge_stuck = true;
        }
    }

    fn purge_step(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let target = Position::start_of(shared.index.read().compact_revision);
        let from = self.purged_to;
        let (purge, deletions, purged_to) = shared.read(|| {
            let (mut purge, mut deletions, mut purged_to) = (Vec::new(), Vec::new(), target);
            let mut looked_at = 0;
            shared.storage.snapshot()?.walk(from, |entry| {
                let position = entry.at.position;
                if position >= target {
                    return ControlFlow::Break(());
                }
                if looked_at == PURGE_STEP {
                    purged_to = position;
                    return ControlFlow::Break(());
                }
                looked_at += 1;
                purge.extend(entry.prev.map(|prev| prev.position));
                if entry.at.is_deletion() {
                    purge.push(position);
                    deletions.push((Bytes::copy_from_slice(entry.key), position));
                }
                ControlFlow::Continue(())
            })?;
            Ok((purge, deletions, purged_to))
        })?;
        let changes = Changes {
            purge,
            purged_to: Some(purged_to),
            ..Changes::default()
        };
        self.carry_out(&changes)?;
        let mut index = self.shared.index.write();
        for (key, position) in deletions {
            index.forget(&key, position);
        }
        Ok(())
    }
}

impl Answer {
    fn give(self, outcome: &Result<()>) {
        // A caller that has gone away does not want its answer.
        match self {
            Self::Txn(reply, result) => drop(reply.send(outcome.clone().and(result))),
            Self::Lease(reply, id) => drop(reply.send(outcome.clone().map(|()| id))),
            Self::Done(reply, result) => drop(reply.send(outcome.clone().and(result))),
        }
    }
}

fn refuse(request: Request, error: &Error) {
    match request {
        Request::Txn(_, reply) => drop(reply.send(Err(error.clone()))),
        Request::Grant(_, reply) => drop(reply.send(Err(error.clone()))),
        Request::Compact(_, reply) | Request::Revoke(_, reply) => drop(reply.send(Err(error.clone()))),
    }
}

fn error_of(fault: Fault) -> Error {
    match fault {
        Fault::Failed(error) => error,
        Fault::Shut => unavailable("the file was shut by an input/output error", None),
    }
}

/// A snapshot taken only if a transaction reads what memory does not hold.
pub(crate) struct Lazy<'a> {
    shared: &'a Shared,
    snapshot: OnceCell<Snapshot>,
}

impl<'a> Lazy<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            snapshot: OnceCell::new(),
        }
    }

    fn snapshot(&self) -> Result<&Snapshot, Fault> {
        if let Some(snapshot) = self.snapshot.get() {
            return Ok(snapshot);
        }
        let snapshot = self.shared.storage.snapshot()?;
        Ok(self.snapshot.get_or_init(|| snapshot))
    }
}

impl History for Lazy<'_> {
    fn before(&self, position: Position) -> Result<Option<Version>, Fault> {
        History::before(self.snapshot()?, position)
    }
}

impl Source for Lazy<'_> {
    fn value(&self, position: Position) -> Result<Bytes, Fault> {
        self.snapshot()?.required(position)
    }
}
