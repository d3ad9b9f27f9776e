//! JSON patch, RFC 6902, with the reading upstream's library (evanphx/json-patch v4) gives it.
//!
//! Where that library and the RFC differ, the library wins, because clients meet it: `replace` of an absent
//! key of an object adds it, `test` of an absent key against `null` passes, indices may be negative and count
//! from the end, a path without a leading slash loses its first part.
//!
//! **Invariant:** operations run in order and either all or none is seen: the caller's document is not touched.

use super::{PatchError, go};
use crate::{Key, Map, Value};

/// How many operations one patch may hold, as upstream.
pub const MAX_OPERATIONS: usize = 10_000;

/// How many bytes of JSON the `copy` operations of one patch may add, as upstream.
pub const MAX_COPIED_BYTES: usize = 3 << 20;

/// A decoded patch.
#[derive(Debug, Clone)]
pub struct JsonPatch {
    operations: Vec<Map>,
}

impl JsonPatch {
    /// Takes a decoded patch document apart.
    pub fn from_value(patch: Value) -> Result<Self, PatchError> {
        let cannot = |value: &Value, into: &str| {
            PatchError::BadRequest(format!(
                "json: cannot unmarshal {} into Go value of type {into}",
                go::json_kind(value)
            ))
        };
        let items = match patch {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            other => return Err(cannot(&other, "jsonpatch.Patch")),
        };
        let mut operations = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::Object(operation) => operations.push(operation),
                Value::Null => operations.push(Map::default()),
                other => return Err(cannot(&other, "jsonpatch.Operation")),
            }
        }
        if operations.len() > MAX_OPERATIONS {
            return Err(PatchError::TooLarge(format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            )));
        }
        Ok(Self { operations })
    }

    /// What strict field validation finds: fields that no operation has. Duplicate keys are found when the
    /// patch is decoded.
    pub fn unknown_fields(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (i, operation) in self.operations.iter().enumerate() {
            for (key, _) in operation.iter() {
                if !matches!(&**key, "op" | "path" | "from" | "value") {
                    found.push(format!("json patch unknown field \"[{i}].{}\"", &**key));
                }
            }
        }
        found
    }

    /// The document after all operations.
    pub fn apply(&self, document: &Value) -> Result<Value, PatchError> {
        let mut out = document.clone();
        let mut copied = 0;
        for operation in &self.operations {
            run(&mut out, operation, &mut copied).map_err(|why| {
                let tested = text(operation, "op") == Some("test") && why.ends_with(TEST_FAILED);
                if tested {
                    PatchError::TestFailed(why)
                } else {
                    PatchError::Rejected(why)
                }
            })?;
        }
        Ok(out)
    }
}

const MISSING: &str = "missing value";
const TEST_FAILED: &str = "test failed";

fn run(document: &mut Value, operation: &Map, copied: &mut usize) -> Result<(), String> {
    match text(operation, "op") {
        Some("add") => add(document, operation),
        Some("remove") => remove(document, operation),
        Some("replace") => replace(document, operation),
        Some("move") => move_value(document, operation),
        Some("test") => test(document, operation),
        Some("copy") => copy(document, operation, copied),
        Some(other) => Err(format!("Unexpected kind: {other}")),
        None => Err("Unexpected kind: unknown".to_owned()),
    }
}

fn add(document: &mut Value, operation: &Map) -> Result<(), String> {
    let path = path(operation).map_err(|_| format!("add operation failed to decode path: {MISSING}"))?;
    let (mut container, key) = find(document, path)
        .ok_or_else(|| format!("add operation does not apply: doc is missing path: \"{path}\": {MISSING}"))?;
    container
        .add(&key, value(operation))
        .map_err(|e| format!("error in add for path: '{path}': {e}"))
}

fn remove(document: &mut Value, operation: &Map) -> Result<(), String> {
    let path = path(operation).map_err(|_| format!("remove operation failed to decode path: {MISSING}"))?;
    let (mut container, key) = find(document, path).ok_or_else(|| {
        format!("remove operation does not apply: doc is missing path: \"{path}\": {MISSING}")
    })?;
    container
        .remove(&key)
        .map(drop)
        .map_err(|e| format!("error in remove for path: '{path}': {e}"))
}

fn replace(document: &mut Value, operation: &Map) -> Result<(), String> {
    let path = path(operation).map_err(|e| format!("replace operation failed to decode path: {e}"))?;
    if path.is_empty() {
        let value = value(operation);
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return Err("replace operation value must be object or array: %!w(<nil>)".to_owned());
        }
        *document = value;
        return Ok(());
    }
    let (mut container, key) = find(document, path)
        .ok_or_else(|| format!("replace operation does not apply: doc is missing path: {path}: {MISSING}"))?;
    container
        .get(&key)
        .map_err(|_| format!("replace operation does not apply: doc is missing key: {path}: {MISSING}"))?;
    container
        .set(&key, value(operation))
        .map_err(|e| format!("error in remove for path: '{path}': {e}"))
}

fn move_value(document: &mut Value, operation: &Map) -> Result<(), String> {
    let from = from(operation).map_err(|e| format!("move operation failed to decode from: {e}"))?;
    let (mut container, key) = find(document, from).ok_or_else(|| {
        format!("move operation does not apply: doc is missing from path: {from}: {MISSING}")
    })?;
    container
        .get(&key)
        .map_err(|e| format!("error in move for path: '{key}': {e}"))?;
    let moved = container
        .remove(&key)
        .map_err(|e| format!("error in move for path: '{key}': {e}"))?;
    let path = path(operation).map_err(|e| format!("move operation failed to decode path: {e}"))?;
    let (mut container, key) = find(document, path).ok_or_else(|| {
        format!("move operation does not apply: doc is missing destination path: {path}: {MISSING}")
    })?;
    container
        .add(&key, moved)
        .map_err(|e| format!("error in move for path: '{path}': {e}"))
}

fn copy(document: &mut Value, operation: &Map, total: &mut usize) -> Result<(), String> {
    let from = from(operation).map_err(|e| format!("copy operation failed to decode from: {e}"))?;
    let (container, key) = find(document, from).ok_or_else(|| {
        format!("copy operation does not apply: doc is missing from path: {from}: {MISSING}")
    })?;
    let copied = container
        .get(&key)
        .map_err(|e| format!("error in copy for from: '{from}': {e}"))?
        .cloned()
        .unwrap_or(Value::Null);
    let path = path(operation).map_err(|_| format!("copy operation failed to decode path: {MISSING}"))?;
    let (mut container, key) = find(document, path).ok_or_else(|| {
        format!("copy operation does not apply: doc is missing destination path: {path}: {MISSING}")
    })?;
    *total += json_size(&copied);
    if *total > MAX_COPIED_BYTES {
        return Err(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {total}, exceeding the limit \
             {MAX_COPIED_BYTES}"
        ));
    }
    container
        .add(&key, copied)
        .map_err(|e| format!("error while adding value during copy: {e}"))
}

fn test(document: &mut Value, operation: &Map) -> Result<(), String> {
    let path = path(operation).map_err(|e| format!("test operation failed to decode path: {e}"))?;
    let expected = operation.get("value").unwrap_or(&Value::Null);
    let failed = || Err(format!("testing value {path} failed: {TEST_FAILED}"));
    if path.is_empty() {
        return if document == expected { Ok(()) } else { failed() };
    }
    let (container, key) = find(document, path)
        .ok_or_else(|| format!("test operation does not apply: is missing path: {path}: {MISSING}"))?;
    let found = container
        .get(&key)
        .map_err(|e| format!("error in test for path: '{path}': {e}"))?
        .unwrap_or(&Value::Null);
    if found == expected { Ok(()) } else { failed() }
}

/// About how many bytes the value takes as JSON.
fn json_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Int(i) => itoa::Buffer::new().format(*i).len(),
        Value::Float(f) => go::json_float(*f).len(),
        Value::String(s) => s.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| json_size(item) + 1).sum::<usize>(),
        Value::Object(map) => {
            2 + map
                .iter()
                .map(|(key, item)| key.len() + json_size(item) + 4)
                .sum::<usize>()
        }
    }
}

/// The object or array that holds what a path names.
enum Container<'d> {
    Object(&'d mut Map),
    Array(&'d mut Vec<Value>),
}

impl Container<'_> {
    fn get(&self, key: &str) -> Result<Option<&Value>, String> {
        match self {
            Self::Object(map) => Ok(map.get(key)),
            Self::Array(items) => {
                let at = existing(key, items.len())?;
                Ok(items.get(at))
            }
        }
    }

    fn set(&mut self, key: &str, value: Value) -> Result<(), String> {
        match self {
            Self::Object(map) => {
                map.insert(Key::from(key), value);
            }
            Self::Array(items) => {
                let at = existing(key, items.len())?;
                items[at] = value;
            }
        }
        Ok(())
    }

    fn add(&mut self, key: &str, value: Value) -> Result<(), String> {
        match self {
            Self::Object(map) => {
                map.insert(Key::from(key), value);
            }
            Self::Array(items) if key == "-" => items.push(value),
            Self::Array(items) => {
                let index =
                    atoi(key).map_err(|e| format!("value was not a proper array index: '{key}': {e}"))?;
                // Behind the last item is a place too.
                let at = place(index, items.len() + 1)?;
                items.insert(at, value);
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<Value, String> {
        match self {
            Self::Object(map) => map
                .remove(key)
                .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}")),
            Self::Array(items) => {
                let at = existing(key, items.len())?;
                Ok(items.remove(at))
            }
        }
    }
}

/// Walks to the container of a path's last part. Anything on the way that is absent or holds nothing is "missing".
fn find<'d>(document: &'d mut Value, path: &str) -> Option<(Container<'d>, String)> {
    let mut parts = path.split('/');
    parts.next();
    let last = parts.next_back()?;
    let mut at = document;
    for part in parts {
        let part = unescape(part);
        at = match at {
            Value::Object(map) => map.get_mut(&part)?,
            Value::Array(items) => {
                let index = existing(&part, items.len()).ok()?;
                &mut items[index]
            }
            _ => return None,
        };
    }
    let container = match at {
        Value::Object(map) => Container::Object(map),
        Value::Array(items) => Container::Array(items),
        _ => return None,
    };
    Some((container, unescape(last)))
}

fn unescape(part: &str) -> String {
    if part.contains('~') {
        part.replace("~1", "/").replace("~0", "~")
    } else {
        part.to_owned()
    }
}

fn existing(key: &str, len: usize) -> Result<usize, String> {
    place(atoi(key)?, len)
}

fn place(index: i64, len: usize) -> Result<usize, String> {
    let invalid = || format!("Unable to access invalid index: {index}: invalid index referenced");
    let len = i64::try_from(len).map_err(|_| invalid())?;
    let at = if index < 0 { index + len } else { index };
    if at < 0 || at >= len {
        return Err(invalid());
    }
    usize::try_from(at).map_err(|_| invalid())
}

fn atoi(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| go::atoi_error(text))
}

fn text<'o>(operation: &'o Map, field: &str) -> Option<&'o str> {
    match operation.get(field) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn path(operation: &Map) -> Result<&str, String> {
    pointer(operation, "path", "operation missing path field")
}

fn from(operation: &Map) -> Result<&str, String> {
    pointer(operation, "from", "operation, missing from field")
}

fn pointer<'o>(operation: &'o Map, field: &str, absent: &str) -> Result<&'o str, String> {
    match operation.get(field) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(format!("{absent}: {MISSING}")),
        Some(other) => Err(format!(
            "json: cannot unmarshal {} into Go value of type string",
            go::json_kind(other)
        )),
    }
}

fn value(operation: &Map) -> Value {
    operation.get("value").cloned().unwrap_or(Value::Null)
}
