//! The functions expressions may call: CEL's own, its extensions that Kubernetes turns on, and Kubernetes' libraries.
//!
//! A function is found by its name, by whether it is called on a value, and by the number of its arguments; the
//! types then choose among its overloads. One file a library, each with its list.

pub(crate) mod authorizer;
pub(crate) mod json_patch;
pub(crate) mod lists;
pub(crate) mod named_format;
pub(crate) mod net;
pub(crate) mod numbers;
pub(crate) mod optional;
pub(crate) mod quantity;
pub(crate) mod semver;
pub(crate) mod sets;
pub(crate) mod strings;
pub(crate) mod time;
pub(crate) mod url;

use crate::types::Type;
use crate::value::{Opaque, Val};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// A function, or all of its overloads.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    /// Called on its first argument.
    pub receiver: bool,
    /// Without the receiver.
    pub arguments: usize,
    /// The result's type, if the arguments' types fit.
    pub result: fn(&[Type]) -> Option<Type>,
    pub run: for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, String>,
    pub effort: Effort,
}

/// What a call costs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effort {
    One,
    /// So much, whatever the arguments.
    Fixed(u64),
    /// Reads its first argument once, character by character.
    ReadFirst,
    /// Reads all arguments.
    ReadAll,
    /// Looks at every item.
    Items,
    /// Reads the first argument as often as the second is long.
    Product,
}

pub(crate) const TYPE_NAMES: [&str; 16] = [
    "bool",
    "bytes",
    "double",
    "int",
    "uint",
    "string",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "optional_type",
    "net.IP",
    "net.CIDR",
];

const LISTS: [&[Function]; 13] = [
    authorizer::ALL,
    json_patch::ALL,
    lists::ALL,
    named_format::ALL,
    net::ALL,
    numbers::ALL,
    optional::ALL,
    quantity::ALL,
    semver::ALL,
    sets::ALL,
    strings::ALL,
    time::ALL,
    url::ALL,
];

type Key = (&'static str, bool, usize);

/// Made once and kept for good, so that programs may refer to functions.
static BY_NAME: LazyLock<HashMap<Key, &'static [&'static Function]>> = LazyLock::new(|| {
    let mut map: HashMap<Key, Vec<&'static Function>> = HashMap::new();
    for function in LISTS.iter().flat_map(|list| list.iter()) {
        let key = (function.name, function.receiver, function.arguments);
        map.entry(key).or_default().push(function);
    }
    map.into_iter().map(|(key, list)| (key, &*list.leak())).collect()
});

/// The functions of a name; several libraries may share one (`isLessThan` of quantities and of versions).
pub(crate) fn find(name: &str, receiver: bool, arguments: usize) -> Option<&'static [&'static Function]> {
    let by_name: &HashMap<(&str, bool, usize), &'static [&'static Function]> = &BY_NAME;
    by_name.get(&(name, receiver, arguments)).copied()
}

/// Those of some functions that fit these types, and the type of the result.
pub(crate) fn choose(
    functions: &[&'static Function],
    types: &[Type],
) -> Option<(Vec<&'static Function>, Type)> {
    let fitting: Vec<(&'static Function, Type)> = functions
        .iter()
        .filter_map(|function| Some((*function, (function.result)(types)?)))
        .collect();
    let (_, first) = fitting.first()?;
    let ty = fitting
        .iter()
        .fold(first.clone(), |ty, (_, other)| ty.join(other));
    Some((fitting.into_iter().map(|(function, _)| function).collect(), ty))
}

impl Function {
    /// What a call costs with arguments of these sizes.
    pub(crate) fn cost(&self, sizes: &[u64]) -> u64 {
        let first = sizes.first().copied().unwrap_or(1);
        let all = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
        let work = match self.effort {
            Effort::One => 0,
            Effort::Fixed(cost) => cost,
            Effort::ReadFirst => traversal(first),
            Effort::ReadAll => traversal(all),
            Effort::Items => first,
            Effort::Product => {
                let second = sizes.get(1).copied().unwrap_or(1);
                traversal(first).saturating_mul(traversal(second).max(1))
            }
        };
        work.saturating_add(1)
    }
}

/// Reading a text costs a tenth of its length.
pub(crate) fn traversal(size: u64) -> u64 {
    size.div_ceil(10)
}

/// A list entry with its usual parts.
pub(crate) const fn function(
    name: &'static str,
    receiver: bool,
    arguments: usize,
    result: fn(&[Type]) -> Option<Type>,
    run: for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, String>,
) -> Function {
    Function {
        name,
        receiver,
        arguments,
        result,
        run,
        effort: Effort::One,
    }
}

impl Function {
    pub(crate) const fn costs(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }
}

pub(crate) fn is_string(ty: &Type) -> bool {
    matches!(ty, Type::String(_) | Type::Dyn)
}

pub(crate) fn is_int(ty: &Type) -> bool {
    matches!(ty, Type::Int | Type::Dyn)
}

pub(crate) fn is_list(ty: &Type) -> bool {
    matches!(ty, Type::List(..) | Type::Dyn)
}

pub(crate) fn is_opaque(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Opaque(known) if *known == name) || ty.is_dyn()
}

/// The result of a function of texts.
pub(crate) fn texts(types: &[Type], result: Type) -> Option<Type> {
    types.iter().all(is_string).then_some(result)
}

pub(crate) fn str_at<'v>(arguments: &'v [Val<'_>], at: usize) -> Result<&'v str, String> {
    arguments.get(at).and_then(Val::as_str).ok_or_else(no_overload)
}

pub(crate) fn int_at(arguments: &[Val<'_>], at: usize) -> Result<i64, String> {
    arguments.get(at).and_then(Val::as_int).ok_or_else(no_overload)
}

pub(crate) fn no_overload() -> String {
    "no such overload".to_owned()
}

pub(crate) fn opaque<'a>(value: impl Opaque + 'static) -> Val<'a> {
    Val::Opaque(Arc::new(value))
}

/// Calls a function of an opaque value, whatever it is.
pub(crate) fn on_opaque<'a>(name: &str, arguments: &[Val<'a>]) -> Result<Val<'a>, String> {
    match arguments.split_first() {
        Some((Val::Opaque(value), rest)) => value.call(name, rest).unwrap_or_else(|| Err(no_overload())),
        _ => Err(no_overload()),
    }
}
