//! Values to CBOR.

use super::MAGIC;
use crate::codec::scalar;
use crate::schema::{Shape, TypeId, Types};
use crate::value::{Key, Map, Value};

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
/// What follows is bytes whose text form is base64.
const LATER_BASE64: u8 = 0xd6;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const HALF: u8 = 0xf9;
const SINGLE: u8 = 0xfa;
const DOUBLE: u8 = 0xfb;

/// The type a value is written along.
#[derive(Clone, Copy)]
pub struct Typed<'a> {
    pub types: &'a Types,
    pub id: TypeId,
}

/// A value as a document, with the tag of self-described CBOR.
pub fn to_vec(value: &Value, typed: Option<Typed<'_>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(MAGIC);
    encode(value, typed, &mut out);
    out
}

/// Appends a value as one data item.
pub fn encode(value: &Value, typed: Option<Typed<'_>>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        // Numbers below 2^53 are exact either way; a field that is a float is written as one.
        Value::Int(int) if shape(typed).is_some_and(|s| matches!(s, Shape::Double)) => {
            float(*int as f64, out)
        }
        Value::Int(int) => match u64::try_from(*int) {
            Ok(int) => head(UNSIGNED, int, out),
            // -1 - int, which for negatives is never negative.
            Err(_) => head(NEGATIVE, !*int as u64, out),
        },
        Value::Float(number) => float(*number, out),
        Value::String(text) => match shape(typed) {
            Some(Shape::Bytes) => match scalar::base64_bytes(text) {
                Some(bytes) => {
                    out.push(LATER_BASE64);
                    head(BYTES, bytes.len() as u64, out);
                    out.extend_from_slice(&bytes);
                }
                None => encode_text(text, out),
            },
            _ => encode_text(text, out),
        },
        Value::Array(items) => {
            begin_array(items.len(), out);
            let item_type = typed.and_then(|t| match t.types.shape(t.id) {
                Shape::List(list) => Some(Typed { id: list.item, ..t }),
                Shape::SchemaOrArray(schema) => Some(Typed { id: *schema, ..t }),
                _ => None,
            });
            for item in items {
                encode(item, item_type, out);
            }
        }
        Value::Object(map) => object(map, typed, out),
    }
}

/// Appends a text, as a byte string.
pub fn encode_text(text: &str, out: &mut Vec<u8>) {
    head(BYTES, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Appends what announces a list of so many items.
pub fn begin_array(items: usize, out: &mut Vec<u8>) {
    head(ARRAY, items as u64, out);
}

/// Appends what announces an object of so many fields.
pub fn begin_map(fields: usize, out: &mut Vec<u8>) {
    head(MAP, fields as u64, out);
}

fn object(map: &Map, typed: Option<Typed<'_>>, out: &mut Vec<u8>) {
    begin_map(map.len(), out);
    let mut entries: Vec<(&Key, &Value)> = map.iter().collect();
    // Bytewise by the encoded key, which begins with its length.
    entries.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    for (key, value) in entries {
        encode_text(key, out);
        encode(value, typed.and_then(|t| field_type(t, key)), out);
    }
}

fn field_type<'a>(typed: Typed<'a>, name: &str) -> Option<Typed<'a>> {
    let id = match typed.types.shape(typed.id) {
        Shape::Struct(s) => s.field(name).map(|f| f.ty).or(s.additional)?,
        Shape::Map(map) => map.value,
        Shape::SchemaOrBool(schema) | Shape::SchemaOrArray(schema) | Shape::SchemaOrStrings(schema) => {
            return field_type(Typed { id: *schema, ..typed }, name);
        }
        _ => return None,
    };
    Some(Typed { id, ..typed })
}

fn shape(typed: Option<Typed<'_>>) -> Option<&Shape> {
    typed.map(|t| t.types.shape(t.id))
}

fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

/// In the fewest bytes that say the same number.
fn float(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        // JSON cannot say it, and no decoder here makes it.
        out.push(NULL);
        return;
    }
    let single = number as f32;
    if f64::from(single) != number {
        out.push(DOUBLE);
        out.extend_from_slice(&number.to_bits().to_be_bytes());
        return;
    }
    match half(single) {
        Some(bits) => {
            out.push(HALF);
            out.extend_from_slice(&bits.to_be_bytes());
        }
        None => {
            out.push(SINGLE);
            out.extend_from_slice(&single.to_bits().to_be_bytes());
        }
    }
}

/// The number in 16 bits, if they suffice.
fn half(single: f32) -> Option<u16> {
    let bits = single.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = ((bits >> 23) & 0xff) as i32 - 127;
    let mantissa = bits & 0x007f_ffff;
    if bits & 0x7fff_ffff == 0 {
        return Some(sign);
    }
    if (-14..=15).contains(&exponent) {
        // Ten bits of the fraction are left.
        return (mantissa & 0x1fff == 0)
            .then(|| sign | ((exponent + 15) as u16) << 10 | (mantissa >> 13) as u16);
    }
    if (-24..-14).contains(&exponent) {
        // Subnormal: the hidden bit is written out, in units of 2^-24.
        let whole = mantissa | 0x0080_0000;
        let shift = (-1 - exponent) as u32;
        return (whole & ((1 << shift) - 1) == 0).then(|| sign | (whole >> shift) as u16);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::cbor::decode_any;

    #[test]
    fn numbers_take_the_fewest_bytes() {
        for (number, size) in [
            (0.0, 3),
            (-0.0, 3),
            (1.0, 3),
            (65504.0, 3),
            (65505.0, 5),
            (5.960_464_477_539_063e-8, 3),
            (6.103_515_625e-5, 3),
            (1.0e-40, 9),
            (3.402_823_466_385_288_6e38, 5),
            (1.1, 9),
            (1.0e300, 9),
        ] {
            let mut out = Vec::new();
            float(number, &mut out);
            assert_eq!(out.len(), size, "{number}");
            assert_eq!(decode_any(&out), Ok(Value::Float(number)), "{number}");
        }
        for int in [
            0,
            23,
            24,
            255,
            256,
            65535,
            65536,
            i64::MAX,
            -1,
            -24,
            -25,
            -256,
            -257,
            i64::MIN,
        ] {
            let mut out = Vec::new();
            encode(&Value::Int(int), None, &mut out);
            assert_eq!(decode_any(&out), Ok(Value::Int(int)));
        }
    }
}
