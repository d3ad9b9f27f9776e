//! Reading and filling the fields of an object's tree, as strategies do it all day.
//!
//! Upstream's decoded objects know no difference between an absent text and an empty one, nor between an absent list
//! and an empty one; neither do the readers here.

use machinery::{Key, Map, Value};

/// The text of a field; empty when absent.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a path of fields; empty when absent.
pub fn text_at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    value.get_str_path(path).unwrap_or_default()
}

/// The number of a field, if there is one.
pub fn int(value: &Value, field: &str) -> Option<i64> {
    value.get(field).and_then(Value::as_i64)
}

/// The number at a path of fields, if there is one.
pub fn int_at(value: &Value, path: &[&str]) -> Option<i64> {
    value.get_path(path).and_then(Value::as_i64)
}

/// Whether a field is true.
pub fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or_default()
}

/// The items of a field; none when absent.
pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).unwrap_or_default()
}

/// The items at a path of fields; none when absent.
pub fn list_at<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    value.get_path(path).and_then(Value::as_array).unwrap_or_default()
}

/// The texts of a list of texts.
pub fn texts<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    list(value, field).iter().filter_map(Value::as_str)
}

/// A field that is there and not null.
pub fn present<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get(field).filter(|value| !value.is_null())
}

/// The entries of an object; none when absent.
pub fn entries<'a>(value: &'a Value, field: &str) -> &'a [(Key, Value)] {
    value
        .get(field)
        .and_then(Value::as_object)
        .map(Map::as_slice)
        .unwrap_or_default()
}

/// The items of a field, to be changed.
pub fn list_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut [Value] {
    value
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .map(Vec::as_mut_slice)
        .unwrap_or_default()
}

/// The object at a field, if it is one, to be changed.
pub fn object_mut<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map> {
    value.get_mut(field).and_then(Value::as_object_mut)
}

/// Sets a field that is absent.
pub fn fill(map: &mut Map, field: &'static str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(Key::from_static(field), value);
    }
}

/// Sets a text that is absent or empty.
pub fn fill_text(map: &mut Map, field: &'static str, text: &'static str) {
    if map.get(field).is_none_or(Value::is_empty) {
        map.insert(Key::from_static(field), text);
    }
}

/// Sets a number that is absent or zero.
pub fn fill_number(map: &mut Map, field: &'static str, number: i64) {
    if map
        .get(field)
        .is_none_or(|value| value.is_null() || *value == Value::Int(0))
    {
        map.insert(Key::from_static(field), number);
    }
}

/// The object at a field, made when it is absent.
pub fn fill_object<'a>(map: &'a mut Map, field: &'static str) -> &'a mut Map {
    fill(map, field, Map::new());
    map.object_entry(field)
}

/// Whether two objects agree on a field, absent and empty being the same.
pub fn same(a: &Value, b: &Value, path: &[&str]) -> bool {
    match (a.get_path(path), b.get_path(path)) {
        (None, None) => true,
        (Some(one), None) | (None, Some(one)) => one.is_empty(),
        (Some(a), Some(b)) => a.semantic_eq(b),
    }
}
