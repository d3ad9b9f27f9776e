//! Strategic merge patch: a merge patch that knows, from the field tables, which lists merge and by what key.
//!
//! Directives a patch may carry, as upstream:
//!
//! | directive | meaning |
//! |---|---|
//! | `$patch: replace` / `delete` | this object (or list, as an item of it) replaces / this object goes |
//! | `$retainKeys: [..]` | keys of the object not listed go |
//! | `$setElementOrder/<field>: [..]` | the order of a merged list |
//! | `$deleteFromPrimitiveList/<field>: [..]` | scalars that leave a merged list |
//!
//! **Invariant:** what upstream leaves to Go's random map order happens here in key order.
//! Custom resources have no patch strategies; the engine does not offer them this patch.

use super::join::join;
use super::list::{self, ListMeta};
use super::schema::{self, View};
use super::{PatchError, go};
use crate::schema::{TypeId, Types};
use crate::{Map, Value};
use std::collections::HashSet;

pub(super) const DIRECTIVE: &str = "$patch";
pub(super) const REPLACE: &str = "replace";
pub(super) const DELETE: &str = "delete";
pub(super) const MERGE: &str = "merge";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";

/// The document after the patch. `id` is the type of the document.
pub fn apply(types: &Types, id: TypeId, document: Map, patch: Map) -> Result<Map, PatchError> {
    merge_map(document, patch, View::of(types, id))
}

pub(super) fn merge_map(mut original: Map, mut patch: Map, schema: View<'_>) -> Result<Map, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive {
            Value::String(s) if &**s == REPLACE => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Value::String(s) if &**s == DELETE => Ok(Map::default()),
            other => Err(bad_patch_type(other, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema)?;

    delete_scalars(&mut original, &mut patch, schema)?;

    join(original, patch, |key, current, value| match (current, value) {
        (_, Value::Null) => Ok(None),
        (Some(Value::Object(current)), Value::Object(patch)) => {
            let (subschema, meta) = schema.field(key)?;
            if meta.strategy == REPLACE {
                return Ok(Some(Value::Object(patch)));
            }
            merge_map(current, patch, subschema).map(|map| Some(Value::Object(map)))
        }
        (Some(Value::Array(current)), Value::Array(patch)) => {
            let (subschema, meta) = schema.list(key)?;
            merge_list(current, patch, subschema, meta).map(|items| Some(Value::Array(items)))
        }
        (_, mut value) => {
            // A scalar, or nothing there, or something of another type: the patch's value as it is.
            discard_nulls(&mut value);
            Ok(without_directives(value))
        }
    })
}

/// `$deleteFromPrimitiveList/<field>`, whatever the field's strategy is. Takes the keys out of the patch.
fn delete_scalars(original: &mut Map, patch: &mut Map, schema: View<'_>) -> Result<(), PatchError> {
    let mut directives = Vec::new();
    patch.retain(|key, value| {
        let directive = key.starts_with(DELETE_FROM_PRIMITIVE_LIST);
        if directive {
            directives.push((key.clone(), std::mem::take(value)));
        }
        !directive
    });
    for (key, value) in directives {
        let field = field_of(&key, DELETE_FROM_PRIMITIVE_LIST)
            .ok_or_else(|| bad_request("invalid patch format of primitive list"))?;
        match (original.get_mut(field), value) {
            (_, Value::Null) => {
                original.remove(field);
            }
            (Some(Value::Array(current)), Value::Array(gone)) => {
                let (subschema, meta) = schema.list(field)?;
                *current = list::merge(std::mem::take(current), gone, subschema, meta.merge_key, true)?;
            }
            (Some(Value::Object(current)), Value::Object(patch)) => {
                let (subschema, _) = schema.field(field)?;
                *current = merge_map(std::mem::take(current), patch, subschema)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: View<'_>,
    meta: ListMeta<'_>,
) -> Result<Vec<Value>, PatchError> {
    if meta.strategy == MERGE {
        list::merge(original, patch, schema, meta.merge_key, false)
    } else {
        Ok(patch)
    }
}

/// `$retainKeys`: what is not listed goes, and the patch may not bring what is not listed.
fn retain_keys(original: &mut Map, patch: &mut Map) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let bad = || bad_request("invalid patch format of retainKeys");
    let Value::Array(retained) = directive else {
        return Err(bad());
    };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| retained.contains(key);
    for (key, value) in patch.iter() {
        let special = key.starts_with(DELETE_FROM_PRIMITIVE_LIST) || key.starts_with(SET_ELEMENT_ORDER);
        if *value != Value::Null && !special && !listed(key) {
            return Err(bad());
        }
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// `$setElementOrder/<field>`: merges the field's list and puts it in the order given, items only the live
/// object has staying near their neighbours. Takes both keys out of the patch.
fn merge_ordered_lists(original: &mut Map, patch: &mut Map, schema: View<'_>) -> Result<(), PatchError> {
    let ordered: Vec<crate::Key> = patch
        .iter()
        .map(|(key, _)| key)
        .filter(|key| key.starts_with(SET_ELEMENT_ORDER))
        .cloned()
        .collect();
    for key in ordered {
        let order = match patch.remove(&key) {
            Some(Value::Array(order)) => order,
            other => return Err(expected_list(other.as_ref())),
        };
        let bad = || bad_request("invalid patch format of setElementOrder list");
        let field = field_of(&key, SET_ELEMENT_ORDER).ok_or_else(bad)?;
        let live = take_list(original, field)?;
        let change = take_list(patch, field)?;
        let (subschema, meta) = schema.list(field)?;
        list::validate_order(change.as_deref().unwrap_or_default(), &order, meta.merge_key)?;
        let live_order = live.clone().unwrap_or_default();
        let kind = list::element_kind(&[&live_order, change.as_deref().unwrap_or_default()]);
        let merged = match (live, change) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(change)) => change.into_iter().filter_map(without_directives).collect(),
            (Some(live), Some(change)) => merge_list(live, change, subschema, meta)?,
        };
        let arranged = list::arrange(merged, &order, &order, &live_order, meta.merge_key, kind?)?;
        original.insert(crate::Key::from(field), Value::Array(arranged));
    }
    Ok(())
}

fn take_list(map: &mut Map, field: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match map.remove(field) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        other => Err(expected_list(other.as_ref())),
    }
}

/// `<prefix>/<field>`.
fn field_of<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    let (found, field) = key.split_once('/')?;
    (found == prefix).then_some(field)
}

/// Drops `null` properties at every depth: a patch's null removes, and here there is nothing to remove.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| *value != Value::Null);
            for (_, value) in map.iter_mut() {
                discard_nulls(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// The value without the objects in it that carry `$patch`; `None` if it is itself one.
pub(super) fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.get(DIRECTIVE).is_some() {
                return None;
            }
            let kept = map
                .into_iter()
                .filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(
            items.into_iter().filter_map(without_directives).collect(),
        )),
        other => Some(other),
    }
}

pub(super) fn bad_request(message: &str) -> PatchError {
    PatchError::BadRequest(message.to_owned())
}

pub(super) fn bad_patch_type(directive: &Value, map: &Map) -> PatchError {
    PatchError::Failed(format!(
        "unknown patch type: {} in map: {}",
        go::display(directive),
        go::display_map(map)
    ))
}

fn expected_list(actual: Option<&Value>) -> PatchError {
    schema::bad_type("[]interface {}", actual.unwrap_or(&Value::Null))
}
