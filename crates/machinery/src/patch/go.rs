//! How Go prints values, for messages that clients read: `%v` of decoded JSON, `%q` of strings, numbers.
//!
//! Upstream builds these messages with `fmt`; the same input must give the same text here.

use crate::{Map, Value};

/// `%v` of a decoded JSON value: `map[a:1 b:[x y]]`, `<nil>`.
pub(crate) fn display(value: &Value) -> String {
    let mut out = String::new();
    push(&mut out, value);
    out
}

/// `%v` of a list of values.
pub(crate) fn display_list(items: &[Value]) -> String {
    let mut out = String::new();
    push_list(&mut out, items);
    out
}

/// `%v` of a decoded JSON object.
pub(crate) fn display_map(map: &Map) -> String {
    let mut out = String::new();
    push_map(&mut out, map);
    out
}

/// `%#v` of a decoded JSON value: Go syntax.
pub(crate) fn syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(s) => quote(s),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", quote(key), syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", items.join(", "))
        }
        scalar => display(scalar),
    }
}

fn push_map(out: &mut String, map: &Map) {
    out.push_str("map[");
    for (i, (key, item)) in map.iter().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(key);
        out.push(':');
        push(out, item);
    }
    out.push(']');
}

fn push_list(out: &mut String, items: &[Value]) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        push(out, item);
    }
    out.push(']');
}

fn push(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => out.push_str(itoa::Buffer::new().format(*i)),
        Value::Float(f) => out.push_str(&general_float(*f)),
        Value::String(s) => out.push_str(s),
        Value::Array(items) => push_list(out, items),
        Value::Object(map) => push_map(out, map),
    }
}

/// The Go type a JSON value decodes to.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// What `encoding/json` calls a JSON value it cannot store.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `%q`.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{80}'..='\u{a0}'
            | '\u{ad}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A number as `encoding/json` writes it.
pub(crate) fn json_float(f: f64) -> String {
    let size = f.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        exponent(f, 1)
    } else {
        plain(f)
    }
}

/// A number as `%v` prints it.
fn general_float(f: f64) -> String {
    let size = f.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        exponent(f, 2)
    } else {
        plain(f)
    }
}

fn plain(f: f64) -> String {
    // Rust's Display of a float is the shortest decimal that reads back the same, without exponent.
    f.to_string()
}

/// `1e+21`: Go's exponent has a sign and, except in JSON's negative ones, at least two digits.
fn exponent(f: f64, digits: usize) -> String {
    let text = format!("{f:e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, power) = match power.strip_prefix('-') {
                Some(power) => ('-', power),
                None => ('+', power),
            };
            format!("{mantissa}e{sign}{power:0>digits$}")
        }
        None => text,
    }
}

/// What `strconv.Atoi` says of text that is no number.
pub(crate) fn atoi_error(text: &str) -> String {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let why = if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        "value out of range"
    } else {
        "invalid syntax"
    };
    format!("strconv.Atoi: parsing {}: {why}", quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_go_prints_them() {
        assert_eq!(general_float(1.5), "1.5");
        assert_eq!(general_float(1e21), "1e+21");
        assert_eq!(general_float(0.000_01), "1e-05");
        assert_eq!(json_float(1e21), "1e+21");
        assert_eq!(json_float(1e-7), "1e-7");
        assert_eq!(json_float(3.0), "3");
        assert_eq!(
            atoi_error("foo"),
            r#"strconv.Atoi: parsing "foo": invalid syntax"#
        );
        assert_eq!(
            atoi_error("99999999999999999999"),
            r#"strconv.Atoi: parsing "99999999999999999999": value out of range"#
        );
        assert_eq!(quote("a\"b\n\u{1}é"), r#""a\"b\n\x01é""#);
    }
}
