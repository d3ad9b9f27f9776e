//! Reading and writing an object's metadata in its value tree.

use crate::value::{Map, Value};
use compact_str::CompactString;

/// The object's metadata; `None` when it has none.
pub fn metadata(object: &Value) -> Option<&Map> {
    object.get("metadata")?.as_object()
}

/// The object's metadata, made when missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map {
    object.make_object().object_entry("metadata")
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    metadata(object)
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// Empty when absent, as are all the texts below.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    metadata(object)?.get("deletionTimestamp")?.as_str()
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    metadata(object)?.get("deletionGracePeriodSeconds")?.as_i64()
}

pub fn generation(object: &Value) -> i64 {
    metadata(object)
        .and_then(|metadata| metadata.get("generation"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

pub fn labels(object: &Value) -> Option<&Map> {
    metadata(object)?.get("labels")?.as_object()
}

pub fn annotations(object: &Value) -> Option<&Map> {
    metadata(object)?.get("annotations")?.as_object()
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    metadata(object)
        .and_then(|metadata| metadata.get("finalizers"))
        .and_then(Value::as_array)
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
}

pub fn owner_references(object: &Value) -> &[Value] {
    metadata(object)
        .and_then(|metadata| metadata.get("ownerReferences"))
        .and_then(Value::as_array)
        .unwrap_or_default()
}

/// Sets a text of the metadata; an empty one removes the field.
pub fn set_text(object: &mut Value, field: &'static str, value: impl Into<CompactString>) {
    let value = value.into();
    let metadata = metadata_mut(object);
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(crate::Key::from_static(field), value);
    }
}

/// Sets any field of the metadata; an empty value removes it.
pub fn set(object: &mut Value, field: &'static str, value: impl Into<Value>) {
    let value = value.into();
    let metadata = metadata_mut(object);
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(crate::Key::from_static(field), value);
    }
}

pub fn set_resource_version(object: &mut Value, revision: i64) {
    set_text(object, "resourceVersion", itoa::Buffer::new().format(revision));
}

pub fn set_finalizers<'a>(object: &mut Value, finalizers: impl IntoIterator<Item = &'a str>) {
    let finalizers: Vec<Value> = finalizers.into_iter().map(Value::from).collect();
    set(object, "finalizers", finalizers);
}
