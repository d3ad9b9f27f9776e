//! Conditions of the shape all newer kinds share (`metav1.Condition`).

use crate::At;
use crate::check;
use crate::fields::{int, text};
use machinery::Value;
use machinery::field::ErrorList;

const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32 * 1024;

/// Judges every condition; no two are of a type.
pub(crate) fn conditions(conditions: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        let kind = text(condition, "type");
        if conditions[..index]
            .iter()
            .any(|other| text(other, "type") == kind)
        {
            errors.push(at.child("type").duplicate(kind));
        }
        one(condition, kind, &at, errors);
    }
}

fn one(condition: &Value, kind: &str, at: &At<'_>, errors: &mut ErrorList) {
    check::qualified(kind, &at.child("type"), errors);
    let statuses = ["False", "True", "Unknown"];
    check::one_of(text(condition, "status"), &statuses, &at.child("status"), errors);
    if let Some(generation) = int(condition, "observedGeneration").filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to zero";
        errors.push(at.child("observedGeneration").invalid(generation, why));
    }
    if text(condition, "lastTransitionTime").is_empty() {
        errors.push(at.child("lastTransitionTime").required(""));
    }
    let reason = text(condition, "reason");
    let here = at.child("reason");
    if reason.is_empty() {
        errors.push(here.required(""));
    } else {
        if !is_reason(reason) {
            let why = "a condition reason must start with alphabetic character, optionally followed by a string of \
                       alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                       'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex \
                       used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
            errors.push(here.invalid(reason, why));
        }
        if reason.len() > LONGEST_REASON {
            errors.push(here.too_long(LONGEST_REASON as i64));
        }
    }
    if text(condition, "message").len() > LONGEST_MESSAGE {
        errors.push(at.child("message").too_long(LONGEST_MESSAGE as i64));
    }
}

fn is_reason(reason: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(word)
        && reason.chars().all(|c| word(c) || matches!(c, ',' | ':'))
}
