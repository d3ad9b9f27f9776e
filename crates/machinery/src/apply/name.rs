//! The text of one step of a field path, as FieldsV1 writes it: `f:<field>`, `k:<key fields>`,
//! `v:<set member>`, `i:<index>`.
//!
//! A [`Name`] is kept as that text, so reading and writing `managedFields` copies it and comparing two
//! steps compares bytes. It is parsed only to show a conflict to a person.
//!
//! **Invariant:** a name is canonical: JSON inside `k:` and `v:` has no spaces, sorted keys and one
//! spelling per number. [`parse`] makes foreign text canonical; everything else here writes canonically.

use crate::Value;
use crate::patch::go;
use compact_str::CompactString;
use std::cmp::Ordering;

/// One step of a path, in FieldsV1's spelling.
pub type Name = CompactString;

/// The step into a struct's field or a map's key.
pub fn field(key: &str) -> Name {
    let mut name = Name::with_capacity(key.len() + 2);
    name.push_str("f:");
    name.push_str(key);
    name
}

/// The step to a set's member.
pub fn member(value: &Value) -> Name {
    let mut name = Name::from("v:");
    push_value(&mut name, value);
    name
}

/// The step to a list item by its key fields, which must come sorted by field name.
pub fn keyed<'a>(fields: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Name {
    let mut name = Name::from("k:{");
    for (i, (key, value)) in fields.into_iter().enumerate() {
        if i > 0 {
            name.push(',');
        }
        push_json_string(&mut name, key);
        name.push(':');
        push_value(&mut name, value);
    }
    name.push('}');
    name
}

/// What foreign text turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    Name(Name),
    /// A kind of step from a later version: dropped with everything below it, as upstream does.
    Unknown,
}

/// Reads a step written by somebody else.
pub fn parse(text: &str) -> Result<Parsed, String> {
    let bytes = text.as_bytes();
    if bytes.len() < 2 {
        return Err("key must be 2 characters long:".to_owned());
    }
    if bytes[1] != b':' {
        return Err(format!("missing colon: {text}"));
    }
    let body = &text[2..];
    match bytes[0] {
        b'f' => Ok(Parsed::Name(Name::from(text))),
        b'k' | b'v' if is_canonical(body.as_bytes()) => Ok(Parsed::Name(Name::from(text))),
        b'k' => {
            let value: serde_json::Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
            let serde_json::Value::Object(fields) = value else {
                return Err(format!("expected an object: {text}"));
            };
            // serde_json's own map is sorted unless a feature says otherwise, so sort here.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            let mut name = Name::from("k:{");
            for (i, (key, value)) in fields.into_iter().enumerate() {
                if i > 0 {
                    name.push(',');
                }
                push_json_string(&mut name, key);
                name.push(':');
                push_foreign(&mut name, value);
            }
            name.push('}');
            Ok(Parsed::Name(name))
        }
        b'v' => {
            let value: serde_json::Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
            let mut name = Name::from("v:");
            push_foreign(&mut name, &value);
            Ok(Parsed::Name(name))
        }
        b'i' => {
            let index: i64 = body.parse().map_err(|_| go::atoi_error(body))?;
            Ok(Parsed::Name(compact_str::format_compact!("i:{index}")))
        }
        _ => Ok(Parsed::Unknown),
    }
}

/// Appends the step as people read it: `.spec`, `[name="web"]`, `[="a"]`, `[3]`.
pub fn display(name: &str, out: &mut String) {
    match name.split_at_checked(2) {
        Some(("f:", field)) => {
            out.push('.');
            out.push_str(field);
        }
        Some(("k:", body)) => {
            out.push('[');
            if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(body) {
                for (i, (key, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    out.push('=');
                    push_readable(out, value);
                }
            }
            out.push(']');
        }
        Some(("v:", body)) => {
            out.push_str("[=");
            if let Ok(value) = serde_json::from_str(body) {
                push_readable(out, &value);
            }
            out.push(']');
        }
        Some(("i:", index)) => {
            out.push('[');
            out.push_str(index);
            out.push(']');
        }
        _ => out.push_str("{{invalid path element}}"),
    }
}

/// The order of steps inside a set: text, but numbers by value, as upstream writes them.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.first() == Some(&b'f') || b.first() == Some(&b'f') {
        return a.cmp(b);
    }
    let Some(at) = a.iter().zip(b).position(|(x, y)| x != y) else {
        return a.len().cmp(&b.len());
    };
    match (number_around(a, at), number_around(b, at)) {
        (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        _ => a.cmp(b),
    }
}

/// The number whose text covers or ends at `at`, unless that place is inside a string.
fn number_around(text: &[u8], at: usize) -> Option<f64> {
    let mut in_string = false;
    let mut escaped = false;
    for &c in &text[..at] {
        match c {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    if in_string {
        return None;
    }
    let part = |c: &u8| matches!(c, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let start = at - text[..at].iter().rev().take_while(|c| part(c)).count();
    let end = at + text[at..].iter().take_while(|c| part(c)).count();
    std::str::from_utf8(&text[start..end]).ok()?.parse().ok()
}

/// True for the JSON our own writer makes of the usual keys: plain strings and integers, keys sorted.
fn is_canonical(mut json: &[u8]) -> bool {
    fn string<'a>(json: &mut &'a [u8]) -> Option<&'a [u8]> {
        let rest = json.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', rest)?;
        let text = &rest[..end];
        if text
            .iter()
            .any(|c| matches!(c, 0..0x20 | b'\\' | b'<' | b'>' | b'&' | 0x80..))
        {
            return None;
        }
        *json = &rest[end + 1..];
        Some(text)
    }
    fn scalar(json: &mut &[u8]) -> bool {
        match json.first() {
            Some(b'"') => string(json).is_some(),
            Some(b'1'..=b'9') => {
                let digits = json.iter().take_while(|c| c.is_ascii_digit()).count();
                *json = &json[digits..];
                digits <= 15 && !matches!(json.first(), Some(b'.' | b'e' | b'E'))
            }
            _ => false,
        }
    }
    if json.first() != Some(&b'{') {
        return scalar(&mut json) && json.is_empty();
    }
    json = &json[1..];
    let mut previous: Option<&[u8]> = None;
    loop {
        let Some(key) = string(&mut json) else {
            return false;
        };
        if previous.is_some_and(|p| p >= key) || json.first() != Some(&b':') {
            return false;
        }
        previous = Some(key);
        json = &json[1..];
        if !scalar(&mut json) {
            return false;
        }
        match json.first() {
            Some(b',') => json = &json[1..],
            Some(b'}') => return json.len() == 1,
            _ => return false,
        }
    }
}

fn push_value(out: &mut Name, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => out.push_str(itoa::Buffer::new().format(*i)),
        Value::Float(f) => out.push_str(&go::json_float(*f)),
        Value::String(s) => push_json_string(out, s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_json_string(out, key);
                out.push(':');
                push_value(out, item);
            }
            out.push('}');
        }
    }
}

fn push_foreign(out: &mut Name, value: &serde_json::Value) {
    use serde_json::Value as Json;
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Json::Number(n) => match n.as_i64() {
            Some(i) => out.push_str(itoa::Buffer::new().format(i)),
            None => out.push_str(&go::json_float(n.as_f64().unwrap_or(0.0))),
        },
        Json::String(s) => push_json_string(out, s),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_foreign(out, item);
            }
            out.push(']');
        }
        Json::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, item)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_json_string(out, key);
                out.push(':');
                push_foreign(out, item);
            }
            out.push('}');
        }
    }
}

fn push_readable(out: &mut String, value: &serde_json::Value) {
    use serde_json::Value as Json;
    match value {
        Json::String(s) => out.push_str(&go::quote(s)),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_readable(out, item);
            }
            out.push(']');
        }
        Json::Object(map) => {
            for (key, item) in map {
                out.push_str(key);
                out.push('=');
                push_readable(out, item);
            }
        }
        other => out.push_str(&other.to_string()),
    }
}

/// A JSON string as Go writes it, with `<`, `>` and `&` escaped.
fn push_json_string(out: &mut Name, text: &str) {
    out.push('"');
    if text
        .bytes()
        .all(|c| !matches!(c, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | 0x7f..))
    {
        out.push_str(text);
    } else {
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => out.push(c),
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        match parse(text).unwrap() {
            Parsed::Name(name) => name.to_string(),
            Parsed::Unknown => "unknown".to_owned(),
        }
    }

    fn shown(name: &str) -> String {
        let mut out = String::new();
        display(name, &mut out);
        out
    }

    #[test]
    fn foreign_text_becomes_canonical() {
        assert_eq!(canonical("f:metadata"), "f:metadata");
        assert_eq!(canonical(r#"k:{"name":"a"}"#), r#"k:{"name":"a"}"#);
        assert_eq!(canonical(r#"k:{ "b" : 1.0, "a":"x" }"#), r#"k:{"a":"x","b":1}"#);
        assert_eq!(canonical(r#"v: "x""#), r#"v:"x""#);
        assert_eq!(canonical("v:0"), "v:0");
        assert_eq!(canonical("i:007"), "i:7");
        assert_eq!(canonical("z:whatever"), "unknown");
        assert_eq!(canonical(r#"v:"a<b""#), r#"v:"a\u003cb""#);
        assert!(parse("x").is_err());
        assert!(parse("fmetadata").is_err());
        assert!(parse("k:{").is_err());
        assert!(parse("i:x").is_err());
    }

    #[test]
    fn steps_read_as_paths() {
        assert_eq!(shown("f:spec"), ".spec");
        assert_eq!(
            shown(r#"k:{"containerPort":80,"protocol":"TCP"}"#),
            r#"[containerPort=80,protocol="TCP"]"#
        );
        assert_eq!(shown(r#"v:"a\"b""#), r#"[="a\"b"]"#);
        assert_eq!(shown("i:3"), "[3]");
    }

    #[test]
    fn numbers_sort_by_value() {
        let mut names = vec![r#"k:{"port":443}"#, r#"k:{"port":80}"#, r#"k:{"port":8080}"#];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(
            names,
            [r#"k:{"port":80}"#, r#"k:{"port":443}"#, r#"k:{"port":8080}"#]
        );
        assert_eq!(compare(r#"k:{"name":"10"}"#, r#"k:{"name":"9"}"#), Ordering::Less);
        assert_eq!(compare("v:-5", "v:3"), Ordering::Less);
    }
}
