//! Deciding transactions: a plain function from the durable state to records and answers.
//!
//! A [`Draft`] collects the records of one group of transactions. Each sees the durable state and
//! the changes of those drafted before it, gets the next revision if it changes something, and leaves
//! no trace if it fails. Nothing here is visible to anybody until the writer has made it durable.

use super::index::{History, Hits, Index};
use super::record::{MAX_CHANGES, Position, Record, Version};
use super::storage::Fault;
use crate::{
    Compare, DeleteResponse, Error, KeyRange, KeyValue, LeaseId, Op, OpResponse, RangeRequest, RangeResponse,
    Select, Target, Txn, TxnResponse, validate,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values and versions that memory does not hold.
pub(crate) trait Source: History {
    fn value(&self, position: Position) -> Result<Bytes, Fault>;
}

pub(crate) struct Draft<'a> {
    index: &'a Index,
    source: &'a dyn Source,
    lease_exists: &'a dyn Fn(LeaseId) -> bool,
    /// The newest revision given out.
    revision: i64,
    records: Vec<Arc<Record>>,
    /// The newest record of each key changed here.
    pending: BTreeMap<Bytes, Arc<Record>>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(
        index: &'a Index,
        source: &'a dyn Source,
        lease_exists: &'a dyn Fn(LeaseId) -> bool,
    ) -> Self {
        let revision = index.revision;
        Self {
            index,
            source,
            lease_exists,
            revision,
            records: Vec::new(),
            pending: BTreeMap::new(),
        }
    }

    /// What is to be made durable, in order.
    pub(crate) fn into_records(self) -> Vec<Arc<Record>> {
        self.records
    }

    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, Fault> {
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && self.holds(compare)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        validate::branch(
            ops,
            self.index.revision,
            self.index.compact_revision,
            self.lease_exists,
        )?;
        let mark = self.records.len();
        match self.run(ops) {
            Ok(responses) => {
                self.revision += i64::from(self.records.len() > mark);
                Ok(TxnResponse {
                    succeeded,
                    revision: self.revision,
                    responses,
                })
            }
            Err(fault) => {
                self.undo(mark);
                Err(fault)
            }
        }
    }

    fn run(&mut self, ops: &[Op]) -> Result<Vec<OpResponse>, Fault> {
        let mark = self.records.len();
        let revision = self.revision + 1;
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                Op::Put { key, value, lease } => {
                    self.put(mark, revision, key, value, *lease)?;
                    OpResponse::Put
                }
                Op::Delete(range) => OpResponse::Delete(self.delete(mark, revision, range)?),
                Op::Range(request) => {
                    let visible = if self.records.len() > mark {
                        revision
                    } else {
                        self.revision
                    };
                    OpResponse::Range(self.range(request, visible)?)
                }
            });
        }
        Ok(responses)
    }

    fn put(
        &mut self,
        mark: usize,
        revision: i64,
        key: &Bytes,
        value: &Bytes,
        lease: LeaseId,
    ) -> Result<(), Fault> {
        let prev = self.newest(key);
        let live = prev.filter(|prev| !prev.is_deletion());
        let at = Version {
            position: self.next_position(mark, revision)?,
            create_revision: live.map_or(revision, |live| live.create_revision),
            version: live.map_or(0, |live| live.version) + 1,
            lease,
        };
        self.push(Record {
            key: key.clone(),
            value: value.clone(),
            at,
            prev,
        });
        Ok(())
    }

    fn delete(&mut self, mark: usize, revision: i64, range: &KeyRange) -> Result<DeleteResponse, Fault> {
        let hits = self.current(&RangeRequest::new(range.clone()));
        let mut deleted = Vec::with_capacity(hits.keys.len());
        for (key, version) in hits.keys {
            deleted.push(self.fetch(&key, version, Select::Full)?);
            let position = self.next_position(mark, revision)?;
            let at = Version {
                position,
                ..Version::default()
            };
            self.push(Record {
                key,
                value: Bytes::new(),
                at,
                prev: Some(version),
            });
        }
        Ok(DeleteResponse { deleted })
    }

    fn range(&self, request: &RangeRequest, visible: i64) -> Result<RangeResponse, Fault> {
        let hits = match request.revision {
            0 => self.current(request),
            _ => self.index.scan(request, self.source)?,
        };
        let fetch = |(key, version): (Bytes, Version)| self.fetch(&key, version, request.select);
        let kvs = hits.keys.into_iter().map(fetch).collect::<Result<_, _>>()?;
        Ok(RangeResponse {
            kvs,
            more: hits.more,
            count: hits.count,
            revision: visible,
        })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, Fault> {
        let live = self.newest(&compare.key).filter(|version| !version.is_deletion());
        Ok(match &compare.target {
            Target::ModRevision(wanted) => live.map_or(0, |live| live.position.revision()) == *wanted,
            Target::CreateRevision(wanted) => live.map_or(0, |live| live.create_revision) == *wanted,
            Target::Version(wanted) => live.map_or(0, |live| live.version) == *wanted,
            Target::Value(wanted) => match live {
                Some(live) => self.fetch(&compare.key, live, Select::Full)?.value == *wanted,
                None => false,
            },
        })
    }

    /// The newest version of a key, be it a deletion.
    fn newest(&self, key: &[u8]) -> Option<Version> {
        match self.pending.get(key) {
            Some(record) => Some(record.at),
            None => self.index.newest(key).copied(),
        }
    }

    /// The live keys of a range, changes of this draft included.
    fn current(&self, request: &RangeRequest) -> Hits {
        let mut hits = Hits::default();
        if let Some(key) = request.range.single() {
            if let Some(version) = self.newest(key) {
                hits.add(key, version, request);
            }
            return hits;
        }
        let mut merged: BTreeMap<&Bytes, Version> = self
            .index
            .versions(&request.range)
            .map(|(key, version)| (key, *version))
            .collect();
        let changed = self.pending.iter().filter(|(key, _)| request.range.contains(key));
        merged.extend(changed.map(|(key, record)| (key, record.at)));
        for (key, version) in merged {
            hits.add(key, version, request);
        }
        hits
    }

    fn fetch(&self, key: &Bytes, version: Version, select: Select) -> Result<KeyValue, Fault> {
        let value = match (select, self.pending.get(key)) {
            (Select::KeysOnly | Select::CountOnly, _) => Bytes::new(),
            (_, Some(record)) if record.at.position == version.position => record.value.clone(),
            _ => match self.index.recent(version.position) {
                Some(record) => record.value.clone(),
                None => self.source.value(version.position)?,
            },
        };
        Ok(version.with(key.clone(), value))
    }

    fn next_position(&self, mark: usize, revision: i64) -> Result<Position, Fault> {
        let place = self.records.len() - mark;
        if place >= MAX_CHANGES {
            return Err(Fault::Failed(Error::TooLarge {
                size: place,
                limit: MAX_CHANGES,
            }));
        }
        Ok(Position::new(revision, place))
    }

    fn push(&mut self, record: Record) {
        let record = Arc::new(record);
        self.pending.insert(record.key.clone(), record.clone());
        self.records.push(record);
    }

    /// Takes back a failed transaction.
    fn undo(&mut self, mark: usize) {
        for record in self.records.drain(mark..).rev() {
            self.pending.remove(&record.key);
        }
        // What an earlier transaction had changed in the same keys shows again.
        for record in &self.records {
            if self
                .pending
                .get(&record.key)
                .is_none_or(|newest| newest.at.position < record.at.position)
            {
                self.pending.insert(record.key.clone(), record.clone());
            }
        }
    }
}
