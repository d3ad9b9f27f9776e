//! JSON merge patch, RFC 7386, as upstream's library reads it.
//!
//! `null` removes, objects merge, everything else replaces. Where a patch brings an object into a place that
//! held none, the nulls inside it are dropped (also inside lists), for they remove nothing.

use super::PatchError;
use super::join::join;
use crate::{Map, Value};
use std::convert::Infallible;

pub(super) const NO_PATCH: &str = "Invalid JSON Patch";

/// The document after the patch.
pub fn apply(document: Value, patch: Value) -> Result<Value, PatchError> {
    match (document, patch) {
        (_, Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_))
        | (Value::Null, _) => Err(PatchError::BadRequest(NO_PATCH.to_owned())),
        (Value::Object(document), Value::Object(patch)) => Ok(Value::Object(merge(document, patch))),
        (_, mut patch) => {
            prune(&mut patch);
            Ok(patch)
        }
    }
}

fn merge(document: Map, patch: Map) -> Map {
    let merged = join(document, patch, |_, current, value| {
        Ok::<_, Infallible>(match (current, value) {
            (_, Value::Null) => None,
            (Some(Value::Object(current)), Value::Object(patch)) => {
                Some(Value::Object(merge(current, patch)))
            }
            (Some(Value::Object(_)), value) => Some(value),
            (_, mut value) => {
                prune(&mut value);
                Some(value)
            }
        })
    });
    match merged {
        Ok(merged) => merged,
        Err(never) => match never {},
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
