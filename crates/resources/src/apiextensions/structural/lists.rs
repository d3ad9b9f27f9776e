//! Lists that are sets or maps have no item twice.

use super::{Additional, ListType, Schema};
use machinery::field::{Error, ErrorList, Path};
use machinery::{Map, Value};
use std::collections::HashMap;

/// Judges every such list of an object.
pub fn validate(schema: &Schema, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    below(schema, object, &Path::root(), &mut errors);
    errors
}

fn below(schema: &Schema, value: &Value, at: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(schema) = schema.property(key) {
                    below(schema, value, &at.child(key), errors);
                } else if let Some(Additional::Schema(schema)) = &schema.additional {
                    below(schema, value, &at.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                ListType::Atomic => {}
                ListType::Set => {
                    for index in repeated(items.iter()) {
                        errors.push(Error::duplicate(&at.index(index), items[index].clone()));
                    }
                }
                ListType::Map => keyed(schema, items, at, errors),
            }
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    below(schema, item, &at.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn keyed(schema: &Schema, items: &[Value], at: &Path, errors: &mut ErrorList) {
    let keys = items.iter().map(|item| {
        let mut key = Map::new();
        for name in &schema.list_map_keys {
            if let Some(value) = item.get(name) {
                key.insert(name.as_str(), value.clone());
            }
        }
        Value::Object(key)
    });
    let keys: Vec<Value> = keys.collect();
    for index in repeated(keys.iter()) {
        errors.push(Error::duplicate(&at.index(index), keys[index].clone()));
    }
}

/// Where a value stands for the second time; further times are not told.
fn repeated<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<usize> {
    let mut seen: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut found = Vec::new();
    for (index, value) in values.enumerate() {
        let times = seen.entry(machinery::codec::json::to_vec(value)).or_default();
        *times += 1;
        if *times == 2 {
            found.push(index);
        }
    }
    found
}
