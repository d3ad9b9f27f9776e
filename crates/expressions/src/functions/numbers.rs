//! Arithmetic, order, conversions, and the math extension. Overflow is an error, never a wrong number.

use super::{Effort, Function, function, no_overload};
use crate::types::{Type, UNBOUNDED};
use crate::value::Val;
use std::cmp::Ordering;
use std::sync::Arc;

fn number(ty: &Type) -> bool {
    matches!(ty, Type::Int | Type::Uint | Type::Double | Type::Dyn)
}

/// The result of an operator on two numbers of one kind.
fn arithmetic(types: &[Type]) -> Option<Type> {
    let (a, b) = (&types[0], &types[1]);
    (number(a) && number(b) && a.fits(b)).then(|| match (a, b) {
        // One side that is known leaves no choice for the other.
        (Type::Dyn, known) | (known, Type::Dyn) => known.clone(),
        _ => a.join(b),
    })
}

fn sum(types: &[Type]) -> Option<Type> {
    match (&types[0], &types[1]) {
        (Type::String(a), Type::String(b)) => Some(Type::String(a.saturating_add(*b))),
        (Type::Bytes(a), Type::Bytes(b)) => Some(Type::Bytes(a.saturating_add(*b))),
        (Type::List(a, n), Type::List(b, m)) if a.fits(b) => {
            Some(Type::List(a.join(b).into(), n.saturating_add(*m)))
        }
        (Type::Duration, Type::Timestamp) | (Type::Timestamp, Type::Duration) => Some(Type::Timestamp),
        (Type::Duration, Type::Duration) => Some(Type::Duration),
        (Type::Dyn, Type::Dyn | Type::Duration) | (Type::Duration, Type::Dyn) => Some(Type::Dyn),
        (Type::Dyn, Type::String(_)) | (Type::String(_), Type::Dyn) => Some(Type::string()),
        (Type::Dyn, Type::Bytes(_)) | (Type::Bytes(_), Type::Dyn) => Some(Type::Bytes(UNBOUNDED)),
        (Type::Dyn, Type::List(item, _)) | (Type::List(item, _), Type::Dyn) => {
            Some(Type::List(Arc::clone(item), UNBOUNDED))
        }
        (Type::Dyn, Type::Timestamp) | (Type::Timestamp, Type::Dyn) => Some(Type::Timestamp),
        _ => arithmetic(types),
    }
}

fn difference(types: &[Type]) -> Option<Type> {
    match (&types[0], &types[1]) {
        (Type::Timestamp, Type::Timestamp) | (Type::Duration, Type::Duration) => Some(Type::Duration),
        (Type::Timestamp, Type::Duration) => Some(Type::Timestamp),
        (Type::Dyn, Type::Dyn | Type::Duration | Type::Timestamp) | (Type::Timestamp, Type::Dyn) => {
            Some(Type::Dyn)
        }
        (Type::Duration, Type::Dyn) => Some(Type::Duration),
        _ => arithmetic(types),
    }
}

fn ordered(types: &[Type]) -> Option<Type> {
    let (a, b) = (&types[0], &types[1]);
    let fits = match a {
        Type::Bool | Type::String(_) | Type::Bytes(_) | Type::Timestamp | Type::Duration => a.fits(b),
        Type::Int | Type::Uint | Type::Double => number(b),
        Type::Dyn => true,
        _ => false,
    };
    fits.then_some(Type::Bool)
}

fn convertible(types: &[Type], result: Type) -> Option<Type> {
    matches!(
        types[0],
        Type::Int | Type::Uint | Type::Double | Type::String(_) | Type::Timestamp | Type::Dyn
    )
    .then_some(result)
}

pub(crate) const ALL: &[Function] = &[
    function("_+_", false, 2, sum, add).costs(Effort::ReadAll),
    function("_-_", false, 2, difference, subtract),
    function("_*_", false, 2, arithmetic, |a| {
        whole(a, i64::checked_mul, u64::checked_mul, |x, y| x * y, "")
    }),
    function("_/_", false, 2, arithmetic, |a| {
        whole(
            a,
            i64::checked_div,
            u64::checked_div,
            |x, y| x / y,
            "division by zero",
        )
    }),
    function(
        "_%_",
        false,
        2,
        |t| arithmetic(t).filter(|t| !matches!(t, Type::Double)),
        |a| {
            whole(
                a,
                i64::checked_rem,
                u64::checked_rem,
                |_, _| f64::NAN,
                "modulus by zero",
            )
        },
    ),
    function(
        "-_",
        false,
        1,
        |t| number(&t[0]).then(|| t[0].clone()),
        |a| match &a[0] {
            Val::Int(number) => number.checked_neg().map(Val::Int).ok_or_else(overflow),
            Val::Double(number) => Ok(Val::Double(-number)),
            _ => Err(no_overload()),
        },
    ),
    function("_<_", false, 2, ordered, |a| compare(a, Ordering::is_lt)),
    function("_<=_", false, 2, ordered, |a| compare(a, Ordering::is_le)),
    function("_>_", false, 2, ordered, |a| compare(a, Ordering::is_gt)),
    function("_>=_", false, 2, ordered, |a| compare(a, Ordering::is_ge)),
    function(
        "int",
        false,
        1,
        |t| convertible(t, Type::Int),
        |a| match &a[0] {
            Val::Int(_) => Ok(a[0].clone()),
            Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| range("int")),
            // The bounds are the nearest numbers a double can hold.
            Val::Double(number) if number.abs() < 9_223_372_036_854_775_807.0 => {
                Ok(Val::Int(number.trunc() as i64))
            }
            Val::Double(_) => Err(range("int")),
            Val::Text(text) => text
                .parse()
                .map(Val::Int)
                .map_err(|_| conversion("string", "int")),
            Val::Time(time) => Ok(Val::Int(time.as_second())),
            _ => Err(no_overload()),
        },
    ),
    function(
        "uint",
        false,
        1,
        |t| convertible(t, Type::Uint),
        |a| match &a[0] {
            Val::Uint(_) => Ok(a[0].clone()),
            Val::Int(number) => u64::try_from(*number).map(Val::Uint).map_err(|_| range("uint")),
            Val::Double(number) if (0.0..18_446_744_073_709_551_615.0).contains(number) => {
                Ok(Val::Uint(number.trunc() as u64))
            }
            Val::Double(_) => Err(range("uint")),
            Val::Text(text) => text
                .parse()
                .map(Val::Uint)
                .map_err(|_| conversion("string", "uint")),
            _ => Err(no_overload()),
        },
    ),
    function(
        "double",
        false,
        1,
        |t| convertible(t, Type::Double),
        |a| match &a[0] {
            Val::Double(_) => Ok(a[0].clone()),
            Val::Int(number) => Ok(Val::Double(*number as f64)),
            Val::Uint(number) => Ok(Val::Double(*number as f64)),
            Val::Text(text) => text
                .parse()
                .map(Val::Double)
                .map_err(|_| conversion("string", "double")),
            _ => Err(no_overload()),
        },
    ),
    function(
        "bool",
        false,
        1,
        |t| matches!(t[0], Type::Bool | Type::String(_) | Type::Dyn).then_some(Type::Bool),
        |a| match &a[0] {
            Val::Bool(_) => Ok(a[0].clone()),
            Val::Text(text) => match text.as_ref() {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Val::Bool(true)),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Val::Bool(false)),
                _ => Err(conversion("string", "bool")),
            },
            _ => Err(no_overload()),
        },
    ),
    function("math.greatest", false, 2, arithmetic, |a| {
        chosen(a, Ordering::is_ge)
    }),
    function("math.least", false, 2, arithmetic, |a| chosen(a, Ordering::is_le)),
    function(
        "math.abs",
        false,
        1,
        |t| number(&t[0]).then(|| t[0].clone()),
        |a| match &a[0] {
            Val::Int(number) => number.checked_abs().map(Val::Int).ok_or_else(overflow),
            Val::Double(number) => Ok(Val::Double(number.abs())),
            Val::Uint(_) => Ok(a[0].clone()),
            _ => Err(no_overload()),
        },
    ),
];

pub(crate) fn add<'a>(a: &[Val<'a>]) -> Result<Val<'a>, String> {
    match (&a[0], &a[1]) {
        (Val::Text(x), Val::Text(y)) => Ok(Val::text(format!("{x}{y}"))),
        (Val::Bytes(x), Val::Bytes(y)) => Ok(Val::Bytes([&x[..], &y[..]].concat().into())),
        (Val::Duration(x), Val::Duration(y)) => x.checked_add(*y).map(Val::Duration).ok_or_else(overflow),
        (Val::Time(x), Val::Duration(y)) | (Val::Duration(y), Val::Time(x)) => {
            x.checked_add(*y).map(Val::Time).map_err(|_| overflow())
        }
        (x, y) => match (x.items(), y.items()) {
            (Some(mut x), Some(y)) => {
                x.extend(y);
                Ok(Val::list(x))
            }
            _ => whole(a, i64::checked_add, u64::checked_add, |x, y| x + y, ""),
        },
    }
}

fn subtract<'a>(a: &[Val<'a>]) -> Result<Val<'a>, String> {
    match (&a[0], &a[1]) {
        (Val::Duration(x), Val::Duration(y)) => x.checked_sub(*y).map(Val::Duration).ok_or_else(overflow),
        (Val::Time(x), Val::Duration(y)) => x.checked_sub(*y).map(Val::Time).map_err(|_| overflow()),
        (Val::Time(x), Val::Time(y)) => Ok(Val::Duration(x.duration_since(*y))),
        _ => whole(a, i64::checked_sub, u64::checked_sub, |x, y| x - y, ""),
    }
}

/// An operator on two numbers of one kind; `by_zero` is said when the second is zero and that is why it failed.
fn whole<'a>(
    a: &[Val<'a>],
    int: fn(i64, i64) -> Option<i64>,
    uint: fn(u64, u64) -> Option<u64>,
    double: fn(f64, f64) -> f64,
    by_zero: &str,
) -> Result<Val<'a>, String> {
    let failed = |zero: bool| {
        if zero && !by_zero.is_empty() {
            by_zero.to_owned()
        } else {
            overflow()
        }
    };
    match (&a[0], &a[1]) {
        (Val::Int(x), Val::Int(y)) => int(*x, *y).map(Val::Int).ok_or_else(|| failed(*y == 0)),
        (Val::Uint(x), Val::Uint(y)) => uint(*x, *y).map(Val::Uint).ok_or_else(|| failed(*y == 0)),
        (Val::Double(x), Val::Double(y)) => Ok(Val::Double(double(*x, *y))),
        _ => Err(no_overload()),
    }
}

fn compare<'a>(a: &[Val<'a>], holds: fn(Ordering) -> bool) -> Result<Val<'a>, String> {
    a[0].order(&a[1])
        .map(|order| Val::Bool(holds(order)))
        .ok_or_else(no_overload)
}

fn chosen<'a>(a: &[Val<'a>], first: fn(Ordering) -> bool) -> Result<Val<'a>, String> {
    let order = a[0].order(&a[1]).ok_or_else(no_overload)?;
    Ok(a[usize::from(!first(order))].clone())
}

fn overflow() -> String {
    "integer overflow".to_owned()
}

fn range(ty: &str) -> String {
    format!("{ty} conversion: range error")
}

fn conversion(from: &str, to: &str) -> String {
    format!("type conversion error from '{from}' to '{to}'")
}
