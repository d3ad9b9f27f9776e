//! A container's own restart policy and rules.

use crate::At;
use crate::check;
use crate::fields::{list, present, text, text_at};
use machinery::Value;
use machinery::field::ErrorList;

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

/// Judges the policy of a regular container, or of an init container that has one.
pub(super) fn policy(container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let rules = list(container, "restartPolicyRules");
    match present(container, "restartPolicy").and_then(Value::as_str) {
        None if rules.is_empty() => return,
        None => errors.push(needed(at)),
        Some(policy) => check::one_of(policy, &POLICIES, &at.child("restartPolicy"), errors),
    }
    let at = at.child("restartPolicyRules");
    if rules.len() > MOST_RULES {
        errors.push(at.too_many(rules.len(), MOST_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        check::one_of(text(rule, "action"), &ACTIONS, &at.child("action"), errors);
        let codes = at.child("exitCodes");
        if present(rule, "exitCodes").is_none() {
            errors.push(codes.required("must be specified"));
            continue;
        }
        let operator = text_at(rule, &["exitCodes", "operator"]);
        check::one_of(operator, &["In", "NotIn"], &codes.child("operator"), errors);
        let count = list(rule.get("exitCodes").unwrap_or(&Value::Null), "values").len();
        if count > MOST_CODES {
            errors.push(codes.child("values").too_many(count, MOST_CODES));
        }
    }
}

/// Judges the policy of an init container.
pub(super) fn init_policy(container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if present(container, "restartPolicy").is_some() {
        policy(container, at, errors);
    } else if !list(container, "restartPolicyRules").is_empty() {
        errors.push(needed(at));
    }
}

fn needed(at: &At<'_>) -> machinery::field::Error {
    at.child("restartPolicy")
        .required("must specify restartPolicy when restart rules are used")
}
