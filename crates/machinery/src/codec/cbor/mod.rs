//! CBOR (RFC 8949) to values and back, as upstream speaks it (KEP-4222).
//!
//! A document begins with the tag of self-described CBOR. Texts are byte strings, fields stand in the order of core
//! deterministic encoding, `[]byte` fields are byte strings under tag 22 (their JSON form is base64). Decoding
//! takes what others may write: text strings, indefinite lengths, times under tags 0 and 1, byte strings under
//! tags 21 to 23; it refuses what JSON cannot say and what is valid nowhere: repeated keys, invalid UTF-8 in a text,
//! NaN, infinities, big numbers, simple values but `false`, `true` and `null`.
//!
//! **Invariant:** nothing is allocated by a length that is only announced, and nesting is limited to
//! [`MAX_DEPTH`](super::json::MAX_DEPTH), so no input exhausts memory or the stack.

mod decode;
mod encode;

pub use decode::{CborError, decode, decode_any, decode_prefix};
pub use encode::{Typed, begin_array, begin_map, encode, encode_text, to_vec};

/// The tag of self-described CBOR, which every document begins with.
pub const MAGIC: &[u8; 3] = &[0xd9, 0xd9, 0xf7];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;
    use crate::schema::Types;

    fn read(bytes: &[u8]) -> Result<String, String> {
        let value = decode_any(bytes).map_err(|e| e.to_string())?;
        let mut text = Vec::new();
        crate::codec::json::encode(&value, &mut text);
        Ok(String::from_utf8(text).expect("JSON is text"))
    }

    #[test]
    fn what_others_may_write_is_read() {
        for (bytes, want) in [
            (&b"\xd9\xd9\xf7\xa1\x41a\x01"[..], r#"{"a":1}"#),
            (b"\xa2\x61b\x20\x61a\xf6", r#"{"a":null,"b":-1}"#),
            (b"\xbf\x61a\x9f\x18\x64\xf4\xff\xff", r#"{"a":[100,false]}"#),
            (b"\x7f\x61a\x61b\xff", r#""ab""#),
            (b"\xf9\x3e\x00", "1.5"),
            (b"\xfb\x40\x09\x21\xfb\x54\x44\x2d\x18", "3.141592653589793"),
            (b"\xd6\x45hello", r#""aGVsbG8=""#),
            (b"\xd7\x42\xab\xcd", r#""abcd""#),
            (b"\xd5\x42\xfb\xff", r#""-_8""#),
            (b"\xd6\x81\x45hello", r#"["aGVsbG8="]"#),
            (b"\xc1\x1a\x65\x92\x00\x80", r#""2024-01-01T00:00:00Z""#),
            (b"\xc0\x742024-01-01T00:00:00Z", r#""2024-01-01T00:00:00Z""#),
            (b"\xd8\x2a\x01", "1"),
        ] {
            assert_eq!(read(bytes).as_deref(), Ok(want), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_not_valid_is_refused_in_upstreams_words() {
        for (bytes, want) in [
            (&b""[..], "EOF"),
            (b"\xa1\x41a", "unexpected EOF"),
            (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "unexpected EOF"),
            (
                b"\x01\x02",
                "cbor: 1 bytes of extraneous data starting at index 1",
            ),
            (
                b"\xa2\x41a\x01\x61a\x02",
                "cbor: found duplicate map key \"a\" at map element index 1",
            ),
            (b"\x61\xff", "cbor: invalid UTF-8 string"),
            (
                b"\xf9\x7e\x00",
                "cbor: data item of cbor type primitives is not accepted by protocol: floating-point NaN",
            ),
            (
                b"\xc2\x41\x01",
                "cbor: data item of cbor type tag is not accepted by protocol: bignum",
            ),
            (
                b"\xf7",
                "cbor: data item of cbor type primitives is not accepted by protocol: simple value 23 is not recognized",
            ),
            (
                b"\x1f",
                "cbor: invalid additional information 31 for type positive integer",
            ),
            (b"\xff", "cbor: unexpected \"break\" code"),
            (b"\xbf\x61a\xff", "cbor: unexpected \"break\" code"),
            (
                b"\xa1\x01\x01",
                "cbor: cannot unmarshal positive integer into Go value of type string",
            ),
            (
                b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
                "cbor: cannot unmarshal positive integer into Go value of type int64 (18446744073709551615 overflows Go's int64)",
            ),
            (
                b"\x7f\x41a\xff",
                "cbor: wrong element type byte string for indefinite-length UTF-8 text string",
            ),
            (
                b"\xc0\x01",
                "cbor: tag number 0 must be followed by text string, got positive integer",
            ),
        ] {
            assert_eq!(read(bytes), Err(want.to_owned()), "{bytes:x?}");
        }
        let deep = vec![0x81; 1_000_000];
        assert_eq!(read(&deep), Err("cbor: exceeded max nested level 512".to_owned()));
    }

    #[test]
    fn values_are_written_deterministically_and_come_back() {
        let value = Value::from(
            [
                ("items", Value::from(vec![1, -1000])),
                ("b", Value::from(0.1)),
                ("kind", Value::from("K")),
                ("a", Value::from(1.5)),
                ("nothing", Value::Null),
            ]
            .into_iter()
            .collect::<crate::Map>(),
        );
        let bytes = to_vec(&value, None);
        assert_eq!(
            bytes,
            b"\xd9\xd9\xf7\xa5\x41a\xf9\x3e\x00\x41b\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a\x44kind\x41K\x45items\x82\x01\x39\x03\xe7\x47nothing\xf6"
        );
        assert_eq!(decode_any(&bytes), Ok(value));
    }

    #[test]
    fn bytes_are_said_to_be_base64_later() {
        let mut types = Types::new();
        let bytes_type = types.add(crate::schema::Shape::Bytes);
        let mut out = Vec::new();
        encode(
            &Value::from("aGVsbG8="),
            Some(Typed {
                types: &types,
                id: bytes_type,
            }),
            &mut out,
        );
        assert_eq!(out, b"\xd6\x45hello");
    }
}
