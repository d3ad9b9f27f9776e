//! FieldsV1: the JSON form of a [`FieldSet`].
//!
//! An object per level; a key per step; `{}` below a step means "this path"; `"."` beside other steps means
//! "this path too". Reading drops steps of unknown kinds, as upstream does, and refuses what is no path.

use super::name::{self, Parsed};
use super::set::{FieldSet, Node};
use crate::{Key, Map, Value};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use std::fmt;

/// Reads FieldsV1 bytes.
pub fn parse(json: &[u8]) -> Result<FieldSet, String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let level = Level.deserialize(&mut reader).map_err(|e| e.to_string())?;
    reader.end().map_err(|e| e.to_string())?;
    Ok(level.0)
}

/// Reads a decoded `fieldsV1`.
pub fn from_value(fields: &Value) -> Result<FieldSet, String> {
    level(fields).map(|(set, _)| set)
}

/// The paths below a step, and whether the step is itself in the set.
fn level(fields: &Value) -> Result<(FieldSet, bool), String> {
    let map = match fields {
        Value::Object(map) => map,
        Value::Null => return Ok((FieldSet::new(), true)),
        _ => return Err("a path element must be an object".to_owned()),
    };
    let mut nodes = Vec::with_capacity(map.len());
    let mut member = false;
    for (key, value) in map {
        if *key == "." {
            member = true;
            continue;
        }
        if let Parsed::Name(name) = name::parse(key)? {
            let (children, member) = level(value)?;
            nodes.push(Node {
                name,
                member,
                children,
            });
        }
    }
    let set = FieldSet::from_nodes(nodes);
    let member = member || set.is_empty();
    Ok((set, member))
}

/// A `fieldsV1` to put into an object.
pub fn to_value(set: FieldSet) -> Value {
    Value::Object(to_map(set, false))
}

fn to_map(set: FieldSet, member: bool) -> Map {
    let mut entries = Vec::with_capacity(set.nodes().len() + usize::from(member));
    if member {
        entries.push((Key::from_static("."), Value::object()));
    }
    for node in set.into_nodes() {
        let below = if node.children.is_empty() {
            Map::new()
        } else {
            to_map(node.children, node.member)
        };
        entries.push((Key::from(node.name), Value::Object(below)));
    }
    // Numbers sort by value in a set and as text in a map.
    Map::from_unsorted(entries, |_| {})
}

/// Writes FieldsV1 bytes, in upstream's order.
pub fn write(set: &FieldSet, out: &mut Vec<u8>) {
    out.push(b'{');
    write_nodes(set, true, out);
    out.push(b'}');
}

fn write_nodes(set: &FieldSet, mut first: bool, out: &mut Vec<u8>) {
    for node in set.nodes() {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_key(&node.name, out);
        if node.children.is_empty() {
            out.extend_from_slice(b":{}");
            continue;
        }
        out.extend_from_slice(b":{");
        if node.member {
            out.extend_from_slice(b"\".\":{}");
        }
        write_nodes(&node.children, !node.member, out);
        out.push(b'}');
    }
}

fn write_key(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = name.as_bytes();
    while let Some(at) = rest.iter().position(|c| matches!(c, 0..0x20 | b'"' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            c @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', c]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            c => out.extend_from_slice(format!("\\u{c:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// One object: the paths below, and whether the step above is itself in the set.
struct Level;

impl<'de> DeserializeSeed<'de> for Level {
    type Value = (FieldSet, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = (FieldSet, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of path elements")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok((FieldSet::new(), true))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        let mut member = false;
        while let Some(key) = map.next_key_seed(Text)? {
            if key == "." {
                member = true;
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
            match name::parse(&key).map_err(A::Error::custom)? {
                Parsed::Name(name) => {
                    let (children, member) = map.next_value_seed(Level)?;
                    nodes.push(Node {
                        name,
                        member,
                        children,
                    });
                }
                Parsed::Unknown => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        let set = FieldSet::from_nodes(nodes);
        let member = member || set.is_empty();
        Ok((set, member))
    }
}

/// A key, borrowed when it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = std::borrow::Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = std::borrow::Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path element")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(text.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.to_owned().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(json: &str) -> String {
        let mut out = Vec::new();
        write(&parse(json.as_bytes()).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn round_trips_and_sorts() {
        for same in [
            "{}",
            r#"{"f:a":{}}"#,
            r#"{"f:a":{".":{},"f:b":{}},"f:c":{"k:{\"name\":\"x\"}":{".":{},"f:name":{}}}}"#,
            r#"{"f:ports":{"k:{\"port\":80}":{},"k:{\"port\":443}":{}}}"#,
        ] {
            assert_eq!(round(same), same);
        }
        assert_eq!(
            round(r#"{"f:b":{},"f:a":{"f:y":{},".":{},"f:x":{}}}"#),
            r#"{"f:a":{".":{},"f:x":{},"f:y":{}},"f:b":{}}"#
        );
        assert_eq!(round(r#"{"f:a":{".":{}},"q:later":{"f:x":{}}}"#), r#"{"f:a":{}}"#);
        assert_eq!(round("null"), "{}");
        for bad in [
            "",
            "[]",
            "3",
            r#"{"f:a":1}"#,
            r#"{"nocolon":{}}"#,
            r#"{"f:a":{}}x"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[{}\":,.fkvi0-9a\\\\ ]{0,40}") {
            if let Ok(set) = parse(text.as_bytes()) {
                let mut out = Vec::new();
                write(&set, &mut out);
                prop_assert_eq!(from_value(&to_value(set.clone())).unwrap(), set.clone());
                prop_assert_eq!(parse(&out).unwrap(), set);
            }
        }
    }
}
