//! Timestamps and durations.

use super::{Function, function, is_string, no_overload, str_at};
use crate::types::Type;
use crate::value::Val;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

type Run = for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, String>;

const fn part(name: &'static str, arguments: usize, run: Run) -> Function {
    function(
        name,
        true,
        arguments,
        |t| {
            (matches!(t[0], Type::Timestamp | Type::Dyn) && t[1..].iter().all(is_string)).then_some(Type::Int)
        },
        run,
    )
}

const fn length(name: &'static str, run: Run) -> Function {
    function(
        name,
        true,
        0,
        |t| matches!(t[0], Type::Duration | Type::Timestamp | Type::Dyn).then_some(Type::Int),
        run,
    )
}

pub(crate) const ALL: &[Function] = &[
    function(
        "timestamp",
        false,
        1,
        |t| {
            matches!(t[0], Type::String(_) | Type::Int | Type::Timestamp | Type::Dyn)
                .then_some(Type::Timestamp)
        },
        |a| match &a[0] {
            Val::Time(_) => Ok(a[0].clone()),
            Val::Int(seconds) => Timestamp::from_second(*seconds)
                .map(Val::Time)
                .map_err(|e| e.to_string()),
            Val::Text(text) => text
                .parse()
                .map(Val::Time)
                .map_err(|_| format!("invalid timestamp: {text}")),
            _ => Err(no_overload()),
        },
    ),
    function(
        "duration",
        false,
        1,
        |t| matches!(t[0], Type::String(_) | Type::Duration | Type::Dyn).then_some(Type::Duration),
        |a| match &a[0] {
            Val::Duration(_) => Ok(a[0].clone()),
            Val::Text(text) => parse_duration(text)
                .map(Val::Duration)
                .ok_or_else(|| format!("invalid duration: {text}")),
            _ => Err(no_overload()),
        },
    ),
    part("getFullYear", 0, |a| at(a, |z| z.year().into())),
    part("getFullYear", 1, |a| at(a, |z| z.year().into())),
    part("getMonth", 0, |a| at(a, |z| i64::from(z.month()) - 1)),
    part("getMonth", 1, |a| at(a, |z| i64::from(z.month()) - 1)),
    part("getDate", 0, |a| at(a, |z| z.day().into())),
    part("getDate", 1, |a| at(a, |z| z.day().into())),
    part("getDayOfMonth", 0, |a| at(a, |z| i64::from(z.day()) - 1)),
    part("getDayOfMonth", 1, |a| at(a, |z| i64::from(z.day()) - 1)),
    part("getDayOfYear", 0, |a| at(a, |z| i64::from(z.day_of_year()) - 1)),
    part("getDayOfYear", 1, |a| at(a, |z| i64::from(z.day_of_year()) - 1)),
    part("getDayOfWeek", 0, |a| {
        at(a, |z| z.weekday().since(Weekday::Sunday).into())
    }),
    part("getDayOfWeek", 1, |a| {
        at(a, |z| z.weekday().since(Weekday::Sunday).into())
    }),
    part("getHours", 1, |a| at(a, |z| z.hour().into())),
    part("getMinutes", 1, |a| at(a, |z| z.minute().into())),
    part("getSeconds", 1, |a| at(a, |z| z.second().into())),
    part("getMilliseconds", 1, |a| at(a, |z| z.millisecond().into())),
    length("getHours", |a| {
        either(a, |d| d.as_secs() / 3600, |z| z.hour().into())
    }),
    length("getMinutes", |a| {
        either(a, |d| d.as_secs() / 60, |z| z.minute().into())
    }),
    length("getSeconds", |a| {
        either(a, |d| d.as_secs(), |z| z.second().into())
    }),
    length("getMilliseconds", |a| {
        either(
            a,
            |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            |z| z.millisecond().into(),
        )
    }),
];

fn at<'a>(arguments: &[Val<'a>], part: fn(&Zoned) -> i64) -> Result<Val<'a>, String> {
    let Val::Time(time) = &arguments[0] else {
        return Err(no_overload());
    };
    let zone = match arguments.len() {
        1 => TimeZone::UTC,
        _ => {
            let name = str_at(arguments, 1)?;
            TimeZone::get(name).or_else(|_| fixed(name).ok_or_else(|| format!("unknown time zone {name}")))?
        }
    };
    Ok(Val::Int(part(&time.to_zoned(zone))))
}

/// `-08:00` and such.
fn fixed(name: &str) -> Option<TimeZone> {
    let (sign, rest) = match name.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, name.strip_prefix('+').unwrap_or(name)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    jiff::tz::Offset::from_seconds(sign * seconds)
        .ok()
        .map(TimeZone::fixed)
}

fn either<'a>(
    arguments: &[Val<'a>],
    length: fn(&SignedDuration) -> i64,
    part: fn(&Zoned) -> i64,
) -> Result<Val<'a>, String> {
    match &arguments[0] {
        Val::Duration(duration) => Ok(Val::Int(length(duration))),
        _ => at(arguments, part),
    }
}

/// Go's notation: `1h30m`, `-1.5s`, `300ms`.
pub(crate) fn parse_duration(text: &str) -> Option<SignedDuration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("μs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == &after[..unit])?;
        let whole: i128 = match number.split_once('.') {
            None => number.parse::<i128>().ok()? * *factor as i128,
            // Only a fraction needs a float.
            Some(_) => (number.parse::<f64>().ok()? * factor) as i128,
        };
        nanos = nanos.checked_add(whole)?;
        rest = &after[unit..];
    }
    let nanos = if negative { -nanos } else { nanos };
    let seconds = i64::try_from(nanos / 1_000_000_000).ok()?;
    Some(SignedDuration::new(seconds, (nanos % 1_000_000_000) as i32))
}

/// As CEL writes them: seconds, with a fraction if there is one.
pub(crate) fn format_duration(duration: SignedDuration) -> String {
    let nanos = duration.subsec_nanos().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let seconds = duration.as_secs().unsigned_abs();
    if nanos == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{nanos:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
