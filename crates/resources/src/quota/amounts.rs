//! Resource lists: quantities by name, and the arithmetic quotas and limits do with them.

use machinery::Value;
use machinery::quantity::{Format, Quantity};
use std::collections::BTreeMap;

/// Quantities by the name of what they are of.
pub type Amounts = BTreeMap<String, Quantity>;

/// A resource list as it stands in an object. What is no quantity was refused long before, and is skipped.
pub fn read(list: Option<&Value>) -> Amounts {
    let fields = list.and_then(Value::as_object);
    fields
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.to_string(), amount.as_str()?.parse().ok()?)))
        .collect()
}

/// The names in a resource list.
pub fn names(list: Option<&Value>) -> impl Iterator<Item = &str> {
    let fields = list.and_then(Value::as_object);
    fields.into_iter().flatten().map(|(name, _)| name.as_str())
}

pub fn to_value(amounts: &Amounts) -> Value {
    Value::Object(
        amounts
            .iter()
            .map(|(name, amount)| (name.as_str(), Value::from(amount.to_string())))
            .collect(),
    )
}

/// A number of things.
pub fn count(number: i64) -> Quantity {
    Quantity::from_units(number, Format::DecimalSi)
}

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        to.entry(name.clone())
            .and_modify(|sum| *sum = *sum + *amount)
            .or_insert(*amount);
    }
}

/// Raises every amount to at least that of `other`.
pub fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let highest = to.entry(name.clone()).or_insert(*amount);
        if *amount > *highest {
            *highest = *amount;
        }
    }
}

/// What `new` has more than `old`; what it has less counts as nothing.
pub fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let grown = |(name, amount): (&String, &Quantity)| {
        let before = old.get(name).copied().unwrap_or(Quantity::ZERO);
        let more = *amount - before;
        let more = if more.sign() < 0 {
            Quantity::from_units(0, amount.format())
        } else {
            more
        };
        (name.clone(), more)
    };
    let mut grown: Amounts = new.iter().map(grown).collect();
    for (name, amount) in old {
        grown
            .entry(name.clone())
            .or_insert(Quantity::from_units(0, amount.format()));
    }
    grown
}

/// Only the amounts whose names are accepted.
pub fn mask(amounts: &Amounts, accepts: impl Fn(&str) -> bool) -> Amounts {
    amounts
        .iter()
        .filter(|(name, _)| accepts(name))
        .map(|(name, amount)| (name.clone(), *amount))
        .collect()
}

/// `cpu=1,memory=1Gi`
pub fn pretty(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(name, q)| format!("{name}={q}")).collect();
    parts.join(",")
}
