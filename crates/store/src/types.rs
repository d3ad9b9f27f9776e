//! What goes in and out of a [`Store`](crate::Store). The words are etcd's.

use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;

/// 0 means no lease.
pub type LeaseId = i64;

/// A key as it stood at some revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    pub key: Bytes,
    /// Empty when only keys were asked for, and in the event of a deletion.
    pub value: Bytes,
    /// Revision of the put that made the key; 0 in the event of a deletion.
    pub create_revision: i64,
    /// Revision of the newest change.
    pub mod_revision: i64,
    /// Puts since the key was made, from 1; 0 in the event of a deletion.
    pub version: i64,
    pub lease: LeaseId,
}

/// The keys from `start` up to but without `end`; to the end of all keys without an `end`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Exactly one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = BytesMut::with_capacity(start.len() + 1);
        end.put_slice(&start);
        end.put_u8(0);
        Self {
            start,
            end: Some(end.freeze()),
        }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end }
    }

    /// The keys that begin with `prefix`, from `start` on: the continuation of a paged list.
    pub fn prefix_from(prefix: &[u8], start: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: prefix_end(prefix),
        }
    }

    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: Some(end.into()),
        }
    }

    pub fn all() -> Self {
        Self {
            start: Bytes::new(),
            end: None,
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// No key can lie in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end <= &self.start)
    }

    /// The key, if the range can hold only one.
    pub fn single(&self) -> Option<&Bytes> {
        let end = self.end.as_ref()?;
        let (last, head) = end.split_last()?;
        (*last == 0 && head == &self.start[..]).then_some(&self.start)
    }
}

fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = BytesMut::from(&prefix[..=keep]);
    end[keep] += 1;
    Some(end.freeze())
}

/// How much of each key a range returns. The count is always that of the whole range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Select {
    #[default]
    Full,
    /// Everything but the values.
    KeysOnly,
    /// Nothing but the count.
    CountOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// 0 means the newest.
    pub revision: i64,
    /// 0 means no limit.
    pub limit: usize,
    pub select: Select,
}

impl RangeRequest {
    /// Everything in the range, newest state.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: 0,
            select: Select::Full,
        }
    }

    pub fn at(mut self, revision: i64) -> Self {
        self.revision = revision;
        self
    }

    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeResponse {
    /// In key order.
    pub kvs: Vec<KeyValue>,
    /// The limit cut the answer short.
    pub more: bool,
    /// Keys in the whole range at that revision.
    pub count: i64,
    /// The store's revision when this was answered, whatever revision was asked for.
    pub revision: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetResponse {
    pub kv: Option<KeyValue>,
    /// The store's revision when this was answered.
    pub revision: i64,
}

/// A condition on one key. A key that does not exist has revision 0, version 0 and no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    ModRevision(i64),
    CreateRevision(i64),
    Version(i64),
    /// False when the key does not exist.
    Value(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        lease: LeaseId,
    },
    /// Every key of the range. The response holds what was deleted.
    Delete(KeyRange),
    Range(RangeRequest),
}

/// If every comparison holds, `then`, else `otherwise`; in order, and all under one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Puts a key that must not exist; otherwise returns what is there.
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::update(key, 0, value, lease)
    }

    /// Puts a key that must stand at `mod_revision`; otherwise returns what is there.
    pub fn update(key: impl Into<Bytes>, mod_revision: i64, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        let key = key.into();
        Self::guarded(
            key.clone(),
            mod_revision,
            Op::Put {
                key,
                value: value.into(),
                lease,
            },
        )
    }

    /// Deletes a key that must stand at `mod_revision`; otherwise returns what is there.
    pub fn delete(key: impl Into<Bytes>, mod_revision: i64) -> Self {
        let key = key.into();
        Self::guarded(key.clone(), mod_revision, Op::Delete(KeyRange::key(key)))
    }

    /// Puts a key, whatever stands there.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::always(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: 0,
        })
    }

    /// One operation without a condition.
    pub fn always(op: Op) -> Self {
        Self {
            then: vec![op],
            ..Self::default()
        }
    }

    fn guarded(key: Bytes, mod_revision: i64, op: Op) -> Self {
        Self {
            compare: vec![Compare {
                key: key.clone(),
                target: Target::ModRevision(mod_revision),
            }],
            then: vec![op],
            otherwise: vec![Op::Range(RangeRequest::new(KeyRange::key(key)))],
        }
    }

    /// No branch changes anything.
    pub fn is_read_only(&self) -> bool {
        self.then
            .iter()
            .chain(&self.otherwise)
            .all(|op| matches!(op, Op::Range(_)))
    }

    /// Bytes of keys and values, what the size limit counts.
    pub fn size(&self) -> usize {
        let op_size = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete(range) => range.start.len(),
            Op::Range(request) => request.range.start.len(),
        };
        self.then.iter().chain(&self.otherwise).map(op_size).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnResponse {
    /// `then` was done.
    pub succeeded: bool,
    /// The revision of this transaction if it changed something, else that of the store.
    pub revision: i64,
    /// One for each operation of the branch taken.
    pub responses: Vec<OpResponse>,
}

impl TxnResponse {
    /// The key found by the range that [`Txn::create`], [`Txn::update`] and [`Txn::delete`] do
    /// when their condition does not hold.
    pub fn found(self) -> Option<KeyValue> {
        match self.responses.into_iter().next() {
            Some(OpResponse::Range(range)) => range.kvs.into_iter().next(),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResponse {
    Put,
    Delete(DeleteResponse),
    Range(RangeResponse),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteResponse {
    /// What stood there, in key order.
    pub deleted: Vec<KeyValue>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// For a deletion only the key and the revision of the deletion.
    pub kv: KeyValue,
    /// What stood before, if asked for and if there was something.
    pub prev: Option<KeyValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    pub range: KeyRange,
    /// The first revision of interest; 0 means from the next change on.
    pub from_revision: i64,
    /// Events carry what stood before.
    pub prev_kv: bool,
    /// Send an empty batch once everything that had happened when the watch began is delivered,
    /// and after that whenever the [`ProgressHandle`](crate::ProgressHandle) asks.
    pub progress: bool,
}

impl WatchRequest {
    pub fn new(range: KeyRange, from_revision: i64) -> Self {
        Self {
            range,
            from_revision,
            prev_kv: false,
            progress: false,
        }
    }

    pub fn prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }
}

/// Whole revisions of changes to the watched range. Without events it is a progress notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Everything in the range up to and with this revision has now been delivered.
    pub revision: i64,
    /// In order of revision, and in order of the operations within a revision.
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// What was granted, which may be more than was asked for.
    pub ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    pub revision: i64,
    /// The oldest revision that can still be read, 0 if all can.
    pub compact_revision: i64,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes of those that hold something.
    pub size_in_use: u64,
    /// Live keys.
    pub keys: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |range: KeyRange, inside: &[&[u8]], outside: &[&[u8]]| {
            for key in inside {
                assert!(range.contains(key), "{range:?} lacks {key:?}");
            }
            for key in outside {
                assert!(!range.contains(key), "{range:?} has {key:?}");
            }
        };
        check(KeyRange::key("a"), &[b"a"], &[b"", b"a\0", b"b", b"aa"]);
        check(
            KeyRange::prefix("/a/"),
            &[b"/a/", b"/a/x", b"/a/\xff"],
            &[b"/a", b"/a0", b"/b"],
        );
        check(
            KeyRange::prefix(&b"a\xff\xff"[..]),
            &[b"a\xff\xff\xff"],
            &[b"a\xff", b"b"],
        );
        check(
            KeyRange::prefix(&b"\xff"[..]),
            &[b"\xff", b"\xff\xff\xff"],
            &[b"\xfe"],
        );
        check(KeyRange::all(), &[b"", b"\xff\xff"], &[]);
        check(
            KeyRange::prefix_from(b"/a/", "/a/m"),
            &[b"/a/m", b"/a/z"],
            &[b"/a/l", b"/b"],
        );
        assert_eq!(KeyRange::key("a").single().map(|key| &key[..]), Some(&b"a"[..]));
        assert!(KeyRange::prefix("a").single().is_none());
        assert!(KeyRange::between("b", "a").is_empty());
    }
}
