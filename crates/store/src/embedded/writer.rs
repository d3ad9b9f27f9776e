//! The one thread that changes anything: decide, make durable in the log, show, acknowledge.

use super::draft::{Draft, Source};
use super::engine::Shared;
use super::inbox::{Reply, Request};
use super::index::History;
use super::log::{Log, Refused};
use super::record::{Position, Version, log_record, put_number, take_number, unlog_record};
use super::storage::{Changes, Fault, Snapshot, unavailable};
use crate::{Error, KeyRange, LeaseId, Op, Result, Txn, TxnResponse, validate};
use bytes::Bytes;
use std::cell::OnceCell;
use std::iter::Peekable;
use std::sync::Arc;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: Log,
}

/// An answer that is given when its changes are durable.
enum Answer {
    Txn(Reply<TxnResponse>, Result<TxnResponse>),
    Lease(Reply<LeaseId>, LeaseId),
    Done(Reply<()>, Result<()>),
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, log: Log) -> Self {
        Self { shared, log }
    }

    pub(crate) fn run(mut self) {
        while let Some(requests) = self.shared.inbox.take() {
            let mut requests = requests.into_iter().peekable();
            while requests.peek().is_some() {
                self.group(&mut requests);
            }
        }
    }

    /// Deals with requests in one commit. Ending a lease has a commit of its own, because it has to
    /// see the keys of every earlier one.
    fn group(&mut self, requests: &mut Peekable<impl Iterator<Item = Request>>) {
        let mut changes = Changes::default();
        let mut answers = Vec::new();
        if let Some(Request::Revoke(..)) = requests.peek() {
            if let Some(Request::Revoke(id, reply)) = requests.next() {
                let result = self.draft_revoke(id, &mut changes);
                answers.push(Answer::Done(reply, result));
            }
        } else {
            self.draft(requests, &mut changes, &mut answers);
        }
        let outcome = self.carry_out(&mut changes);
        for answer in answers {
            answer.give(&outcome);
        }
    }

    fn draft(
        &self,
        requests: &mut Peekable<impl Iterator<Item = Request>>,
        changes: &mut Changes,
        answers: &mut Vec<Answer>,
    ) {
        let index = self.shared.index.read();
        let source = Lazy::new(&self.shared);
        let lease_exists = |id| self.shared.lessor.exists(id);
        let mut draft = Draft::new(&index, &source, &lease_exists);
        let mut compact_revision = index.compact_revision;
        let mut next_lease = index.next_lease;
        let mut bytes = 0;
        // One commit takes what fits a transaction of the greatest size, so that a frame stays bounded.
        while bytes < self.shared.options.txn_bytes
            && let Some(request) = requests.next_if(|next| !matches!(next, Request::Revoke(..)))
        {
            answers.push(match request {
                Request::Txn(txn, reply) => {
                    bytes += txn.size();
                    Answer::Txn(reply, draft.txn(&txn).map_err(error_of))
                }
                Request::Compact(revision, reply) => {
                    let checked = validate::compactable(revision, index.revision, compact_revision);
                    if checked.is_ok() {
                        compact_revision = revision;
                        changes.compact_revision = Some(revision);
                    }
                    Answer::Done(reply, checked)
                }
                Request::Grant(ttl, reply) => {
                    changes.leases.push((next_lease, Some(ttl)));
                    next_lease += 1;
                    changes.next_lease = Some(next_lease);
                    Answer::Lease(reply, next_lease - 1)
                }
                Request::Revoke(id, reply) => Answer::Done(reply, Err(Error::LeaseNotFound(id))),
            });
        }
        changes.records = draft.into_records();
    }

    fn draft_revoke(&self, id: LeaseId, changes: &mut Changes) -> Result<()> {
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
        changes.leases.push((id, None));
        Ok(())
    }

    /// Makes changes durable and shows them.
    fn carry_out(&mut self, changes: &mut Changes) -> Result<()> {
        if changes.records.is_empty() && changes.leases.is_empty() && changes.compact_revision.is_none() {
            return Ok(());
        }
        let sequence = self.append(changes).inspect_err(|error| {
            if !matches!(error, Error::NoSpace { .. }) {
                tracing::error!(%error, "a commit of the store failed");
            }
        })?;
        changes.sequence = Some(sequence);
        self.show(changes);
        Ok(())
    }

    fn append(&mut self, changes: &Changes) -> Result<u64> {
        let saved = self.shared.index.read().saved_sequence;
        let waited = self.log.waits_for_tables(saved);
        let mut written = self.log.append(saved, |frame| encode(changes, frame));
        if matches!(written, Err(Refused::Full)) {
            self.shared.desk.wait()?;
            let saved = self.shared.index.read().saved_sequence;
            written = self.log.append(saved, |frame| encode(changes, frame));
        }
        if !waited && self.log.waits_for_tables(saved) {
            // A file has been filled: time to save what it holds, while the other is in use.
            self.shared.desk.ask();
        }
        written.map_err(|refused| match refused {
            Refused::Failed(error) => error,
            Refused::Full => unavailable("the log is full and could not be saved", None),
        })
    }

    /// Shows durable changes to readers and watches.
    fn show(&self, changes: &Changes) {
        let shared = &self.shared;
        let mut watched = shared.hub.lock();
        for record in &changes.records {
            let before = record.prev.map_or(0, |prev| prev.lease);
            if before != record.at.lease {
                shared.lessor.attach(&record.key, before, record.at.lease);
            }
        }
        let revision = {
            let mut index = shared.index.write();
            index.apply(changes);
            index.revision
        };
        if !changes.records.is_empty() {
            shared.hub.publish(&mut watched, &changes.records, revision);
        }
        drop(watched);
        for (id, ttl) in &changes.leases {
            if ttl.is_none() {
                shared.lessor.remove(*id);
            }
        }
        if changes.compact_revision.is_some() {
            // What is compacted can be removed once the tables have it.
            shared.desk.ask();
        }
    }
}

impl Drop for Writer {
    /// Also after a panic: nobody may wait for answers that cannot come.
    fn drop(&mut self) {
        self.shared.inbox.abandon();
        self.shared.lessor.close();
        self.shared.hub.close();
        self.shared.desk.close();
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

fn error_of(fault: Fault) -> Error {
    match fault {
        Fault::Failed(error) => error,
        Fault::Shut => unavailable("the file was shut by an input/output error", None),
    }
}

/// The payload of a frame: numbers that are 0 if they do not change, leases, records.
fn encode(changes: &Changes, out: &mut Vec<u8>) {
    put_number(out, changes.compact_revision.unwrap_or(0).unsigned_abs());
    put_number(out, changes.next_lease.unwrap_or(0).unsigned_abs());
    put_number(out, changes.leases.len() as u64);
    for (id, ttl) in &changes.leases {
        put_number(out, id.unsigned_abs());
        put_number(out, ttl.unwrap_or(0));
    }
    put_number(out, changes.records.len() as u64);
    for record in &changes.records {
        log_record(record, out);
    }
}

/// Nothing if the payload is not one.
pub(crate) fn decode(mut payload: &[u8]) -> Option<Changes> {
    let rest = &mut payload;
    let some = |number: u64| (number != 0).then_some(number);
    let mut changes = Changes {
        compact_revision: some(take_number(rest)?).map(|revision| revision as i64),
        next_lease: some(take_number(rest)?).map(|id| id as LeaseId),
        ..Changes::default()
    };
    for _ in 0..take_number(rest)? {
        changes
            .leases
            .push((take_number(rest)? as LeaseId, some(take_number(rest)?)));
    }
    for _ in 0..take_number(rest)? {
        changes.records.push(Arc::new(unlog_record(rest)?));
    }
    rest.is_empty().then_some(changes)
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
