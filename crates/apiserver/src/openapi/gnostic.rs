//! The version 2 document in protobuf (`openapi.v2.Document`), which is the only form older clients ask for.
//!
//! Made from the JSON document. What is a tree of its own there (defaults, extensions) is YAML text here, and
//! JSON is YAML.

use crate::object::{put_field, put_varint};
use machinery::{Map, Value, codec};

/// The document's message.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    text(&mut out, 1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        let mut message = Vec::new();
        text(&mut message, 1, info.get("title"));
        text(&mut message, 2, info.get("version"));
        put_field(&mut out, 2, &message);
    }
    let mut paths = Vec::new();
    for (path, item) in entries(document.get("paths")) {
        named(&mut paths, 2, path, &path_item(item));
    }
    put_field(&mut out, 8, &paths);
    let mut definitions = Vec::new();
    for (name, definition) in entries(document.get("definitions")) {
        named(&mut definitions, 1, name, &schema(definition));
    }
    put_field(&mut out, 9, &definitions);
    out
}

fn path_item(item: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (method, tag) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(found) = item.get(method) {
            put_field(&mut out, tag, &operation(found));
        }
    }
    out
}

fn operation(operation: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 5, operation.get("operationId"));
    for parameter in items(operation.get("parameters")) {
        // ParametersItem { parameter: Parameter { non_body: NonBody { query } } }
        let mut query = Vec::new();
        text(&mut query, 2, parameter.get("in"));
        text(&mut query, 4, parameter.get("name"));
        text(&mut query, 6, parameter.get("type"));
        flag(&mut query, 20, parameter.get("uniqueItems"));
        put_field(&mut out, 8, &wrapped(1, &wrapped(2, &wrapped(3, &query))));
    }
    let mut responses = Vec::new();
    for (code, response) in entries(operation.get("responses")) {
        let mut message = Vec::new();
        text(&mut message, 1, response.get("description"));
        if let Some(found) = response.get("schema") {
            put_field(&mut message, 2, &wrapped(1, &schema(found)));
        }
        named(&mut responses, 1, code, &wrapped(1, &message));
    }
    put_field(&mut out, 9, &responses);
    extensions(&mut out, 13, operation);
    out
}

fn schema(schema_value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let at = |key: &str| schema_value.get(key);
    text(&mut out, 1, at("$ref"));
    text(&mut out, 2, at("format"));
    text(&mut out, 4, at("description"));
    if let Some(default) = at("default") {
        put_field(&mut out, 5, &any(default));
    }
    for required in items(at("required")) {
        text(&mut out, 19, Some(required));
    }
    if let Some(additional) = at("additionalProperties") {
        put_field(&mut out, 21, &wrapped(1, &schema(additional)));
    }
    if let Some(kind) = at("type") {
        let mut item = Vec::new();
        text(&mut item, 1, Some(kind));
        put_field(&mut out, 22, &item);
    }
    if let Some(item) = at("items") {
        put_field(&mut out, 23, &wrapped(1, &schema(item)));
    }
    if let Some(properties) = at("properties") {
        let mut message = Vec::new();
        for (name, property) in entries(Some(properties)) {
            named(&mut message, 1, name, &schema(property));
        }
        put_field(&mut out, 25, &message);
    }
    extensions(&mut out, 31, schema_value);
    out
}

fn extensions(out: &mut Vec<u8>, tag: u32, value: &Value) {
    for (name, extension) in entries(Some(value)).filter(|(name, _)| name.starts_with("x-")) {
        named(out, tag, name, &any(extension));
    }
}

/// `Any { yaml = 2 }`.
fn any(value: &Value) -> Vec<u8> {
    let mut json = codec::json::to_vec(value);
    json.push(b'\n');
    wrapped(2, &json)
}

/// A message with a name and a value.
fn named(out: &mut Vec<u8>, tag: u32, name: &str, value: &[u8]) {
    let mut message = Vec::with_capacity(name.len() + value.len() + 12);
    put_field(&mut message, 1, name.as_bytes());
    put_field(&mut message, 2, value);
    put_field(out, tag, &message);
}

fn wrapped(tag: u32, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 8);
    put_field(&mut out, tag, message);
    out
}

fn text(out: &mut Vec<u8>, tag: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str) {
        put_field(out, tag, text.as_bytes());
    }
}

fn flag(out: &mut Vec<u8>, tag: u32, value: Option<&Value>) {
    if value.and_then(Value::as_bool) == Some(true) {
        put_varint(out, u64::from(tag << 3));
        put_varint(out, 1);
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
        .map(|(key, value)| (key.as_str(), value))
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).unwrap_or_default()
}
