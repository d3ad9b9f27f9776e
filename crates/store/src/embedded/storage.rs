//! The tables on disk, in `redb`: history by position, and the little state beside it.
//!
//! Both big tables are only ever appended to and thinned out by compaction, so a commit writes the right edge of
//! two trees however many keys there are. What is current is known from memory (`index`).
//!
//! They trail the log (`log`), which makes commits here few and big, so each also saves what `redb`
//! needs to open quickly after a crash.
//!
//! An input/output error makes `redb` refuse everything until it is opened anew. Whoever meets that calls
//! [`Storage::reopen`]. A panic inside `redb` (it asserts on damaged pages) is caught and reported
//! as corruption.

use super::disk::{Disk, TABLES};
use super::index::History;
use super::opening::{guarded, open_database};
use super::record::{
    Entry, Position, Record, Version, decode_event, decode_value, encode_event, encode_value,
};
use crate::{Error, LeaseId, Result};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};
use redb::{TableDefinition, WriteTransaction};
use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Counts up when what is on disk can no longer be read by the version before.
pub(crate) const FORMAT: u64 = 1;

pub(crate) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
pub(crate) const VALUES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("values");
/// Time to live in seconds.
pub(crate) const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
pub(crate) const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");

pub(crate) const FORMAT_KEY: &str = "format";
const COMPACT_KEY: &str = "compact-revision";
const PURGED_KEY: &str = "purged-to";
const NEXT_LEASE_KEY: &str = "next-lease";
const SEQUENCE_KEY: &str = "log-sequence";
pub(crate) const SECRET_KEY: &str = "log-secret";

/// What one commit makes durable.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) compact_revision: Option<i64>,
    pub(crate) next_lease: Option<LeaseId>,
    /// A lease and its seconds to live, or nothing if it is gone; later ones count.
    pub(crate) leases: Vec<(LeaseId, Option<u64>)>,
    /// Everything up to this frame of the log is in the tables.
    pub(crate) sequence: Option<u64>,
    /// Records that compaction removes, and how far that has got.
    pub(crate) purge: Vec<Position>,
    pub(crate) purged_to: Option<Position>,
}

/// The state beside history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) compact_revision: i64,
    pub(crate) purged_to: Position,
    pub(crate) next_lease: LeaseId,
    pub(crate) leases: Vec<(LeaseId, u64)>,
    pub(crate) sequence: u64,
    /// What checksums of the log start from.
    pub(crate) secret: u32,
}

/// Why an access failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// An earlier error shut `redb`; after [`Storage::reopen`] it may work.
    Shut,
    Failed(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(crate) struct Storage {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    opened: RwLock<Opened>,
    /// Held while a transaction writes, so that the file is never opened anew under it.
    writing: Mutex<()>,
}

struct Opened {
    /// Counts openings. While nothing is open, the reason.
    generation: u64,
    database: Result<Database>,
}

impl Storage {
    pub(crate) fn open(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<Self> {
        let database = open_database(&disk, cache_bytes)?;
        let opened = RwLock::new(Opened {
            generation: 1,
            database: Ok(database),
        });
        Ok(Self {
            disk,
            cache_bytes,
            opened,
            writing: Mutex::new(()),
        })
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(crate) fn generation(&self) -> u64 {
        self.opened.read().generation
    }

    /// Opens the file anew, unless somebody else has since `generation`.
    pub(crate) fn reopen(&self, generation: u64) -> Result<()> {
        let _writing = self.writing.lock();
        let mut opened = self.opened.write();
        if opened.generation != generation && opened.database.is_ok() {
            return Ok(());
        }
        opened.generation += 1;
        // The old one must be closed before the file is opened again.
        opened.database = Err(Error::Closed);
        opened.database = open_database(&self.disk, self.cache_bytes);
        match &opened.database {
            Ok(_) => Ok(()),
            Err(error @ (Error::Corrupt { .. } | Error::NoSpace { .. })) => Err(error.clone()),
            Err(error) => {
                let source: Arc<dyn std::error::Error + Send + Sync> = Arc::new(error.clone());
                Err(unavailable(
                    "the file cannot be opened after an input/output error",
                    Some(source),
                ))
            }
        }
    }

    /// Closes the file cleanly, which makes the next start quick.
    pub(crate) fn close(&self) {
        let _writing = self.writing.lock();
        let mut opened = self.opened.write();
        let database = std::mem::replace(&mut opened.database, Err(Error::Closed));
        drop(opened);
        if catch_unwind(AssertUnwindSafe(move || drop(database))).is_err() {
            tracing::warn!(path = %self.disk.path(TABLES).display(), "store was not closed cleanly, the next start checks it");
        }
        self.disk.close();
    }

    /// The durable state as of now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Fault> {
        let opened = self.opened.read();
        let database = match &opened.database {
            Ok(database) => database,
            Err(Error::Closed) => return Err(Fault::Failed(Error::Closed)),
            Err(_) => return Err(Fault::Shut),
        };
        let (transaction, values) = self.guarded(|| {
            let transaction = database.begin_read()?;
            let values = transaction.open_table(VALUES)?;
            Ok((transaction, values))
        })?;
        let disk = self.disk.clone();
        Ok(Snapshot {
            disk,
            values,
            events: OnceCell::new(),
            transaction,
        })
    }

    /// Makes the changes durable, all or none; after an error it is unknown which. Gives the bytes of
    /// keys and values that were purged.
    pub(crate) fn commit(&self, generation: u64, changes: &Changes) -> Result<u64, Fault> {
        let _writing = self.writing.lock();
        let opened = self.opened.read();
        let Ok(database) = &opened.database else {
            return Err(Fault::Shut);
        };
        if opened.generation != generation {
            return Err(Fault::Shut);
        }
        self.guarded(|| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            let purged = write(&transaction, changes)?;
            transaction.commit()?;
            Ok(purged)
        })
    }

    fn guarded<T>(&self, access: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
        guarded(&|| self.disk.path(TABLES), access)
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

/// The log as it was when the snapshot was taken. Keeping it keeps pages of the file from reuse.
pub(crate) struct Snapshot {
    disk: Arc<dyn Disk>,
    values: ReadOnlyTable<u64, &'static [u8]>,
    events: OnceCell<ReadOnlyTable<u64, &'static [u8]>>,
    transaction: ReadTransaction,
}

impl Snapshot {
    /// The value written at a position. Nothing if it is compacted away.
    pub(crate) fn value(&self, position: Position) -> Result<Option<Bytes>, Fault> {
        let found = self.guarded(|| {
            let Some(sealed) = self.values.get(position.0)? else {
                return Ok(None);
            };
            Ok(Some(decode_value(position, sealed.value())))
        })?;
        match found {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(self.corrupt("value", position)),
        }
    }

    /// A value that must be there.
    pub(crate) fn required(&self, position: Position) -> Result<Bytes, Fault> {
        self.value(position)?.ok_or_else(|| self.lost(position))
    }

    /// Many values that must be there, by ascending position.
    pub(crate) fn values(
        &self,
        wanted: &[(Position, usize)],
        mut found: impl FnMut(usize, Bytes),
    ) -> Result<(), Fault> {
        let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else {
            return Ok(());
        };
        // Reading past what is not wanted is cheaper than looking each one up, unless little is wanted.
        let span = (last.revision() - first.revision()).unsigned_abs() as usize;
        if span / 8 > wanted.len() {
            for (position, place) in wanted {
                found(*place, self.required(*position)?);
            }
            return Ok(());
        }
        let mut wanted = wanted.iter().peekable();
        let bad = self.guarded(|| {
            for row in self.values.range(first.0..=last.0)? {
                let (position, sealed) = row?;
                let position = Position(position.value());
                match wanted.peek() {
                    Some((next, _)) if *next < position => return Ok(Some(*next)),
                    Some((next, place)) if *next == position => {
                        let Some(value) = decode_value(position, sealed.value()) else {
                            return Ok(Some(position));
                        };
                        found(*place, value);
                        wanted.next();
                    }
                    _ => {}
                }
            }
            Ok(wanted.peek().map(|(position, _)| *position))
        })?;
        bad.map_or(Ok(()), |position| Err(self.corrupt("value", position)))
    }

    /// A value that should be there is not.
    pub(crate) fn lost(&self, position: Position) -> Fault {
        self.corrupt("missing value", position)
    }

    /// Walks the records from a position on.
    pub(crate) fn walk(
        &self,
        from: Position,
        mut visit: impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let bad = self.guarded(|| {
            for row in self.events()?.range(from.0..)? {
                let (position, sealed) = row?;
                let position = Position(position.value());
                let Some(entry) = decode_event(position, sealed.value()) else {
                    return Ok(Some(position));
                };
                if visit(entry).is_break() {
                    break;
                }
            }
            Ok(None)
        })?;
        bad.map_or(Ok(()), |position| Err(self.corrupt("event", position)))
    }

    pub(crate) fn state(&self) -> Result<State, Fault> {
        self.guarded(|| {
            let table = self.transaction.open_table(STATE)?;
            let number = |key| Ok::<_, redb::Error>(table.get(key)?.map_or(0, |number| number.value()));
            let mut leases = Vec::new();
            for row in self.transaction.open_table(LEASES)?.iter()? {
                let (id, ttl) = row?;
                leases.push((id.value() as LeaseId, ttl.value()));
            }
            Ok(State {
                compact_revision: number(COMPACT_KEY)? as i64,
                purged_to: Position(number(PURGED_KEY)?),
                next_lease: (number(NEXT_LEASE_KEY)? as LeaseId).max(1),
                leases,
                sequence: number(SEQUENCE_KEY)?,
                secret: number(SECRET_KEY)? as u32,
            })
        })
    }

    fn before(&self, position: Position) -> Result<Option<Version>, Fault> {
        let found = self.guarded(|| {
            let Some(sealed) = self.events()?.get(position.0)? else {
                return Ok(None);
            };
            Ok(Some(
                decode_event(position, sealed.value()).map(|entry| entry.prev),
            ))
        })?;
        match found {
            None => Ok(None),
            Some(Some(prev)) => Ok(prev),
            Some(None) => Err(self.corrupt("event", position)),
        }
    }

    fn events(&self) -> Result<&ReadOnlyTable<u64, &'static [u8]>, redb::Error> {
        if let Some(events) = self.events.get() {
            return Ok(events);
        }
        let events = self.transaction.open_table(EVENTS)?;
        Ok(self.events.get_or_init(|| events))
    }

    fn corrupt(&self, what: &str, position: Position) -> Fault {
        let detail = format!(
            "{what} of revision {}, record {:x}",
            position.revision(),
            position.0
        );
        Fault::Failed(Error::Corrupt {
            path: self.disk.path(TABLES),
            detail,
        })
    }

    fn guarded<T>(&self, access: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
        guarded(&|| self.disk.path(TABLES), access)
    }
}

impl History for Snapshot {
    fn before(&self, position: Position) -> Result<Option<Version>, Fault> {
        Snapshot::before(self, position)
    }
}

fn write(transaction: &WriteTransaction, changes: &Changes) -> Result<u64, redb::Error> {
    let mut buffer = Vec::new();
    let mut purged = 0;
    if !changes.records.is_empty() || !changes.purge.is_empty() {
        let mut events = transaction.open_table(EVENTS)?;
        let mut values = transaction.open_table(VALUES)?;
        for record in &changes.records {
            let position = record.at.position.0;
            encode_event(record, &mut buffer);
            events.insert(position, &buffer[..])?;
            if !record.at.is_deletion() {
                encode_value(record, &mut buffer);
                values.insert(position, &buffer[..])?;
            }
        }
        for position in &changes.purge {
            if let Some(sealed) = events.remove(position.0)? {
                purged += decode_event(*position, sealed.value())
                    .map_or(0, |entry| entry.key.len() as u64 + entry.value_len);
            }
            values.remove(position.0)?;
        }
    }
    if !changes.leases.is_empty() {
        let mut leases = transaction.open_table(LEASES)?;
        for (id, ttl) in &changes.leases {
            match ttl {
                Some(ttl) => leases.insert(id.unsigned_abs(), ttl)?,
                None => leases.remove(id.unsigned_abs())?,
            };
        }
    }
    let numbers = [
        (COMPACT_KEY, changes.compact_revision.map(i64::unsigned_abs)),
        (PURGED_KEY, changes.purged_to.map(|position| position.0)),
        (NEXT_LEASE_KEY, changes.next_lease.map(i64::unsigned_abs)),
        (SEQUENCE_KEY, changes.sequence),
    ];
    if numbers.iter().any(|(_, number)| number.is_some()) {
        let mut state = transaction.open_table(STATE)?;
        for (key, number) in numbers {
            if let Some(number) = number {
                state.insert(key, number)?;
            }
        }
    }
    Ok(purged)
}

pub(crate) fn unavailable(reason: &str, source: Option<Arc<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable {
        reason: reason.to_owned(),
        source,
    }
}
