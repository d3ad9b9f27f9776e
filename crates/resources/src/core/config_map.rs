//! ConfigMap.

use crate::At;
use crate::check;
use crate::fields::{entries, flag, same};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, names};

pub(crate) struct ConfigMap;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Data", "Number of the entries."),
    Column::AGE,
];

impl Strategy for ConfigMap {
    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |field| entries(object, field).len() as i64;
        let count = count("data") + count("binaryData");
        vec![table::name(object), count.into(), table::age(object, now)]
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (data, binary) = (entries(object, "data"), entries(object, "binaryData"));
        let mut size = 0;
        for (key, value) in data {
            bad_key(key, "data", &mut errors);
            if binary.binary_search_by(|(other, _)| other.cmp(key)).is_ok() {
                let at = At::new("data");
                errors.push(
                    at.key(key)
                        .invalid(key.as_str(), "duplicate of key present in binaryData"),
                );
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in binary {
            bad_key(key, "binaryData", &mut errors);
            size += value.as_str().map_or(0, decoded_length);
        }
        if size > LARGEST {
            errors.push(At::new("").too_long(LARGEST as i64));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(new, old, &["data", "binaryData"], &mut errors);
        errors.extend(self.validate(context, new));
        errors
    }
}

/// What an object's data may come to: one mebibyte.
pub(super) const LARGEST: usize = 1 << 20;

/// Judges the key of an entry.
pub(super) fn bad_key(key: &str, field: &str, errors: &mut ErrorList) {
    let at = At::new(field);
    check::each(names::config_map_key(key), key, &at.key(key), errors);
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_length(text: &str) -> usize {
    text.len() / 4 * 3
        - text
            .bytes()
            .rev()
            .take(2)
            .filter(|c| *c == b'=')
            .count()
            .min(text.len())
}

/// What is immutable stays so, and so does what it holds.
pub(super) fn immutable(new: &Value, old: &Value, parts: &[&str], errors: &mut ErrorList) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.push(At::new("immutable").forbidden(WHY));
    }
    for part in parts {
        if !same(new, old, &[part]) {
            errors.push(At::new(part).forbidden(WHY));
        }
    }
}
