//! Cron expressions: five fields, or `@daily` and the like, or `@every 90m`; and the times they name.
//!
//! Times that a change of the clocks skips do not come; those it repeats come twice (as upstream's library).
//! A day matches by month day and by week day if one of them is `*`, else by either.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    #[error("expected exactly 5 fields, found {found}: {fields:?}")]
    Fields { found: usize, fields: Vec<String> },
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse int from {part}")]
    Number { part: String },
    #[error("value out of range [{min}, {max}]: {part}")]
    Range { part: String, min: u8, max: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    At(Box<Fields>),
    Every(SignedDuration),
}

/// Bit sets of what matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
    zone: TimeZone,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that names no time within so many days names none at all (the 30th of February).
const HORIZON_DAYS: usize = 5 * 366;

impl Schedule {
    pub(super) fn parse(text: &str, zone: TimeZone) -> Result<Self, ParseError> {
        let text = text.trim();
        if let Some(span) = text.strip_prefix("@every ") {
            let span: SignedDuration = span.trim().parse().map_err(|_| ParseError::Number {
                part: span.to_owned(),
            })?;
            return Ok(Self::Every(span.max(SignedDuration::from_secs(1))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(ParseError::Descriptor(other.to_owned())),
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(ParseError::Fields {
                found: fields.len(),
                fields: fields.iter().map(|f| (*f).to_owned()).collect(),
            });
        };
        // Sunday is 0 and 7 elsewhere, but only 0 here, as upstream.
        Ok(Self::At(Box::new(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 6, &WEEKDAYS)?,
            any_day: is_star(days),
            any_weekday: is_star(weekdays),
            zone,
        })))
    }

    /// The first time after `after`.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(span) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*span).ok()
            }
            Self::At(fields) => fields.next(after),
        }
    }
}

fn is_star(field: &str) -> bool {
    field
        .split(',')
        .any(|part| part.starts_with('*') || part.starts_with('?'))
}

fn field(text: &str, min: u8, max: u8, names: &[&str]) -> Result<u64, ParseError> {
    let mut bits = 0;
    for part in text.split(',') {
        let number = |word: &str| -> Result<u8, ParseError> {
            let named = names.iter().position(|n| n.eq_ignore_ascii_case(word));
            let number = match named {
                // Names count from the field's least value.
                Some(at) => u8::try_from(at).map(|at| at + min).ok(),
                None => word.parse().ok(),
            };
            let number = number.ok_or_else(|| ParseError::Number {
                part: word.to_owned(),
            })?;
            if number < min || number > max {
                return Err(ParseError::Range {
                    part: part.to_owned(),
                    min,
                    max,
                });
            }
            Ok(number)
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (min, max),
            Some((first, last)) => (number(first)?, number(last)?),
            None if step.is_some() => (number(range)?, max),
            None => (number(range)?, number(range)?),
        };
        let step = match step {
            Some(step) => step.parse::<u8>().ok().filter(|s| *s > 0),
            None => Some(1),
        };
        let step = step.ok_or_else(|| ParseError::Number {
            part: part.to_owned(),
        })?;
        if first > last {
            return Err(ParseError::Range {
                part: part.to_owned(),
                min,
                max,
            });
        }
        for value in (first..=last).step_by(usize::from(step)) {
            bits |= 1 << value;
        }
    }
    Ok(bits)
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|v| bits & (1 << v) != 0)
}

impl Fields {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60).checked_add(1)?.checked_mul(60)?;
        let mut at = Timestamp::from_second(minute).ok()?;
        for _ in 0..HORIZON_DAYS {
            let local = self.zone.to_datetime(at);
            if !self.matches_day(local.date()) {
                let midnight = local
                    .date()
                    .checked_add(1.day())
                    .ok()?
                    .to_datetime(Time::midnight());
                let next = self.zone.to_ambiguous_timestamp(midnight).compatible().ok()?;
                at = next.max(at.checked_add(SignedDuration::from_secs(60)).ok()?);
                continue;
            }
            // Within the day minute by minute in real time, so that repeated hours come twice and skipped ones never.
            let day = local.date();
            while self.zone.to_datetime(at).date() == day {
                let local = self.zone.to_datetime(at);
                if !has(self.hours, local.hour()) {
                    let left = 60 - i64::from(local.minute());
                    at = at.checked_add(SignedDuration::from_mins(left)).ok()?;
                } else if !has(self.minutes, local.minute()) {
                    at = at.checked_add(SignedDuration::from_mins(1)).ok()?;
                } else {
                    return Some(at);
                }
            }
        }
        None
    }

    fn matches_day(&self, date: jiff::civil::Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let by_day = if self.any_day || self.any_weekday {
            day && weekday
        } else {
            day || weekday
        };
        has(self.months, date.month()) && by_day
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Zones whose clocks change by an hour or half an hour, in either half of the year, at midnight, or never.
    const ZONES: [&str; 6] = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Asia/Beirut",
        "Asia/Seoul",
    ];

    /// The minutes of 2026 around which those clocks change, and one around which none does.
    const CHANGES: [&str; 9] = [
        "2026-03-28T00:00:00Z",
        "2026-03-08T00:00:00Z",
        "2026-04-04T00:00:00Z",
        "2026-09-05T12:00:00Z",
        "2026-10-03T00:00:00Z",
        "2026-10-24T12:00:00Z",
        "2026-11-01T00:00:00Z",
        "2026-06-15T00:00:00Z",
        "2026-12-31T12:00:00Z",
    ];

    fn part(max: u8) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (0..=max).prop_map(|n| n.to_string()),
            (2..=15u8).prop_map(|n| format!("*/{n}")),
            prop::collection::btree_set(0..=max, 1..4).prop_map(|all| all
                .iter()
                .map(u8::to_string)
                .collect::<Vec<_>>()
                .join(",")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// The next time is the first minute whose local reading matches: nothing is left out, nothing comes too early,
        /// whatever the clocks do.
        #[test]
        fn the_next_time_is_the_first_minute_that_matches(
            minutes in part(59),
            hours in part(23),
            weekdays in prop_oneof![Just("*".to_owned()), (0u8..7).prop_map(|d| d.to_string())],
            zone in prop::sample::select(&ZONES[..]),
            change in prop::sample::select(&CHANGES[..]),
            seconds in 0i64..3 * 86_400,
        ) {
            let Ok(zone) = TimeZone::get(zone) else { return Ok(()) };
            let text = format!("{minutes} {hours} * * {weekdays}");
            let schedule = Schedule::parse(&text, zone.clone()).expect("a schedule");
            let Schedule::At(fields) = &schedule else { unreachable!() };
            let after = change.parse::<Timestamp>().expect("a time") + SignedDuration::from_secs(seconds);
            let first = after.as_second().div_euclid(60) + 1;
            let expected = (first..first + 9 * 24 * 60).map(|m| Timestamp::from_second(m * 60).expect("time")).find(|at| {
                let local = zone.to_datetime(*at);
                fields.matches_day(local.date()) && has(fields.hours, local.hour()) && has(fields.minutes, local.minute())
            });
            prop_assert_eq!(schedule.next(after), expected, "{} after {}", text, after);
        }
    }

    fn times(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let zone = if zone == "UTC" {
            TimeZone::UTC
        } else {
            TimeZone::get(zone).expect("a zone")
        };
        let schedule = Schedule::parse(text, zone.clone()).expect("a schedule");
        let mut at: Timestamp = after.parse().expect("a time");
        let mut found = Vec::new();
        for _ in 0..count {
            match schedule.next(at) {
                Some(next) => at = next,
                None => break,
            }
            found.push(zone.to_datetime(at).to_string());
        }
        found
    }

    #[test]
    fn times_that_schedules_name() {
        let check = |text: &str, after: &str, expected: &[&str]| {
            assert_eq!(times(text, "UTC", after, expected.len()), expected, "{text}");
        };
        check(
            "*/20 * * * *",
            "2026-01-01T00:05:10Z",
            &[
                "2026-01-01T00:20:00",
                "2026-01-01T00:40:00",
                "2026-01-01T01:00:00",
            ],
        );
        check(
            "30 4 * * mon-tue",
            "2026-01-01T00:00:00Z",
            &["2026-01-05T04:30:00", "2026-01-06T04:30:00"],
        );
        check(
            "0 0 13 * 5",
            "2026-01-01T00:00:00Z",
            &[
                "2026-01-02T00:00:00",
                "2026-01-09T00:00:00",
                "2026-01-13T00:00:00",
            ],
        );
        check("0 0 29 2 *", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00"]);
        check("@monthly", "2026-01-01T00:00:00Z", &["2026-02-01T00:00:00"]);
        check(
            "5/30 1,3 * * *",
            "2026-01-01T00:00:00Z",
            &[
                "2026-01-01T01:05:00",
                "2026-01-01T01:35:00",
                "2026-01-01T03:05:00",
            ],
        );
        check("@every 90m", "2026-01-01T00:00:00Z", &["2026-01-01T01:30:00"]);
        assert!(times("0 0 30 2 *", "UTC", "2026-01-01T00:00:00Z", 1).is_empty());
    }

    #[test]
    fn clocks_change() {
        if TimeZone::get("Europe/Berlin").is_err() {
            println!("skipped: no time zones on this machine");
            return;
        }
        let berlin = |text: &str, after: &str, count: usize| times(text, "Europe/Berlin", after, count);
        assert_eq!(
            berlin("30 2 * * *", "2026-03-28T12:00:00Z", 1),
            ["2026-03-30T02:30:00"],
            "half past two does not come on the day the clocks go forward"
        );
        let back = berlin("30 2 * * *", "2026-10-24T12:00:00Z", 2);
        assert_eq!(
            back,
            ["2026-10-25T02:30:00", "2026-10-25T02:30:00"],
            "and comes twice when they go back"
        );
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * * * 7",
            "a * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@sometimes",
        ] {
            assert!(Schedule::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
    }
}
