//! Merging lists in a strategic merge patch.
//!
//! Objects merge by the list's merge key, scalars by value; the result is in the patch's order, with the items
//! that only the live list has placed where the live list had them relative to the patch's items.
//!
//! Items are found through an index from key to place, so that a large patch on a large list costs their sum and
//! not their product.

use super::schema::{View, bad_type};
use super::strategic::{self, DELETE, DIRECTIVE, MERGE, REPLACE, bad_patch_type};
use super::{PatchError, go};
use crate::{Map, Value};
use std::collections::HashMap;

/// What the tables say of a list field.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListMeta<'t> {
    /// `merge`, `replace` or nothing.
    pub(super) strategy: &'t str,
    /// Empty for lists of scalars.
    pub(super) merge_key: &'t str,
}

/// What a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Objects,
    Scalars,
}

/// A merge key or a scalar item, for looking up.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(u64),
    Text(String),
}

impl Scalar {
    /// Objects and lists are never equal to anything here: upstream's comparison panics on them.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(b) => Some(Self::Bool(*b)),
            Value::Int(i) => Some(Self::Int(*i)),
            Value::Float(f) => Some(Self::Float(f.to_bits())),
            Value::String(s) => Some(Self::Text(s.to_string())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn key_of(item: &Value, merge_key: &str) -> Option<Self> {
        match item {
            Value::Object(map) => Self::of(map.get(merge_key)?),
            other if merge_key.is_empty() => Self::of(other),
            _ => None,
        }
    }
}

/// The first place of each key.
struct Index(HashMap<Scalar, usize>);

impl Index {
    fn of(items: &[Value], merge_key: &str) -> Self {
        let mut index = HashMap::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            if let Some(key) = Scalar::key_of(item, merge_key) {
                index.entry(key).or_insert(i);
            }
        }
        Self(index)
    }

    fn find(&self, item: &Value, merge_key: &str) -> Option<usize> {
        self.0.get(&Scalar::key_of(item, merge_key)?).copied()
    }
}

/// All items of a list are objects or all are scalars of one type; there are no lists of lists.
pub(super) fn element_kind(lists: &[&[Value]]) -> Result<Kind, PatchError> {
    let mut items = lists.iter().flat_map(|list| list.iter());
    let Some(first) = items.next() else {
        return Err(PatchError::Failed(
            "no elements in any of the given slices".to_owned(),
        ));
    };
    if matches!(first, Value::Array(_)) {
        return Err(PatchError::Rejected(
            "lists of lists are not supported".to_owned(),
        ));
    }
    if items.any(|item| std::mem::discriminant(item) != std::mem::discriminant(first)) {
        let shown: Vec<String> = lists.iter().map(|list| go::display_list(list)).collect();
        return Err(PatchError::Failed(format!(
            "list element types are not identical: [{}]",
            shown.join(" ")
        )));
    }
    Ok(if matches!(first, Value::Object(_)) {
        Kind::Objects
    } else {
        Kind::Scalars
    })
}

/// Merges `patch` into `original`; with `deletes`, takes the scalars of `patch` out instead.
pub(super) fn merge(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: View<'_>,
    merge_key: &str,
    deletes: bool,
) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let kind = element_kind(&[&original, &patch])?;
    match kind {
        Kind::Scalars if deletes => {
            let gone = Index::of(&patch, "");
            Ok(original
                .into_iter()
                .filter(|item| gone.find(item, "").is_none())
                .collect())
        }
        Kind::Scalars => {
            let mut seen = std::collections::HashSet::new();
            let merged = original
                .iter()
                .chain(&patch)
                .filter(|item| Scalar::of(item).is_none_or(|key| seen.insert(key)))
                .cloned()
                .collect();
            arrange(merged, &patch, &patch, &original, merge_key, kind)
        }
        Kind::Objects => {
            if merge_key.is_empty() {
                return Err(PatchError::Failed(format!(
                    "cannot merge lists without merge key for {}",
                    schema.go_kind()
                )));
            }
            let (original, patch) = special_elements(original, patch, merge_key)?;
            let merged = merge_objects(original.clone(), patch.clone(), merge_key, schema)?;
            arrange(merged, &patch, &patch, &original, merge_key, kind)
        }
    }
}

/// Carries out the items that are directives and returns what is left of both lists.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut gone = std::collections::HashSet::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = &item else {
            continue; // element_kind saw objects only
        };
        let Some(directive) = map.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive {
            Value::String(s) if &**s == DELETE => {
                let key = map.get(merge_key).ok_or_else(|| no_merge_key(map, merge_key))?;
                gone.extend(Scalar::of(key));
            }
            Value::String(s) if &**s == REPLACE => replace = true,
            Value::String(s) if &**s == MERGE => {
                return Err(PatchError::Failed(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            other => return Err(bad_patch_type(other, map)),
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    if !gone.is_empty() {
        original.retain(|item| Scalar::key_of(item, merge_key).is_none_or(|key| !gone.contains(&key)));
    }
    Ok((original, plain))
}

fn merge_objects(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
    schema: View<'_>,
) -> Result<Vec<Value>, PatchError> {
    let mut index = Index::of(&original, merge_key);
    for item in patch {
        let Value::Object(map) = item else {
            continue; // element_kind saw objects only
        };
        let Some(key) = map.get(merge_key) else {
            return Err(no_merge_key(&map, merge_key));
        };
        let key = Scalar::of(key);
        let found = key.as_ref().and_then(|key| index.0.get(key).copied());
        match found.and_then(|at| original.get_mut(at)) {
            Some(Value::Object(current)) => {
                *current = strategic::merge_map(std::mem::take(current), map, schema)?;
            }
            _ => {
                if let Some(key) = key {
                    index.0.insert(key, original.len());
                }
                original.push(Value::Object(map));
            }
        }
    }
    Ok(original)
}

/// Sorts a merged list: items named in `members` in the order of `order`, the others (which only the live list
/// has) in the live order, both interleaved as the live list has them.
pub(super) fn arrange(
    merged: Vec<Value>,
    members: &[Value],
    order: &[Value],
    live_order: &[Value],
    merge_key: &str,
    kind: Kind,
) -> Result<Vec<Value>, PatchError> {
    let by_key = if merge_key.is_empty() {
        Kind::Scalars
    } else {
        Kind::Objects
    };
    if by_key == Kind::Objects {
        for item in &merged {
            match item {
                Value::Object(map) if map.get(merge_key).is_none() => {
                    return Err(no_merge_key(map, merge_key));
                }
                Value::Object(_) => {}
                other => return Err(bad_type("map[string]interface {}", other)),
            }
        }
        if let Some(at) = members.iter().position(|item| !matches!(item, Value::Object(_))) {
            return Err(PatchError::Failed(format!("value for key {at} is not a map")));
        }
    }
    let listed = Index::of(members, merge_key);
    let (patch, server): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| listed.find(item, merge_key).is_some());
    let patch = sort_by_order(patch, order, merge_key, kind)?;
    let server = sort_by_order(server, live_order, merge_key, kind)?;

    let live = Index::of(live_order, merge_key);
    let mut out = Vec::with_capacity(patch.len() + server.len());
    let (mut left, mut right) = (server.into_iter().peekable(), patch.into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let left_first = match (live.find(l, merge_key), live.find(r, merge_key)) {
            (Some(l), Some(r)) => l < r,
            _ => false,
        };
        out.extend(if left_first { left.next() } else { right.next() });
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// Sorts by place in `order`, items that are deletions last.
fn sort_by_order(
    items: Vec<Value>,
    order: &[Value],
    merge_key: &str,
    kind: Kind,
) -> Result<Vec<Value>, PatchError> {
    let mut deleted = Vec::new();
    let mut items = items;
    if kind == Kind::Objects {
        for item in items.iter().chain(order) {
            match item {
                Value::Object(map) if map.get(merge_key).is_none() => {
                    return Err(no_merge_key(map, merge_key));
                }
                Value::Object(_) => {}
                other => return Err(bad_type("map[string]interface {}", other)),
            }
        }
        (deleted, items) = items.into_iter().partition(is_deletion);
    }
    let index = Index::of(order, merge_key);
    let mut placed: Vec<(Option<usize>, Value)> = items
        .into_iter()
        .map(|item| (index.find(&item, merge_key), item))
        .collect();
    // Every item has a place unless its key is no scalar; those keep theirs behind the others.
    placed.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));
    Ok(placed.into_iter().map(|(_, item)| item).chain(deleted).collect())
}

fn is_deletion(item: &Value) -> bool {
    matches!(item, Value::Object(map)
        if matches!(map.get(DIRECTIVE), Some(Value::String(s)) if &**s == DELETE))
}

/// `$setElementOrder` must name every item the patch brings, in the patch's order.
pub(super) fn validate_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut kept: Vec<&Value> = Vec::with_capacity(patch.len());
    for item in patch {
        if !merge_key.is_empty() {
            let Value::Object(_) = item else {
                return Err(bad_type("map[string]interface {}", item));
            };
            if is_deletion(item) {
                continue;
            }
        }
        kept.push(item);
    }
    let (mut wanted, mut place) = (0, 0);
    while wanted < kept.len() && place < order.len() {
        let item = kept[wanted];
        if matches!(item, Value::Object(map) if map.get(DIRECTIVE).is_some()) {
            wanted += 1;
            continue;
        }
        if same_key(item, &order[place], merge_key)? {
            wanted += 1;
        }
        place += 1;
    }
    if wanted < kept.len() {
        return Err(PatchError::Failed(format!(
            "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
            go::display_list(patch),
            go::display_list(order)
        )));
    }
    Ok(())
}

fn same_key(left: &Value, right: &Value, merge_key: &str) -> Result<bool, PatchError> {
    if merge_key.is_empty() {
        return Ok(left == right);
    }
    let key = |item: &Value| match item {
        Value::Object(map) => map
            .get(merge_key)
            .map(Scalar::of)
            .ok_or_else(|| no_merge_key(map, merge_key)),
        other => Err(bad_type("map[string]interface {}", other)),
    };
    let (left, right) = (key(left)?, key(right)?);
    Ok(left.is_some() && left == right)
}

fn no_merge_key(map: &Map, merge_key: &str) -> PatchError {
    PatchError::Failed(format!(
        "map: {} does not contain declared merge key: {merge_key}",
        go::display_map(map)
    ))
}
