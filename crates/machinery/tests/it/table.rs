//! Types for the cases, from a small table (`tests/cases/types.txt`), so that these tests need no API group.
//!
//! ```text
//! Name [built-in] [atomic] [preserve]
//!   field type [required] [embedded] [default=<json>] [merge[=key]] [retainKeys] [replace]
//! ```
//! Types: `string int bool number int-or-string quantity time bytes json raw`, a name, `[]T`, `[]T:set`,
//! `[]T:map(a,b)`, `{}T` and `{}T:atomic`. `built-in` types are protobuf messages, with fields that are always
//! there.

use machinery::schema::{Field, List, ListKind, MapType, PatchStrategy, Shape, Struct, TypeId, Types};
use machinery::{Key, Value};
use std::sync::LazyLock;

pub(crate) static TYPES: LazyLock<Types> = LazyLock::new(|| parse(include_str!("../cases/types.txt")));

pub(crate) fn id(name: &str) -> TypeId {
    TYPES
        .by_name(name)
        .unwrap_or_else(|| panic!("no type {name} in types.txt"))
}

fn parse(table: &str) -> Types {
    let mut types = Types::new();
    let mut blocks: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for line in table
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
    {
        if line.starts_with(' ') {
            blocks
                .last_mut()
                .expect("a field before any type")
                .1
                .push(line.trim());
        } else {
            blocks.push((line.split_whitespace().collect(), Vec::new()));
        }
    }
    for (head, _) in &blocks {
        types.reserve(head[0]);
    }
    for (head, lines) in blocks {
        let fields = lines.into_iter().map(|line| field(&mut types, line)).collect();
        let message = if head.contains(&"built-in") { head[0] } else { "" };
        let mut shape = Struct::new(head[0], message, fields);
        shape.atomic = head.contains(&"atomic");
        shape.preserve_unknown = head.contains(&"preserve");
        let id = types.by_name(head[0]).expect("reserved above");
        types.define(id, Shape::Struct(shape));
    }
    types
}

fn field(types: &mut Types, line: &str) -> Field {
    let mut words = line.split_whitespace();
    let (name, ty) = (words.next().expect("a name"), words.next().expect("a type"));
    let mut field = Field::new(name, type_of(types, ty));
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("required", _) => field.required = true,
            ("embedded", _) => field.default = Some(Value::object()),
            ("default", json) => field.default = Some(crate::cases::value(json)),
            ("merge", key) => {
                field.patch = PatchStrategy {
                    merge: true,
                    ..field.patch
                };
                field.merge_key = (!key.is_empty()).then(|| Key::from(key));
            }
            ("retainKeys", _) => {
                field.patch = PatchStrategy {
                    retain_keys: true,
                    ..field.patch
                }
            }
            ("replace", _) => {
                field.patch = PatchStrategy {
                    replace: true,
                    ..field.patch
                }
            }
            other => panic!("what is {other:?} in {line:?}"),
        }
    }
    field
}

fn type_of(types: &mut Types, text: &str) -> TypeId {
    let shape = match text {
        "string" => Shape::String,
        "int" => Shape::Int32,
        "bool" => Shape::Bool,
        "number" => Shape::Double,
        "int-or-string" => Shape::IntOrString,
        "quantity" => Shape::Quantity,
        "time" => Shape::Time,
        "bytes" => Shape::Bytes,
        "json" => Shape::Json,
        "raw" => Shape::RawExtension,
        "fields" => Shape::FieldsV1,
        _ => {
            if let Some(value) = text.strip_prefix("{}") {
                let (value, atomic) = match value.strip_suffix(":atomic") {
                    Some(value) => (value, true),
                    None => (value, false),
                };
                let value = type_of(types, value);
                Shape::Map(MapType { value, atomic })
            } else if let Some(item) = text.strip_prefix("[]") {
                let (item, kind) = match item.split_once(':') {
                    None => (item, ListKind::Atomic),
                    Some((item, "set")) => (item, ListKind::Set),
                    Some((item, keys)) => {
                        let keys = keys.trim_start_matches("map(").trim_end_matches(')');
                        (item, ListKind::Map(keys.split(',').map(Key::from).collect()))
                    }
                };
                let item = type_of(types, item);
                Shape::List(List { item, kind })
            } else {
                return types.by_name(text).unwrap_or_else(|| panic!("no type {text}"));
            }
        }
    };
    types.add(shape)
}
