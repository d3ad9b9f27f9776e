//! Lists: Kubernetes' library, and the lists extension.

use super::{Effort, Function, function, int_at, is_int, is_list, no_overload};
use crate::types::Type;
use crate::value::Val;
use std::cmp::Ordering;

fn item(types: &[Type]) -> Option<Type> {
    is_list(&types[0]).then(|| types[0].item())
}

fn same(types: &[Type]) -> Option<Type> {
    is_list(&types[0]).then(|| types[0].clone())
}

fn index(types: &[Type]) -> Option<Type> {
    (is_list(&types[0]) && !matches!(types[0], Type::Dyn) || types[0].is_dyn())
        .then_some(Type::Int)
        .filter(|_| types[0].item().fits(&types[1]))
}

pub(crate) const ALL: &[Function] = &[
    function(
        "isSorted",
        true,
        0,
        |t| is_list(&t[0]).then_some(Type::Bool),
        |a| {
            let items = items(a)?;
            let sorted = items
                .windows(2)
                .all(|pair| pair[0].order(&pair[1]).is_some_and(Ordering::is_le));
            Ok(Val::Bool(sorted))
        },
    )
    .costs(Effort::Items),
    function("sum", true, 0, item, |a| {
        let items = items(a)?;
        let mut sum = match items.first() {
            None => return Ok(Val::Int(0)),
            Some(first) => first.clone(),
        };
        for item in &items[1..] {
            sum = super::numbers::add(&[sum, item.clone()])?;
        }
        Ok(sum)
    })
    .costs(Effort::Items),
    function("min", true, 0, item, |a| extreme(a, Ordering::Less)).costs(Effort::Items),
    function("max", true, 0, item, |a| extreme(a, Ordering::Greater)).costs(Effort::Items),
    function("indexOf", true, 1, index, |a| {
        let found = items(a)?.iter().position(|item| item.equals(&a[1]));
        Ok(Val::Int(found.map_or(-1, |at| at as i64)))
    })
    .costs(Effort::Items),
    function("lastIndexOf", true, 1, index, |a| {
        let found = items(a)?.iter().rposition(|item| item.equals(&a[1]));
        Ok(Val::Int(found.map_or(-1, |at| at as i64)))
    })
    .costs(Effort::Items),
    function(
        "slice",
        true,
        2,
        |t| (is_int(&t[1]) && is_int(&t[2])).then(|| same(t)).flatten(),
        |a| {
            let items = items(a)?;
            let (start, end) = (int_at(a, 1)?, int_at(a, 2)?);
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            match range.filter(|(start, end)| start <= end && *end <= items.len()) {
                Some((start, end)) => Ok(Val::list(items[start..end].to_vec())),
                None => Err(format!(
                    "cannot slice({start}, {end}), list is length {}",
                    items.len()
                )),
            }
        },
    )
    .costs(Effort::Items),
    function(
        "flatten",
        true,
        0,
        |t| is_list(&t[0]).then(|| Type::list(t[0].item().item())),
        |a| {
            let mut out = Vec::new();
            for item in items(a)? {
                match item.items() {
                    Some(inner) => out.extend(inner),
                    None => out.push(item),
                }
            }
            Ok(Val::list(out))
        },
    )
    .costs(Effort::Items),
    function("distinct", true, 0, same, |a| {
        let mut out: Vec<Val<'_>> = Vec::new();
        for item in items(a)? {
            if !out.iter().any(|known| known.equals(&item)) {
                out.push(item);
            }
        }
        Ok(Val::list(out))
    })
    .costs(Effort::Items),
    function(
        "reverse",
        true,
        0,
        |t| matches!(t[0], Type::List(..)).then(|| t[0].clone()),
        |a| Ok(Val::list(items(a)?.into_iter().rev().collect())),
    )
    .costs(Effort::Items),
    function("sort", true, 0, same, |a| {
        let mut items = items(a)?;
        items.sort_by(|a, b| a.order(b).unwrap_or(Ordering::Equal));
        Ok(Val::list(items))
    })
    .costs(Effort::Items),
    function(
        "lists.range",
        false,
        1,
        |t| is_int(&t[0]).then(|| Type::list(Type::Int)),
        |a| {
            let most = int_at(a, 0)?;
            // A range is materialised: no more than a list may hold.
            if most > 1_000_000 {
                return Err("range is too large".to_owned());
            }
            Ok(Val::list((0..most).map(Val::Int).collect()))
        },
    ),
];

fn items<'a>(arguments: &[Val<'a>]) -> Result<Vec<Val<'a>>, String> {
    arguments[0].items().ok_or_else(no_overload)
}

fn extreme<'a>(arguments: &[Val<'a>], wanted: Ordering) -> Result<Val<'a>, String> {
    let name = if wanted == Ordering::Less { "min" } else { "max" };
    let items = items(arguments)?;
    let mut best = items
        .first()
        .ok_or_else(|| format!("{name} called on empty list"))?
        .clone();
    for item in &items[1..] {
        if item.order(&best).ok_or_else(no_overload)? == wanted {
            best = item.clone();
        }
    }
    Ok(best)
}
