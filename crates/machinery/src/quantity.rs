//! `resource.Quantity`: fixed-point numbers with a suffix, in upstream's canonical form.
//!
//! A quantity is held as a whole number of nano-units, which is upstream's finest precision; what is finer rounds
//! up, away from zero, and what does not fit saturates.

use compact_str::CompactString;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `1500m`, `2k`
    DecimalSi,
    /// `64Mi`
    BinarySi,
    /// `2e3`
    DecimalExponent,
}

/// A number as resources are counted in.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity; the words are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// A whole number of units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(units) * NANO,
            format,
        }
    }

    /// A whole number of thousandths, as CPU is counted.
    pub fn from_millis(millis: i64) -> Self {
        Self {
            nanos: i128::from(millis) * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Units, rounded up; saturates.
    pub fn value(&self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up; saturates.
    pub fn milli_value(&self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1000))
    }

    pub fn nano_value(&self) -> i128 {
        self.nanos
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    pub fn as_f64(&self) -> f64 {
        // Precision past 2^53 is lost, as in upstream's approximation.
        self.nanos as f64 / NANO as f64
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        if suffix
            .bytes()
            .any(|byte| !byte.is_ascii_alphanumeric() && byte != b'+' && byte != b'-')
        {
            return Err(ParseError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError::Numeric);
        }
        let (base, exponent, format) = suffix_of(suffix)?;
        let nanos = scale(whole, fraction, base, exponent);
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

/// The base, exponent and format of a suffix.
fn suffix_of(suffix: &str) -> Result<(i128, i32, Format), ParseError> {
    let decimal = |exponent| Ok((10, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((2, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => match suffix.strip_prefix(['e', 'E']).map(str::parse::<i32>) {
            Some(Ok(exponent)) => Ok((10, exponent.clamp(-60, 60), Format::DecimalExponent)),
            _ => Err(ParseError::Suffix),
        },
    }
}

/// `whole.fraction * base^exponent` in nano-units, rounded up, saturating.
fn scale(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    const LIMIT: i128 = i64::MAX as i128 * NANO;
    let mut mantissa: i128 = 0;
    let mut places = 0;
    let mut lost = false;
    for (digit, is_fraction) in whole
        .bytes()
        .map(|d| (d, false))
        .chain(fraction.bytes().map(|d| (d, true)))
    {
        match mantissa
            .checked_mul(10)
            .and_then(|m| m.checked_add(i128::from(digit - b'0')))
        {
            // Beyond 25 digits nothing is left of a nano-unit.
            Some(next) if next < i128::MAX / 1_000_000_000_000 => {
                mantissa = next;
                places += i32::from(is_fraction);
            }
            _ if is_fraction => lost |= digit != b'0',
            _ => return LIMIT,
        }
    }
    let mut ten = 9 - places;
    if base == 10 {
        ten += exponent;
    } else {
        match mantissa.checked_mul(1_i128 << exponent) {
            Some(scaled) => mantissa = scaled,
            None => return LIMIT,
        }
    }
    while ten > 0 {
        match mantissa.checked_mul(10) {
            Some(scaled) if scaled <= LIMIT => mantissa = scaled,
            _ if mantissa == 0 => break,
            _ => return LIMIT,
        }
        ten -= 1;
    }
    while ten < 0 && mantissa != 0 {
        lost |= mantissa % 10 != 0;
        mantissa /= 10;
        ten += 1;
    }
    (mantissa + i128::from(lost)).min(LIMIT)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small {
            let mut units = div_up(self.nanos, NANO);
            let mut suffix = 0;
            while suffix < 6 && units % 1024 == 0 {
                units /= 1024;
                suffix += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][suffix]);
        }
        let mut mantissa = self.nanos;
        let mut exponent = -9;
        while exponent < 18 && mantissa % 1000 == 0 {
            mantissa /= 1000;
            exponent += 3;
        }
        write!(f, "{mantissa}")?;
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                Ok(())
            } else {
                write!(f, "e{exponent}")
            };
        }
        f.write_str(match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        })
    }
}

/// A quantity's text in canonical form; most texts are already, and are only copied.
pub fn canonical(text: &str) -> Result<CompactString, ParseError> {
    use compact_str::ToCompactString as _;
    Ok(text.trim().parse::<Quantity>()?.to_compact_string())
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// Keeps the left side's format; a zero on the left takes the right one's, as upstream.
    fn add(self, other: Self) -> Self {
        let format = if self.nanos == 0 {
            other.format
        } else {
            self.format
        };
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format,
        }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.nanos == 0 {
            other.format
        } else {
            self.format
        };
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format,
        }
    }
}

/// Division that rounds away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let whole = value / by;
    if value % by == 0 {
        whole
    } else {
        whole + value.signum()
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, want) in [
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("0.0005", "500u"),
            ("1.0", "1"),
            ("2000", "2k"),
            ("1500", "1500"),
            ("1Mi", "1Mi"),
            ("1024Ki", "1Mi"),
            ("0.5Gi", "512Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12345e0", "12345"),
            ("1E", "1E"),
            ("0", "0"),
            ("0Mi", "0"),
            ("-1.5", "-1500m"),
            ("0.0000000001", "1n"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, want) in [
            ("", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1.2.3", ParseError::Numeric),
            (".", ParseError::Numeric),
            ("Gi", ParseError::Numeric),
            ("1gi", ParseError::Suffix),
            ("1mm", ParseError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(want), "{text}");
        }
    }

    #[test]
    fn arithmetic_and_rounding() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("0.1m").milli_value(), 1);
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert!(q("1000m") == q("1") && q("1Ki") > q("1k"));
        assert_eq!(q("99999999999999999999E").value(), i64::MAX);
    }
}
