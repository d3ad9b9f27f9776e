//! Texts with a form of their own, checked and normalised. Errors are Go's words, for clients.

use crate::quantity;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use compact_str::{CompactString, CompactStringExt as _, ToCompactString as _};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

const TIME_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_TIME_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// As Go's, which does not look at the last symbol's unused bits.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The bytes a text in normal form stands for.
pub(crate) fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    LENIENT.decode(text).ok()
}

pub(crate) fn base64(text: &str) -> Result<CompactString, String> {
    // Go's decoder passes over line ends.
    let clean: CompactString = if text.contains(['\r', '\n']) {
        text.split(['\r', '\n']).concat_compact()
    } else {
        text.into()
    };
    match LENIENT.decode(clean.as_bytes()) {
        Ok(bytes) => Ok(base64::engine::general_purpose::STANDARD.encode(bytes).into()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    clean.len() & !3
                }
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

pub(crate) fn quantity(text: &str) -> Result<CompactString, String> {
    quantity::canonical(text).map_err(|error| error.to_string())
}

/// RFC 3339 in UTC, whole seconds.
pub fn time(text: &str) -> Result<CompactString, String> {
    Ok(format_time(parse_time(text, TIME_LAYOUT)?))
}

/// RFC 3339 in UTC with six digits of the second.
pub fn micro_time(text: &str) -> Result<CompactString, String> {
    Ok(format_micro_time(parse_time(text, MICRO_TIME_LAYOUT)?))
}

/// The form of metav1 `Time`: the second's fraction is cut off.
pub fn format_time(time: Timestamp) -> CompactString {
    // Seconds of a timestamp are always in range.
    let whole = Timestamp::from_second(
        time.as_nanosecond()
            .div_euclid(1_000_000_000)
            .try_into()
            .unwrap_or(0),
    )
    .unwrap_or(time);
    print(whole, 0)
}

/// The form of metav1 `MicroTime`.
pub fn format_micro_time(time: Timestamp) -> CompactString {
    print(time, 6)
}

fn print(time: Timestamp, digits: u8) -> CompactString {
    let mut out = String::with_capacity(28);
    let printer = DateTimePrinter::new().precision(Some(digits));
    match printer.print_timestamp(&time, &mut out) {
        Ok(()) => out.into(),
        // Printing into a String cannot fail; the plain form is as good.
        Err(_) => time.to_compact_string(),
    }
}

fn parse_time(text: &str, layout: &str) -> Result<Timestamp, String> {
    let bytes = text.as_bytes();
    // jiff takes more forms than RFC 3339: the separators must stand where they belong.
    let shaped = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && bytes[17..19].iter().all(u8::is_ascii_digit)
        && !text.contains('[');
    match text.parse::<Timestamp>() {
        Ok(time) if shaped => Ok(time),
        _ => {
            let quoted = crate::field::quote(text);
            Err(format!(
                "parsing time {quoted} as {}: cannot parse {quoted} as \"2006\"",
                crate::field::quote(layout)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_normalised() {
        assert_eq!(
            time("2026-01-02T03:04:05Z").as_deref(),
            Ok("2026-01-02T03:04:05Z")
        );
        assert_eq!(
            time("2026-01-02T03:04:05.999+01:00").as_deref(),
            Ok("2026-01-02T02:04:05Z")
        );
        assert_eq!(
            micro_time("2026-01-02T03:04:05.1Z").as_deref(),
            Ok("2026-01-02T03:04:05.100000Z")
        );
        assert!(time("yesterday").is_err() && time("2026-01-02").is_err());
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(base64("aGVs\nbG8=").as_deref(), Ok("aGVsbG8="));
        assert_eq!(base64("a$==").unwrap_err(), "illegal base64 data at input byte 1");
    }
}
