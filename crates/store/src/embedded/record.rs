//! One change to one key: how it is addressed, kept in memory and laid out on disk.
//!
//! ```text
//! events[position] = create · version · lease · value length · prev · key · CRC-32
//! values[position] = value · CRC-32
//! in the log       = position · create · version · lease · prev · key length · key · value length · value
//! ```
//!
//! Numbers are LEB128. Each checksum covers the position too, so a record found in the wrong place is
//! noticed. The two are apart so that start-up and watches of other keys read no values.
//!
//! **Invariant:** the layout is the on-disk format; a change to it needs a new
//! [`FORMAT`](super::storage::FORMAT).

use crate::{Event, EventKind, KeyValue, LeaseId};
use bytes::Bytes;

/// Where a change stands in history: the revision, and the place within the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position(pub(crate) u64);

/// Changes one revision can hold: a million. 44 bits are left for revisions.
const PLACE_BITS: u32 = 20;
pub(crate) const MAX_CHANGES: usize = 1 << PLACE_BITS;

impl Position {
    pub(crate) fn new(revision: i64, place: usize) -> Self {
        Self((revision.unsigned_abs() << PLACE_BITS) | place as u64)
    }

    /// The first place of a revision, which bounds everything before it.
    pub(crate) fn start_of(revision: i64) -> Self {
        Self::new(revision.max(0), 0)
    }

    pub(crate) fn revision(self) -> i64 {
        (self.0 >> PLACE_BITS) as i64
    }
}

/// What the index knows of a key at a position: everything but the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Version {
    pub(crate) position: Position,
    pub(crate) create_revision: i64,
    /// 0 for a deletion.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl Version {
    pub(crate) fn is_deletion(&self) -> bool {
        self.version == 0
    }

    pub(crate) fn with(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create_revision: self.create_revision,
            mod_revision: self.position.revision(),
            version: self.version,
            lease: self.lease,
        }
    }
}

/// A change, as it is written, published to watches and kept for a while in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) at: Version,
    /// What this change superseded, be it a deletion. Its record may be compacted away.
    pub(crate) prev: Option<Version>,
}

impl Record {
    pub(crate) fn revision(&self) -> i64 {
        self.at.position.revision()
    }

    /// Roughly what it costs to keep.
    pub(crate) fn weight(&self) -> usize {
        self.key.len() + self.value.len() + size_of::<Self>()
    }

    pub(crate) fn kv(&self) -> KeyValue {
        self.at.with(self.key.clone(), self.value.clone())
    }

    pub(crate) fn event(&self, prev: Option<KeyValue>) -> Event {
        let kind = if self.at.is_deletion() {
            EventKind::Delete
        } else {
            EventKind::Put
        };
        Event {
            kind,
            kv: self.kv(),
            prev,
        }
    }
}

/// A record without its value, as the `events` table holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) at: Version,
    pub(crate) value_len: u64,
    pub(crate) prev: Option<Version>,
}

/// Appends the `events` form of a record to an empty buffer.
pub(crate) fn encode_event(record: &Record, out: &mut Vec<u8>) {
    out.clear();
    put_version(out, &record.at);
    put_number(out, record.value.len() as u64);
    match &record.prev {
        None => put_number(out, 0),
        Some(prev) => {
            put_number(out, prev.position.0);
            put_version(out, prev);
        }
    }
    out.extend_from_slice(&record.key);
    seal(record.at.position, out);
}

/// Appends the `values` form of a record to an empty buffer.
pub(crate) fn encode_value(record: &Record, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&record.value);
    seal(record.at.position, out);
}

/// Nothing if the bytes are not what was written at this position.
pub(crate) fn decode_event(position: Position, sealed: &[u8]) -> Option<Entry<'_>> {
    let mut rest = unseal(position, sealed)?;
    let at = take_version(&mut rest, position)?;
    let value_len = take_number(&mut rest)?;
    let prev = match take_number(&mut rest)? {
        0 => None,
        prev => Some(take_version(&mut rest, Position(prev))?),
    };
    Some(Entry {
        key: rest,
        at,
        value_len,
        prev,
    })
}

/// Nothing if the bytes are not what was written at this position.
pub(crate) fn decode_value(position: Position, sealed: &[u8]) -> Option<Bytes> {
    unseal(position, sealed).map(Bytes::copy_from_slice)
}

/// Appends the form of a record that the log holds.
pub(crate) fn log_record(record: &Record, out: &mut Vec<u8>) {
    put_number(out, record.at.position.0);
    put_version(out, &record.at);
    match &record.prev {
        None => put_number(out, 0),
        Some(prev) => {
            put_number(out, prev.position.0);
            put_version(out, prev);
        }
    }
    for bytes in [&record.key, &record.value] {
        put_number(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Takes a record from the front of what the log holds.
pub(crate) fn unlog_record(rest: &mut &[u8]) -> Option<Record> {
    let position = Position(take_number(rest)?);
    let at = take_version(rest, position)?;
    let prev = match take_number(rest)? {
        0 => None,
        prev => Some(take_version(rest, Position(prev))?),
    };
    let mut bytes = || -> Option<Bytes> {
        let len = take_number(rest)?;
        let (taken, left) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        *rest = left;
        Some(Bytes::copy_from_slice(taken))
    };
    Some(Record {
        key: bytes()?,
        value: bytes()?,
        at,
        prev,
    })
}

fn put_version(out: &mut Vec<u8>, version: &Version) {
    put_number(out, version.create_revision.unsigned_abs());
    put_number(out, version.version.unsigned_abs());
    put_number(out, version.lease.unsigned_abs());
}

fn take_version(rest: &mut &[u8], position: Position) -> Option<Version> {
    let mut number = || take_number(rest).map(|number| number as i64);
    Some(Version {
        position,
        create_revision: number()?,
        version: number()?,
        lease: number()?,
    })
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn seal(position: Position, out: &mut Vec<u8>) {
    let sum = checksum(position, out);
    out.extend_from_slice(&sum.to_le_bytes());
}

fn unseal(position: Position, sealed: &[u8]) -> Option<&[u8]> {
    let (body, sum) = sealed.split_last_chunk()?;
    (checksum(position, body) == u32::from_le_bytes(*sum)).then_some(body)
}

fn checksum(position: Position, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.0.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(prev: Option<Version>) -> Record {
        let at = Version {
            position: Position::new(300, 7),
            create_revision: 200,
            version: 3,
            lease: 1 << 40,
        };
        Record {
            key: Bytes::from_static(b"/registry/pods/a/b"),
            value: Bytes::from_static(b"value"),
            at,
            prev,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let prev = Version {
            position: Position::new(250, 0),
            create_revision: 200,
            version: 2,
            lease: 0,
        };
        for record in [record(None), record(Some(prev))] {
            let (mut event, mut value) = (Vec::new(), Vec::new());
            encode_event(&record, &mut event);
            encode_value(&record, &mut value);
            let entry = decode_event(record.at.position, &event).expect("an event");
            assert_eq!(
                (entry.key, entry.at, entry.prev),
                (&record.key[..], record.at, record.prev)
            );
            assert_eq!(entry.value_len, 5);
            assert_eq!(
                decode_value(record.at.position, &value),
                Some(record.value.clone())
            );
            let mut logged = Vec::new();
            log_record(&record, &mut logged);
            let mut rest = &logged[..];
            assert_eq!(unlog_record(&mut rest), Some(record));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = record(None);
        let mut event = Vec::new();
        encode_event(&record, &mut event);
        for bit in 0..event.len() * 8 {
            let mut torn = event.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_event(record.at.position, &torn), None, "bit {bit}");
        }
        assert_eq!(
            decode_event(Position::new(300, 8), &event),
            None,
            "another position"
        );
        for len in 0..event.len() {
            assert_eq!(
                decode_event(record.at.position, &event[..len]),
                None,
                "cut to {len}"
            );
        }
    }
}
