//! `quantity("1Gi")` and its functions.

use super::{Function, function, is_opaque, is_string, no_overload, on_opaque, opaque, str_at, texts};
use crate::types::Type;
use crate::value::{Opaque, Val};
use machinery::quantity::{Format, Quantity};

pub(crate) const NAME: &str = "kubernetes.Quantity";

#[derive(Debug)]
struct Value(Quantity);

/// A quantity as a value.
pub(crate) fn value<'a>(quantity: Quantity) -> Val<'a> {
    opaque(Value(quantity))
}

type Run = for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, String>;

const fn two(name: &'static str, result: fn(&[Type]) -> Option<Type>, run: Run) -> Function {
    function(name, true, 1, result, run)
}

fn of_two(types: &[Type], result: Type) -> Option<Type> {
    (is_opaque(&types[0], NAME) && is_opaque(&types[1], NAME)).then_some(result)
}

fn of_one(types: &[Type], result: Type) -> Option<Type> {
    is_opaque(&types[0], NAME).then_some(result)
}

fn with_number(types: &[Type]) -> Option<Type> {
    let other = is_opaque(&types[1], NAME) || matches!(types[1], Type::Int);
    (is_opaque(&types[0], NAME) && other).then_some(Type::Opaque(NAME))
}

pub(crate) const ALL: &[Function] = &[
    function(
        "quantity",
        false,
        1,
        |t| texts(t, Type::Opaque(NAME)),
        |a| {
            str_at(a, 0)?
                .parse()
                .map(|q| opaque(Value(q)))
                .map_err(|e: machinery::quantity::ParseError| e.to_string())
        },
    ),
    function(
        "isQuantity",
        false,
        1,
        |t| is_string(&t[0]).then_some(Type::Bool),
        |a| Ok(Val::Bool(str_at(a, 0)?.parse::<Quantity>().is_ok())),
    ),
    two(
        "isGreaterThan",
        |t| of_two(t, Type::Bool),
        |a| on_opaque("isGreaterThan", a),
    ),
    two(
        "isLessThan",
        |t| of_two(t, Type::Bool),
        |a| on_opaque("isLessThan", a),
    ),
    two(
        "compareTo",
        |t| of_two(t, Type::Int),
        |a| on_opaque("compareTo", a),
    ),
    two("add", with_number, |a| on_opaque("add", a)),
    two("sub", with_number, |a| on_opaque("sub", a)),
    function(
        "sign",
        true,
        0,
        |t| of_one(t, Type::Int),
        |a| on_opaque("sign", a),
    ),
    function(
        "isInteger",
        true,
        0,
        |t| of_one(t, Type::Bool),
        |a| on_opaque("isInteger", a),
    ),
    function(
        "asInteger",
        true,
        0,
        |t| of_one(t, Type::Int),
        |a| on_opaque("asInteger", a),
    ),
    function(
        "asApproximateFloat",
        true,
        0,
        |t| of_one(t, Type::Double),
        |a| on_opaque("asApproximateFloat", a),
    ),
];

impl Value {
    fn integer(&self) -> Option<i64> {
        let whole = self.0.value();
        // What is larger than can be counted is told as the largest number.
        let fits = whole != i64::MAX && whole != i64::MIN;
        (fits && Quantity::from_units(whole, self.0.format()) == self.0).then_some(whole)
    }
}

fn other(arguments: &[Val<'_>]) -> Result<Quantity, String> {
    match arguments {
        [Val::Opaque(value)] if value.type_name() == NAME => value.text().parse().map_err(|_| no_overload()),
        [Val::Int(number)] => Ok(Quantity::from_units(*number, Format::DecimalSi)),
        _ => Err(no_overload()),
    }
}

impl Opaque for Value {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>> {
        let with = |then: &dyn Fn(Quantity) -> Val<'a>| Some(other(arguments).map(then));
        match name {
            "isGreaterThan" => with(&|q| Val::Bool(self.0 > q)),
            "isLessThan" => with(&|q| Val::Bool(self.0 < q)),
            "compareTo" => with(&|q| Val::Int(self.0.cmp(&q) as i64)),
            "add" => with(&|q| opaque(Self(self.0 + q))),
            "sub" => with(&|q| opaque(Self(self.0 - q))),
            "sign" => Some(Ok(Val::Int(self.0.sign().into()))),
            "isInteger" => Some(Ok(Val::Bool(self.integer().is_some()))),
            "asInteger" => Some(
                self.integer()
                    .map(Val::Int)
                    .ok_or_else(|| "cannot convert value to integer".to_owned()),
            ),
            "asApproximateFloat" => Some(Ok(Val::Double(self.0.as_f64()))),
            _ => None,
        }
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other
            .text()
            .parse::<Quantity>()
            .is_ok_and(|other| other == self.0)
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}
