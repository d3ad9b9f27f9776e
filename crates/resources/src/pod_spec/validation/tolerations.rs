//! Tolerations and the effects of taints.

use crate::At;
use crate::check;
use crate::fields::{int, text};
use machinery::field::ErrorList;
use machinery::{Value, names};

/// Judges tolerations.
pub fn tolerations(tolerations: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = at.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            check::qualified(key, &at.child("key"), errors);
        } else if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(at.child("operator").invalid(operator, why));
        }
        if int(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(at.child("effect").invalid(effect, why));
        }
        let at_operator = at.child("operator");
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.push(at_operator.invalid(value, wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.push(at_operator.invalid(value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            "Lt" | "Gt" => errors.push(at_operator.not_supported(operator, &["Equal", "Exists", "Lt", "Gt"])),
            _ => errors.push(at_operator.not_supported(operator, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            taint_effect(effect, &at.child("effect"), errors);
        }
    }
}

/// The effect of a taint.
pub fn taint_effect(effect: &str, at: &At<'_>, errors: &mut ErrorList) {
    check::one_of(
        effect,
        &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        at,
        errors,
    );
}

/// An update may add tolerations, and change for how long they hold.
pub fn only_added(new: &[Value], old: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    const FIELDS: [&str; 4] = ["key", "operator", "value", "effect"];
    let same = |a: &Value, b: &Value| FIELDS.iter().all(|field| text(a, field) == text(b, field));
    if old.iter().any(|old| !new.iter().any(|new| same(new, old))) {
        errors.push(at.forbidden("existing toleration can not be modified except its tolerationSeconds"));
        return;
    }
    tolerations(new, at, errors);
}
