//! The keys in memory: for each its newest version, and the newest records whole.
//!
//! Values, and versions before the newest, are on disk; a key's older versions are reached from record to
//! record by what each one superseded. So memory grows with the number of keys (some 150 bytes
//! each) and not with history.
//!
//! **Invariant:** everything in here is durable, in the log if not in the tables.
//! **Invariant:** what the tables do not have yet is among the newest records kept.

use super::record::{Entry, Position, Record, Version};
use super::storage::{Changes, Fault};
use crate::{FIRST_REVISION, KeyRange, LeaseId, RangeRequest, Select};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, Version>,
    live: u64,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    /// Bytes of keys and values in all versions on disk.
    pub(crate) stored: u64,
    /// The newest records in order, without gaps.
    recent: VecDeque<Arc<Record>>,
    recent_weight: usize,
    recent_limit: usize,
    /// The newest record that is no longer kept.
    evicted_to: Position,
    /// The newest frame of the log that is in here.
    pub(crate) sequence: u64,
    /// What the tables hold: frames of the log, and records.
    pub(crate) saved_sequence: u64,
    pub(crate) saved_to: Position,
    pub(crate) next_lease: LeaseId,
    /// Leases the tables do not have yet; nothing for one that is gone.
    unsaved_leases: Vec<(LeaseId, Option<u64>)>,
}

/// Where to look up versions before the newest.
pub(crate) trait History {
    /// What the version at `position` superseded. Nothing if that version is compacted away.
    fn before(&self, position: Position) -> Result<Option<Version>, Fault>;
}

/// What a range matched, before values are fetched.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    pub(crate) keys: Vec<(Bytes, Version)>,
    pub(crate) count: i64,
    pub(crate) more: bool,
}

impl Index {
    pub(crate) fn new(recent_limit: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            live: 0,
            revision: FIRST_REVISION,
            compact_revision: 0,
            stored: 0,
            recent: VecDeque::new(),
            recent_weight: 0,
            recent_limit,
            evicted_to: Position::default(),
            sequence: 0,
            saved_sequence: 0,
            saved_to: Position::default(),
            next_lease: 1,
            unsaved_leases: Vec::new(),
        }
    }

    /// The newest version of a key, be it a deletion.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<&Version> {
        self.keys.get(key)
    }

    /// A key that exists.
    pub(crate) fn live(&self, key: &[u8]) -> Option<(Bytes, Version)> {
        let (key, version) = self.keys.get_key_value(key)?;
        (!version.is_deletion()).then(|| (key.clone(), *version))
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.live
    }

    /// Every version in a range, deletions too.
    pub(crate) fn versions(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Version)> {
        // BTreeMap panics at a reversed range.
        let end = range.end.as_ref().map(|end| end.max(&range.start));
        let upper = end.map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        self.keys
            .range::<[u8], _>((Bound::Included(&range.start[..]), upper))
    }

    /// The keys of a range as they stood at a revision the caller has found readable.
    pub(crate) fn scan(&self, request: &RangeRequest, history: &dyn History) -> Result<Hits, Fault> {
        if request.revision <= 0 || request.revision >= self.revision {
            return Ok(self.scan_newest(request));
        }
        let mut hits = Hits::default();
        for (key, version) in self.versions(&request.range) {
            if let Some(version) = self.at(*version, request.revision, history)? {
                hits.add(key, version, request);
            }
        }
        Ok(hits)
    }

    /// The keys of a range as they stand.
    pub(crate) fn scan_newest(&self, request: &RangeRequest) -> Hits {
        let mut hits = Hits::default();
        for (key, version) in self.versions(&request.range) {
            hits.add(key, *version, request);
        }
        hits
    }

    /// What a frame of the log made durable. Records come in order of position.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        for record in &changes.records {
            self.enter(&record.key, record.at);
            self.stored += (record.key.len() + record.value.len()) as u64;
            self.recent_weight += record.weight();
            self.recent.push_back(record.clone());
        }
        if let Some(revision) = changes.compact_revision {
            self.compact_revision = revision;
        }
        if let Some(next_lease) = changes.next_lease {
            self.next_lease = next_lease;
        }
        self.unsaved_leases.extend(&changes.leases);
        if let Some(sequence) = changes.sequence {
            self.sequence = sequence;
        }
        self.evict();
    }

    /// What the tables do not have yet.
    pub(crate) fn unsaved(&self) -> Changes {
        let from = self
            .recent
            .partition_point(|record| record.at.position <= self.saved_to);
        Changes {
            records: self.recent.range(from..).cloned().collect(),
            compact_revision: Some(self.compact_revision),
            next_lease: Some(self.next_lease),
            leases: self.unsaved_leases.clone(),
            sequence: Some(self.sequence),
            ..Changes::default()
        }
    }

    /// The tables have these now.
    pub(crate) fn saved(&mut self, changes: &Changes) {
        if let Some(last) = changes.records.last() {
            self.saved_to = last.at.position;
        }
        if let Some(sequence) = changes.sequence {
            self.saved_sequence = sequence;
        }
        self.unsaved_leases.drain(..changes.leases.len());
        self.evict();
    }

    /// A record met in the start-up scan.
    pub(crate) fn load(&mut self, entry: &Entry<'_>) {
        self.enter(entry.key, entry.at);
        self.saved_to = entry.at.position;
        self.evicted_to = entry.at.position;
        self.stored += entry.key.len() as u64 + entry.value_len;
    }

    /// Forgets a deletion that has been compacted away, unless the key came back.
    pub(crate) fn forget(&mut self, key: &[u8], position: Position) {
        if self
            .keys
            .get(key)
            .is_some_and(|version| version.position == position)
        {
            self.keys.remove(key);
        }
    }

    /// The whole record, if it is among the newest.
    pub(crate) fn recent(&self, position: Position) -> Option<&Arc<Record>> {
        let place = self
            .recent
            .binary_search_by_key(&position, |record| record.at.position)
            .ok()?;
        self.recent.get(place)
    }

    /// All records from a revision on, if memory goes back that far.
    pub(crate) fn recent_from(&self, revision: i64) -> Option<impl Iterator<Item = &Arc<Record>>> {
        // Of the revision evicted last, some records may still be here.
        let whole_from = self.evicted_to.revision() + 1;
        let start = Position::start_of(revision);
        let from = self.recent.partition_point(|record| record.at.position < start);
        (revision >= whole_from).then(|| self.recent.range(from..))
    }

    /// The version that stood at `revision`, starting from a newer one.
    fn at(&self, newest: Version, revision: i64, history: &dyn History) -> Result<Option<Version>, Fault> {
        let mut version = newest;
        while version.position.revision() > revision {
            let before = match self.recent(version.position) {
                Some(record) => record.prev,
                None => history.before(version.position)?,
            };
            match before {
                Some(before) => version = before,
                None => return Ok(None),
            }
        }
        Ok(Some(version))
    }

    fn evict(&mut self) {
        while self.recent_weight > self.recent_limit
            && let Some(oldest) = self
                .recent
                .pop_front_if(|oldest| oldest.at.position <= self.saved_to)
        {
            self.recent_weight -= oldest.weight();
            self.evicted_to = oldest.at.position;
        }
    }

    fn enter(&mut self, key: &[u8], version: Version) {
        self.revision = self.revision.max(version.position.revision());
        let was_live = match self.keys.get_mut(key) {
            Some(known) => {
                let was_live = !known.is_deletion();
                *known = version;
                was_live
            }
            None => {
                self.keys.insert(Bytes::copy_from_slice(key), version);
                false
            }
        };
        self.live += u64::from(!version.is_deletion());
        self.live -= u64::from(was_live);
    }
}

impl Hits {
    /// A version in the range; deletions do not count.
    pub(crate) fn add(&mut self, key: &Bytes, version: Version, request: &RangeRequest) {
        if version.is_deletion() {
            return;
        }
        self.count += 1;
        if request.select == Select::CountOnly {
            return;
        }
        if request.limit > 0 && self.keys.len() == request.limit {
            self.more = true;
        } else {
            self.keys.push((key.clone(), version));
        }
    }
}
