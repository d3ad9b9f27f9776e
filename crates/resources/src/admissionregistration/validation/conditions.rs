//! Conditions that a request must meet, by name.

use super::expressions::judge;
use crate::At;
use crate::check;
use crate::fields::text;
use ::expressions::Environment;
use ::expressions::admission::Wanted;
use machinery::Value;
use machinery::field::ErrorList;

const MOST: usize = 64;

/// Judges every condition.
pub(super) fn conditions(
    conditions: &[Value],
    environment: &Environment,
    at: &At<'_>,
    errors: &mut ErrorList,
) {
    if conditions.len() > MOST {
        errors.push(at.too_many(conditions.len(), MOST));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        let expression = text(condition, "expression");
        if expression.trim().is_empty() {
            errors.push(at.child("expression").required(""));
        } else {
            judge(
                environment,
                expression,
                Wanted::Flag,
                &at.child("expression"),
                errors,
            );
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.push(at.child("name").required(""));
            continue;
        }
        check::qualified(name, &at.child("name"), errors);
        if conditions[..index]
            .iter()
            .any(|other| text(other, "name") == name)
        {
            errors.push(at.child("name").duplicate(name));
        }
    }
}
