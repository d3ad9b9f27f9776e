//! JSON merge patch, RFC 7386, as upstream's library reads it.
//!
//! `null` removes, objects merge, everything else replaces. Where a patch brings an object into a place that
//! held none, the nulls inside it are dropped (also inside lists), for they remove nothing.

use super::PatchError;
use crate::{Map, Value};

pub(super) const NO_PATCH: &str = "Invalid JSON Patch";

/// The document after the patch.
pub fn apply(document: Value, patch: Value) -> Result<Value, PatchError> {
    match (document, patch) {
        (_, Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_))
        | (Value::Null, _) => Err(PatchError::BadRequest(NO_PATCH.to_owned())),
        (Value::Object(mut document), Value::Object(patch)) => {
            merge(&mut document, patch);
            Ok(Value::Object(document))
        }
        (_, mut patch) => {
            prune(&mut patch);
            Ok(patch)
        }
    }
}

fn merge(document: &mut Map, patch: Map) {
    for (key, mut value) in patch {
        if value == Value::Null {
            document.remove(&key);
            continue;
        }
        match document.get_mut(&key) {
            Some(Value::Object(current)) => match value {
                Value::Object(patch) => merge(current, patch),
                value => {
                    document.insert(key, value);
                }
            },
            _ => {
                prune(&mut value);
                document.insert(key, value);
            }
        }
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| *value != Value::Null);
            for (_, value) in map.iter_mut() {
                prune(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
