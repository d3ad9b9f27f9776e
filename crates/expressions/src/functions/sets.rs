//! The sets extension: lists taken as sets.

use super::{Effort, Function, function, is_list, no_overload};
use crate::types::Type;
use crate::value::Val;

fn two_lists(types: &[Type]) -> Option<Type> {
    (is_list(&types[0]) && is_list(&types[1]) && types[0].fits(&types[1])).then_some(Type::Bool)
}

pub(crate) const ALL: &[Function] = &[
    function("sets.contains", false, 2, two_lists, |a| {
        let (all, some) = both(a)?;
        Ok(Val::Bool(some.iter().all(|item| holds(&all, item))))
    })
    .costs(Effort::Product),
    function("sets.equivalent", false, 2, two_lists, |a| {
        let (x, y) = both(a)?;
        Ok(Val::Bool(
            x.iter().all(|item| holds(&y, item)) && y.iter().all(|item| holds(&x, item)),
        ))
    })
    .costs(Effort::Product),
    function("sets.intersects", false, 2, two_lists, |a| {
        let (x, y) = both(a)?;
        Ok(Val::Bool(x.iter().any(|item| holds(&y, item))))
    })
    .costs(Effort::Product),
];

type Items<'a> = Vec<Val<'a>>;

fn both<'a>(arguments: &[Val<'a>]) -> Result<(Items<'a>, Items<'a>), String> {
    let list = |at: usize| arguments[at].items().ok_or_else(no_overload);
    Ok((list(0)?, list(1)?))
}

fn holds(list: &[Val<'_>], item: &Val<'_>) -> bool {
    list.iter().any(|known| known.equals(item))
}
