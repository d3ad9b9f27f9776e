//! Moving from kubectl's client-side apply to server-side apply, and keeping its annotation true.
//!
//! Client-side apply wrote its whole configuration into an annotation and was tracked as an updater. When the
//! applier is `kubectl`, conflicts on fields that still are as the annotation says are its own and are taken over;
//! and as long as the annotation is there it is rewritten, so that the client can go back.

use super::atom::Ty;
use super::collect::collect;
use super::compare::{Object, Shape, Side, compare};
use super::conflict::Conflict;
use super::conflict::Conflicts;
use super::manager::FieldManager;
use super::set::FieldSet;
use super::validate::validate;
use crate::{Key, Map, Value};

pub(super) const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// The conflicts that are not with what kubectl itself applied from the client.
pub(super) fn disallowed(manager: &FieldManager<'_>, live: &Value, conflicts: Conflicts) -> Vec<Conflict> {
    let Some(allowed) = allowed(manager, live) else {
        return conflicts.0;
    };
    conflicts
        .0
        .into_iter()
        .filter_map(|mut conflict| {
            conflict.fields.subtract(&allowed);
            (!conflict.fields.is_empty()).then_some(conflict)
        })
        .collect()
}

/// The fields the annotation mentions and the live object still has so.
fn allowed(manager: &FieldManager<'_>, live: &Value) -> Option<FieldSet> {
    let applied = crate::codec::json::decode_any(annotation(live)?.as_bytes())
        .ok()?
        .value;
    let Value::Object(map) = &applied else { return None };
    if !matches!(map.get("apiVersion"), Some(Value::String(version)) if **version == *manager.version) {
        return None;
    }
    let ty: Ty<'_> = manager.ty();
    validate(ty, live).ok()?;
    validate(ty, &applied).ok()?;
    let mut fields = collect(ty, &applied);
    let old = Object {
        side: Side::Value(&applied),
        shape: Shape::Written,
    };
    let new = Object {
        side: Side::Value(live),
        shape: manager.shape(),
    };
    let comparison = compare(ty, old, new, &FieldSet::new()).ok()?;
    fields.subtract(&comparison.changed);
    fields.subtract(&comparison.removed);
    Some(fields)
}

/// Writes the configuration into the annotation, if there is one and it still fits.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = annotations_mut(&mut config) {
        annotations.remove(ANNOTATION);
    }
    let mut text = Vec::new();
    crate::codec::json::encode(&config, &mut text);
    text.push(b'\n');
    let Ok(text) = String::from_utf8(text) else { return };
    let Some(annotations) = annotations_mut(object) else {
        return;
    };
    annotations.insert(Key::from(ANNOTATION), Value::from(text));
    let size: usize = annotations
        .iter()
        .map(|(key, value)| {
            key.len()
                + if let Value::String(text) = value {
                    text.len()
                } else {
                    0
                }
        })
        .sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}

fn annotation(object: &Value) -> Option<&str> {
    let Value::Object(map) = object else { return None };
    let Value::Object(metadata) = map.get("metadata")? else {
        return None;
    };
    let Value::Object(annotations) = metadata.get("annotations")? else {
        return None;
    };
    match annotations.get(ANNOTATION)? {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn annotations_mut(object: &mut Value) -> Option<&mut Map> {
    let Value::Object(map) = object else { return None };
    let Value::Object(metadata) = map.get_mut("metadata")? else {
        return None;
    };
    match metadata.get_mut("annotations")? {
        Value::Object(annotations) => Some(annotations),
        _ => None,
    }
}
