//! Optional values, and `type` and `dyn`.

use super::{Function, function, no_overload};
use crate::types::Type;
use crate::value::Val;
use std::sync::Arc;

fn inner(ty: &Type) -> Option<Type> {
    match ty {
        Type::Optional(inner) => Some(Type::clone(inner)),
        Type::Dyn => Some(Type::Dyn),
        _ => None,
    }
}

pub(crate) const ALL: &[Function] = &[
    function(
        "optional.of",
        false,
        1,
        |t| Some(Type::Optional(Arc::new(t[0].clone()))),
        |a| Ok(Val::Optional(Some(Arc::new(a[0].clone())))),
    ),
    function(
        "optional.ofNonZeroValue",
        false,
        1,
        |t| Some(Type::Optional(Arc::new(t[0].clone()))),
        |a| Ok(Val::Optional((!is_zero(&a[0])).then(|| Arc::new(a[0].clone())))),
    ),
    function(
        "optional.none",
        false,
        0,
        |_| Some(Type::Optional(Arc::new(Type::Dyn))),
        |_| Ok(Val::Optional(None)),
    ),
    function(
        "hasValue",
        true,
        0,
        |t| inner(&t[0]).map(|_| Type::Bool),
        |a| match &a[0] {
            Val::Optional(value) => Ok(Val::Bool(value.is_some())),
            _ => Err(no_overload()),
        },
    ),
    function(
        "value",
        true,
        0,
        |t| inner(&t[0]),
        |a| match &a[0] {
            Val::Optional(Some(value)) => Ok(value.as_ref().clone()),
            Val::Optional(None) => Err("optional.none() dereference".to_owned()),
            _ => Err(no_overload()),
        },
    ),
    function(
        "or",
        true,
        1,
        |t| inner(&t[0]).map(|_| t[0].join(&t[1])),
        |a| match &a[0] {
            Val::Optional(Some(_)) => Ok(a[0].clone()),
            Val::Optional(None) => Ok(a[1].clone()),
            _ => Err(no_overload()),
        },
    ),
    function(
        "orValue",
        true,
        1,
        |t| inner(&t[0]).filter(|i| i.fits(&t[1])).map(|i| i.join(&t[1])),
        |a| match &a[0] {
            Val::Optional(Some(value)) => Ok(value.as_ref().clone()),
            Val::Optional(None) => Ok(a[1].clone()),
            _ => Err(no_overload()),
        },
    ),
    function(
        "type",
        false,
        1,
        |_| Some(Type::Type),
        |a| Ok(Val::Type(a[0].type_name().into())),
    ),
    function("dyn", false, 1, |_| Some(Type::Dyn), |a| Ok(a[0].clone())),
];

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) => true,
        Val::Double(number) => *number == 0.0,
        Val::Optional(value) => value.is_none(),
        other => other.size() == Some(0),
    }
}
