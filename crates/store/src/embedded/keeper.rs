//! The thread that keeps the tables: saves what the log holds, and removes what was compacted.
//!
//! It works when asked: the writer asks when a file of the log is full, when history was compacted, and at the end.
//! A failed attempt changes nothing but that it is reported; the log keeps everything until one succeeds.

use super::disk::TABLES;
use super::engine::Shared;
use super::record::Position;
use super::storage::{Changes, Fault, unavailable};
use crate::{Error, Result};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Records of history looked at by one step of removal.
const PURGE_STEP: usize = 2000;

/// How the keeper is asked.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    /// Savings asked for and finished, counted.
    asked: u64,
    finished: u64,
    /// How the newest one ended.
    outcome: Option<Error>,
    closing: bool,
    /// The thread is gone.
    gone: bool,
}

impl Desk {
    /// Asks for a saving.
    pub(crate) fn ask(&self) {
        self.orders.lock().asked += 1;
        self.changed.notify_all();
    }

    /// Asks for a saving and waits for it.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut orders = self.orders.lock();
        orders.asked += 1;
        let ticket = orders.asked;
        self.changed.notify_all();
        while orders.finished < ticket {
            if orders.gone {
                return Err(died());
            }
            self.changed.wait(&mut orders);
        }
        orders.outcome.clone().map_or(Ok(()), Err)
    }

    /// Asks for the last saving.
    pub(crate) fn close(&self) {
        self.orders.lock().closing = true;
        self.changed.notify_all();
    }

    /// The next order, after waiting for one unless `busy`.
    fn take(&self, busy: bool) -> Order {
        let mut orders = self.orders.lock();
        loop {
            if orders.finished < orders.asked {
                return Order::Save { ticket: orders.asked };
            }
            if orders.closing {
                return Order::Close;
            }
            if busy {
                return Order::None;
            }
            self.changed.wait(&mut orders);
        }
    }

    fn finish(&self, ticket: u64, outcome: Result<()>) {
        let mut orders = self.orders.lock();
        orders.finished = ticket;
        orders.outcome = outcome.err();
        self.changed.notify_all();
    }
}

enum Order {
    Save { ticket: u64 },
    Close,
    None,
}

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    /// Removal has dealt with everything before.
    purged_to: Position,
    /// Removal failed and waits for the next saving.
    stuck: bool,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, purged_to: Position) -> Self {
        Self {
            shared,
            purged_to,
            stuck: false,
        }
    }

    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            match shared.desk.take(!self.stuck && self.purge_target().is_some()) {
                Order::Save { ticket } => {
                    let outcome = self.save();
                    self.stuck = outcome.is_err();
                    shared.desk.finish(ticket, outcome);
                }
                Order::None => self.purge(),
                Order::Close => break,
            }
        }
        if let Err(error) = self.save() {
            // Nothing is lost: the next start reads the log.
            tracing::warn!(%error, "cannot save the log of the store while closing");
        }
    }

    fn save(&self) -> Result<()> {
        let changes = {
            let index = self.shared.index.read();
            if index.saved_sequence == index.sequence {
                return Ok(());
            }
            index.unsaved()
        };
        self.commit(&changes)?;
        self.shared.index.write().saved(&changes);
        Ok(())
    }

    /// Commits to the tables. After an error looks whether it happened.
    fn commit(&self, changes: &Changes) -> Result<u64> {
        let storage = &self.shared.storage;
        loop {
            let generation = storage.generation();
            let error = match storage.commit(generation, changes) {
                Ok(purged) => return Ok(purged),
                Err(Fault::Shut) => None,
                Err(Fault::Failed(error)) => Some(error),
            };
            storage.reopen(generation)?;
            let state = self.shared.read(|| storage.snapshot()?.state())?;
            let saved = changes.sequence.is_none_or(|sequence| state.sequence >= sequence);
            let purged = changes
                .purged_to
                .is_none_or(|position| state.purged_to >= position);
            match error {
                _ if saved && purged => return Ok(0),
                Some(error) => return Err(error),
                // An earlier error of a reader had shut it: nothing was tried yet.
                None => {}
            }
        }
    }

    /// Where removal has to go, if it is not there.
    fn purge_target(&self) -> Option<Position> {
        let index = self.shared.index.read();
        let target = Position::start_of(index.compact_revision).min(Position(index.saved_to.0 + 1));
        (self.purged_to < target).then_some(target)
    }

    /// One step of removing what compaction made unreachable: what was superseded below the compacted
    /// revision, and deletions below it.
    fn purge(&mut self) {
        if let Err(error) = self.purge_step() {
            let path = self.shared.storage.disk().path(TABLES);
            tracing::warn!(%error, path = %path.display(), "removing compacted history failed, trying again later");
            self.stuck = true;
        }
    }

    fn purge_step(&mut self) -> Result<()> {
        let Some(target) = self.purge_target() else {
            return Ok(());
        };
        let (shared, from) = (self.shared.clone(), self.purged_to);
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
        let purged = self.commit(&changes)?;
        self.purged_to = purged_to;
        let mut index = shared.index.write();
        index.stored = index.stored.saturating_sub(purged);
        for (key, position) in deletions {
            index.forget(&key, position);
        }
        Ok(())
    }
}

impl Drop for Keeper {
    /// Also after a panic.
    fn drop(&mut self) {
        self.shared.desk.orders.lock().gone = true;
        self.shared.desk.changed.notify_all();
        self.shared.storage.close();
    }
}

/// What a thread of the store that has died answers.
pub(crate) fn died() -> Error {
    unavailable("a thread of the store has panicked", None)
}
