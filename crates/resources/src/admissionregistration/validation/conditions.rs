//! Conditions that a request must meet, by name.

use crate::At;
use crate::check;
use crate::fields::text;
use machinery::Value;
use machinery::field::ErrorList;

const MOST: usize = 64;

/// Judges every condition.
pub(super) fn conditions(conditions: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    if conditions.len() > MOST {
        errors.push(at.too_many(conditions.len(), MOST));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        if text(condition, "expression").trim().is_empty() {
            errors.push(at.child("expression").required(""));
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
