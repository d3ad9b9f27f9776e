//! The formats of texts that upstream checks; all others are only documentation.

use base64::Engine as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A format's name, without dashes, and whether a text is of it.
type Format = (&'static str, fn(&str) -> bool);

/// Sorted by name.
const FORMATS: [Format; 24] = [
    ("bsonobjectid", |t| t.len() == 24 && is_hex(t)),
    ("byte", |t| {
        base64::engine::general_purpose::STANDARD.decode(t).is_ok()
    }),
    ("cidr", is_cidr),
    ("creditcard", is_credit_card),
    ("date", |t| {
        t.len() == 10 && t.parse::<jiff::civil::Date>().is_ok()
    }),
    ("datetime", is_date_time),
    ("duration", is_duration),
    ("email", is_email),
    ("hexcolor", is_hex_color),
    ("hostname", is_hostname),
    ("ipv4", |t| t.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |t| t.parse::<Ipv6Addr>().is_ok()),
    ("isbn", |t| is_isbn10(t) || is_isbn13(t)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("k8slongname", |t| {
        machinery::names::dns1123_subdomain(t).is_empty()
    }),
    ("k8sshortname", |t| machinery::names::dns1123_label(t).is_empty()),
    ("mac", is_mac),
    ("password", |_| true),
    ("rgbcolor", is_rgb_color),
    ("ssn", is_ssn),
    ("uri", is_uri),
    ("uuid", |t| is_uuid(t, None)),
    ("uuid4", |t| is_uuid(t, Some(b'4'))),
];

/// Two more, told apart from `uuid4` by their number only.
const UUIDS: [Format; 2] = [
    ("uuid3", |t| is_uuid(t, Some(b'3'))),
    ("uuid5", |t| is_uuid(t, Some(b'5'))),
];

/// Whether a format is checked at all.
pub fn is_known(format: &str) -> bool {
    find(format).is_some()
}

/// Whether a text is of a format; true of formats nobody checks.
pub(super) fn is_of(format: &str, text: &str) -> bool {
    find(format).is_none_or(|check| check(text))
}

fn find(format: &str) -> Option<fn(&str) -> bool> {
    let name = format.replace('-', "");
    FORMATS
        .iter()
        .chain(&UUIDS)
        .find(|(known, _)| *known == name)
        .map(|(_, check)| *check)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    !length.is_empty() && length.len() <= 3 && length.parse::<u8>().is_ok_and(|l| l <= most)
}

fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && matches!(bytes[10], b'T' | b't')
        && text.to_uppercase().parse::<jiff::Timestamp>().is_ok()
}

/// Go's notation (`1h30m`), or a number and a word (`22 seconds`).
fn is_duration(text: &str) -> bool {
    const GO: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
    const WORDS: [&str; 36] = [
        "ns",
        "nano",
        "nanos",
        "nanosecond",
        "nanoseconds",
        "us",
        "µs",
        "micro",
        "micros",
        "microsecond",
        "microseconds",
        "ms",
        "milli",
        "millis",
        "millisecond",
        "milliseconds",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "m",
        "min",
        "mins",
        "minute",
        "minutes",
        "h",
        "hr",
        "hrs",
        "hour",
        "hours",
        "d",
        "day",
        "days",
        "w",
        "weeks",
    ];
    let plain = text.strip_prefix(['-', '+']).unwrap_or(text);
    if plain == "0" {
        return true;
    }
    let number = |text: &str| text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (mut rest, mut parts) = (plain, 0);
    while !rest.is_empty() {
        let Some(at) = number(rest).filter(|at| *at > 0) else {
            parts = 0;
            break;
        };
        let unit = &rest[at..];
        let end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        if !GO.contains(&&unit[..end]) {
            parts = 0;
            break;
        }
        parts += 1;
        rest = &unit[end..];
    }
    if parts > 0 {
        return true;
    }
    let Some(at) = number(plain).filter(|at| *at > 0) else {
        return false;
    };
    WORDS.contains(&plain[at..].trim().to_lowercase().as_str())
}

fn is_email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(at), Some(_)) => &text[at + 1..text.len() - 1],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let good = |c: char| !c.is_whitespace() && !c.is_control() && !"()<>[]:;@\\,\"".contains(c);
    !local.is_empty()
        && !domain.is_empty()
        && local.chars().all(good)
        && domain.chars().all(good)
        && [local, domain]
            .iter()
            .all(|part| !part.starts_with('.') && !part.ends_with('.') && !part.contains(".."))
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && is_hex(digits)
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| {
            if matches!(c, 'X' | 'x') {
                10
            } else {
                c.to_digit(10).unwrap_or(99)
            }
        })
        .collect();
    digits.len() == 10
        && digits[..9].iter().all(|d| *d < 10)
        && digits[9] <= 10
        && (1..).zip(&digits).map(|(n, d)| n * d).sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| c.to_digit(10).unwrap_or(99))
        .collect();
    digits.len() == 13
        && digits.iter().all(|d| *d < 10)
        && digits
            .iter()
            .enumerate()
            .map(|(at, d)| if at % 2 == 0 { *d } else { 3 * d })
            .sum::<u32>()
            % 10
            == 0
}

/// Thirteen to sixteen digits, whatever stands between, that add up as Luhn says.
fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let doubled = |(at, digit): (usize, &u32)| match (at % 2, digit * 2) {
        (0, _) => *digit,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    (13..=16).contains(&digits.len()) && digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, size: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|part| part.len() == size && is_hex(part))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')')) else {
        return false;
    };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
}

fn is_ssn(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    is_digits(&digits, 9) && text.len() <= 11 && text.get(..3).is_some_and(|start| is_digits(start, 3))
}

/// A path of its own, or a scheme and something after it.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !rest.is_empty()
}

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let dashes = text.len() - digits.len();
    let in_place = text
        .bytes()
        .enumerate()
        .all(|(at, b)| b != b'-' || dashes != 4 || matches!(at, 8 | 13 | 18 | 23));
    digits.len() == 32
        && dashes <= 4
        && in_place
        && digits.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|version| {
            digits[12] == version
                && (version == b'3' || matches!(digits[16].to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_their_formats() {
        for (format, good, bad) in [
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("date", "2006-01-02", "2006-1-2"),
            ("duration", "1h30m", "1x"),
            ("duration", "22 seconds", "22 moons"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("cidr", "fd00::/8", "fd00::/129"),
            ("mac", "00:11:22:33:44:55", "00:11:22:33:44"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
            ("email", "a@b.c", "a.b.c"),
            ("uri", "https://example.com/x", "no uri"),
            ("isbn", "978-0321751041", "978-0321751042"),
            ("byte", "aGVsbG8=", "aGVsbG8"),
            ("hexcolor", "#FFF", "#FFFF"),
            ("k8s-short-name", "a-b", "A"),
        ] {
            assert!(is_known(format), "{format}");
            assert!(is_of(format, good), "{format} {good}");
            assert!(!is_of(format, bad), "{format} {bad}");
        }
        assert!(!is_known("whatever") && is_of("whatever", "x"));
    }
}
