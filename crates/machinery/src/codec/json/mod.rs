//! JSON to values and back.

mod decode;
mod encode;

pub use decode::{DecodeError, Decoded, MAX_DEPTH, conform, decode, decode_any, peek_kind};
pub use encode::{encode, encode_pretty, encode_text, to_vec};

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        String::from_utf8(to_vec(&decode_any(text.as_bytes()).unwrap().value)).unwrap()
    }

    #[test]
    fn what_is_read_is_written() {
        for (text, want) in [
            (
                r#" { "b" : [ 1 , -2.50 , true , null ] , "a" : "x\u00e9\ud83d\ude00\n\"" } "#,
                "{\"a\":\"xé😀\\n\\\"\",\"b\":[1,-2.5,true,null]}",
            ),
            ("1e21", "1e+21"),
            ("0.00000015", "1.5e-7"),
            ("9223372036854775808", "9223372036854776000"),
            (r#""\ud800""#, "\"\u{fffd}\""),
            (
                r#""<a & b>\u2028\u2029\u2030\b\f\u0001é""#,
                "\"\\u003ca \\u0026 b\\u003e\\u2028\\u2029\u{2030}\\b\\f\\u0001é\"",
            ),
        ] {
            assert_eq!(round(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_in_gos_words() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            (
                "{a}",
                "invalid character 'a' looking for beginning of object key string",
            ),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            ("[1 2]", "invalid character '2' after array element"),
            ("1 2", "invalid character '2' after top-level value"),
            ("nul", "unexpected end of JSON input"),
            ("01", "invalid character '1' after top-level value"),
            ("\"a\nb\"", r"invalid character '\n' in string literal"),
        ] {
            assert_eq!(
                decode_any(text.as_bytes()).unwrap_err().to_string(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn depth_is_limited() {
        let deep = "[".repeat(100_000);
        assert_eq!(
            decode_any(deep.as_bytes()).unwrap_err().to_string(),
            "invalid character '[' exceeded max depth"
        );
    }

    #[test]
    fn the_last_of_repeated_fields_stays_and_is_reported() {
        let decoded = decode_any(br#"{"z":1,"a":{"k":1,"k":2},"z":3}"#).unwrap();
        assert_eq!(to_vec(&decoded.value), br#"{"a":{"k":2},"z":3}"#);
        assert_eq!(
            decoded.findings,
            [r#"duplicate field "a.k""#, r#"duplicate field "z""#]
        );
    }

    #[test]
    fn keys_in_falling_order_cost_no_more() {
        let fields: Vec<String> = (0..200_000).rev().map(|n| format!("\"{n:06}\":0")).collect();
        let text = format!("{{{}}}", fields.join(","));
        let map = decode_any(text.as_bytes()).unwrap().value;
        assert_eq!(map.as_object().unwrap().len(), 200_000);
    }

    #[test]
    fn the_kind_is_read_without_the_rest() {
        let (version, kind) =
            peek_kind(br#"{"metadata":{"kind":"no"},"kind":"Pod","apiVersion":"v1"}"#).unwrap();
        assert_eq!((version.as_str(), kind.as_str()), ("v1", "Pod"));
    }
}
