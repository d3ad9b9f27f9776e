//! `semver("1.2.3")` and its functions.

use super::{Function, function, is_opaque, is_string, no_overload, on_opaque, opaque, str_at, texts};
use crate::types::Type;
use crate::value::{Opaque, Val};
use std::cmp::Ordering;

pub(crate) const NAME: &str = "kubernetes.Semver";

/// A version: three numbers, what comes before the release, and what was built.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    before: Vec<String>,
    build: String,
}

fn of_two(types: &[Type], result: Type) -> Option<Type> {
    (is_opaque(&types[0], NAME) && is_opaque(&types[1], NAME)).then_some(result)
}

fn number(types: &[Type]) -> Option<Type> {
    is_opaque(&types[0], NAME).then_some(Type::Int)
}

fn text_and_flag(types: &[Type], result: Type) -> Option<Type> {
    (is_string(&types[0]) && matches!(types[1], Type::Bool | Type::Dyn)).then_some(result)
}

pub(crate) const ALL: &[Function] = &[
    function(
        "semver",
        false,
        1,
        |t| texts(t, Type::Opaque(NAME)),
        |a| parse(str_at(a, 0)?, false).map(opaque),
    ),
    function(
        "semver",
        false,
        2,
        |t| text_and_flag(t, Type::Opaque(NAME)),
        |a| parse(str_at(a, 0)?, a[1].as_bool().ok_or_else(no_overload)?).map(opaque),
    ),
    function(
        "isSemver",
        false,
        1,
        |t| texts(t, Type::Bool),
        |a| Ok(Val::Bool(parse(str_at(a, 0)?, false).is_ok())),
    ),
    function(
        "isSemver",
        false,
        2,
        |t| text_and_flag(t, Type::Bool),
        |a| {
            Ok(Val::Bool(
                parse(str_at(a, 0)?, a[1].as_bool().ok_or_else(no_overload)?).is_ok(),
            ))
        },
    ),
    function(
        "isGreaterThan",
        true,
        1,
        |t| of_two(t, Type::Bool),
        |a| on_opaque("isGreaterThan", a),
    ),
    function(
        "isLessThan",
        true,
        1,
        |t| of_two(t, Type::Bool),
        |a| on_opaque("isLessThan", a),
    ),
    function(
        "compareTo",
        true,
        1,
        |t| of_two(t, Type::Int),
        |a| on_opaque("compareTo", a),
    ),
    function("major", true, 0, number, |a| on_opaque("major", a)),
    function("minor", true, 0, number, |a| on_opaque("minor", a)),
    function("patch", true, 0, number, |a| on_opaque("patch", a)),
];

/// With `normalize` a leading `v`, missing numbers and leading zeros are forgiven.
/// A version as a value.
pub(crate) fn version<'a>(text: &str) -> Result<Val<'a>, String> {
    parse(text, false).map(opaque)
}

fn parse(text: &str, normalize: bool) -> Result<Version, String> {
    let wrong = || format!("invalid semver: {text}");
    let rest = if normalize {
        text.strip_prefix('v').unwrap_or(text)
    } else {
        text
    };
    let (rest, build) = rest.split_once('+').unwrap_or((rest, ""));
    let (core, before) = rest.split_once('-').unwrap_or((rest, ""));
    let mut numbers = [0; 3];
    let parts: Vec<&str> = core.split('.').collect();
    if parts.len() > 3 || parts.len() < 3 && !normalize {
        return Err(wrong());
    }
    for (number, part) in numbers.iter_mut().zip(&parts) {
        let zero = part.len() > 1 && part.starts_with('0') && !normalize;
        if zero || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        *number = part.parse().map_err(|_| wrong())?;
    }
    let identifier =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let listed = |list: &str, given: bool| !given || list.split('.').all(identifier);
    if !listed(before, rest.contains('-')) || !listed(build, text.contains('+')) {
        return Err(wrong());
    }
    Ok(Version {
        numbers,
        before: before
            .split('.')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect(),
        build: build.to_owned(),
    })
}

impl Version {
    fn order(&self, other: &Self) -> Ordering {
        let before = match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            // The release comes after what came before it.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self.before.iter().zip(&other.before).map(|(a, b)| {
                    match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => a.cmp(b),
                    }
                });
                let mut parts = parts;
                parts
                    .find(|order| order.is_ne())
                    .unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then(before)
    }
}

impl Opaque for Version {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let number = |at: usize| Some(Ok(Val::Int(i64::try_from(self.numbers[at]).unwrap_or(i64::MAX))));
        let order = || match arguments {
            [Val::Opaque(value)] if value.type_name() == NAME => {
                parse(&value.text(), false).map(|other| self.order(&other))
            }
            _ => Err(no_overload()),
        };
        match name {
            "major" => number(0),
            "minor" => number(1),
            "patch" => number(2),
            "isGreaterThan" => Some(order().map(|order| Val::Bool(order.is_gt()))),
            "isLessThan" => Some(order().map(|order| Val::Bool(order.is_lt()))),
            "compareTo" => Some(order().map(|order| Val::Int(order as i64))),
            _ => None,
        }
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        parse(&other.text(), false).is_ok_and(|other| self.order(&other).is_eq())
    }

    fn text(&self) -> String {
        let [major, minor, patch] = self.numbers;
        let mut out = format!("{major}.{minor}.{patch}");
        if !self.before.is_empty() {
            out.push_str(&format!("-{}", self.before.join(".")));
        }
        if !self.build.is_empty() {
            out.push_str(&format!("+{}", self.build));
        }
        out
    }
}
