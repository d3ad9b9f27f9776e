//! Values to JSON, compact or indented.

use crate::value::Value;

/// Appends a value as compact JSON.
pub fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(int) => out.extend_from_slice(itoa::Buffer::new().format(*int).as_bytes()),
        Value::Float(float) => encode_float(*float, out),
        Value::String(text) => encode_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                encode(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (index, (key, item)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                encode_text(key, out);
                out.push(b':');
                encode(item, out);
            }
            out.push(b'}');
        }
    }
}

/// A value as compact JSON.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode(value, &mut out);
    out
}

/// Appends a value as JSON over several lines, indented by two spaces as `?pretty=1` has it.
pub fn encode_pretty(value: &Value, out: &mut Vec<u8>) {
    pretty(value, 0, out);
}

fn pretty(value: &Value, level: usize, out: &mut Vec<u8>) {
    let line = |out: &mut Vec<u8>, level: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * level, b' ');
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                line(out, level + 1);
                pretty(item, level + 1, out);
            }
            line(out, level);
            out.push(b']');
        }
        Value::Object(map) if !map.is_empty() => {
            out.push(b'{');
            for (index, (key, item)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                line(out, level + 1);
                encode_text(key, out);
                out.extend_from_slice(b": ");
                pretty(item, level + 1, out);
            }
            line(out, level);
            out.push(b'}');
        }
        other => encode(other, out),
    }
}

fn encode_float(float: f64, out: &mut Vec<u8>) {
    let magnitude = float.abs();
    let text = if !float.is_finite() {
        // JSON cannot say it, and no decoder here makes it.
        "null".to_owned()
    } else if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        // Go writes `1e+21` and `1e-7`.
        let text = format!("{float:e}");
        match text.split_once('e') {
            Some((mantissa, exponent)) if !exponent.starts_with('-') => format!("{mantissa}e+{exponent:0>2}"),
            Some((mantissa, exponent)) => format!("{mantissa}e-{}", &exponent[1..]),
            None => text,
        }
    } else {
        format!("{float}")
    };
    out.extend_from_slice(text.as_bytes());
}

/// Appends a text in quotes, escaped as Go's encoder escapes it: also what HTML would read as markup (`<`, `>`, `&`),
/// and the two line separators JavaScript does not take in a text.
pub fn encode_text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if !SPECIAL[usize::from(byte)] {
            continue;
        }
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0c => b"\\f",
            0xe2 => match bytes.get(at + 1..at + 3) {
                Some([0x80, last @ (0xa8 | 0xa9)]) => {
                    out.extend_from_slice(&bytes[from..at]);
                    out.extend_from_slice(b"\\u202");
                    out.push(HEX[usize::from(last & 0xf)]);
                    from = at + 3;
                    continue;
                }
                _ => continue,
            },
            _ => {
                out.extend_from_slice(&bytes[from..at]);
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0xf)]);
                from = at + 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(escape);
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Bytes that may need an escape; 0xe2 begins the line separators.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[b'<' as usize] = true;
    table[b'>' as usize] = true;
    table[b'&' as usize] = true;
    table[0xe2] = true;
    table
};
