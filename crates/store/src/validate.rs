//! What makes a request impossible, the same for the engines of this crate.

use crate::{Error, LeaseId, Op, Result, Txn};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Can this revision be read? 0 always can.
pub(crate) fn readable(requested: i64, current: i64, compact_revision: i64) -> Result<()> {
    if requested > current {
        return Err(Error::FutureRevision { requested, current });
    }
    if requested > 0 && requested < compact_revision {
        return Err(Error::Compacted {
            requested,
            compact_revision,
        });
    }
    Ok(())
}

/// Can history be compacted to this revision?
pub(crate) fn compactable(requested: i64, current: i64, compact_revision: i64) -> Result<()> {
    if requested > current {
        return Err(Error::FutureRevision { requested, current });
    }
    if requested <= compact_revision {
        return Err(Error::Compacted {
            requested,
            compact_revision,
        });
    }
    Ok(())
}

/// What makes a transaction impossible whatever the store holds, in either branch.
pub(crate) fn txn(txn: &Txn) -> Result<()> {
    [&txn.then, &txn.otherwise]
        .into_iter()
        .try_for_each(|ops| changes(ops))
}

/// What makes a branch impossible now. With [`txn`] that is everything that could fail, so that doing it cannot.
pub(crate) fn branch(
    ops: &[Op],
    current: i64,
    compact_revision: i64,
    lease_exists: &dyn Fn(LeaseId) -> bool,
) -> Result<()> {
    for op in ops {
        match op {
            Op::Put { lease, .. } if *lease != 0 && !lease_exists(*lease) => {
                return Err(Error::LeaseNotFound(*lease));
            }
            Op::Put { .. } | Op::Delete(_) => {}
            Op::Range(request) => readable(request.revision, current, compact_revision)?,
        }
    }
    Ok(())
}

/// One revision can change a key only once.
fn changes(ops: &[Op]) -> Result<()> {
    let mut put: BTreeSet<&Bytes> = BTreeSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op {
            if key.is_empty() {
                return Err(Error::Invalid("key is empty"));
            }
            if ops.len() > 1 && !put.insert(key) {
                return Err(Error::DuplicateKey { key: key.clone() });
            }
        }
    }
    for op in ops {
        if let Op::Delete(range) = op
            && let Some(key) = put.iter().find(|key| range.contains(key))
        {
            return Err(Error::DuplicateKey { key: (*key).clone() });
        }
    }
    Ok(())
}
