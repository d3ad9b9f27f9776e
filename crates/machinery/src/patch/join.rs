//! Walking two maps at once, so that a patch with many keys costs the sum of both maps and not their product.

use crate::{Key, Map, Value};

/// `base` with each of `patch`'s keys set to what `change` makes of the old and the new value, or removed.
pub(crate) fn join<E>(
    base: Map,
    patch: Map,
    mut change: impl FnMut(&Key, Option<Value>, Value) -> Result<Option<Value>, E>,
) -> Result<Map, E> {
    let mut out = Vec::with_capacity(base.len() + patch.len());
    let mut base = base.into_iter().peekable();
    for (key, value) in patch {
        while let Some(entry) = base.next_if(|(k, _)| *k < key) {
            out.push(entry);
        }
        let old = base.next_if(|(k, _)| *k == key).map(|(_, old)| old);
        if let Some(value) = change(&key, old, value)? {
            out.push((key, value));
        }
    }
    out.extend(base);
    // Both came sorted, so this only takes the vector.
    Ok(Map::from_unsorted(out, |_| {}))
}
