//! What webhooks and policies of admission must be.
//!
//! Expressions are judged as far as their text goes: that there is one. Whether it is a program of the expression
//! language is not looked at here.

mod conditions;
mod policies;
mod rules;
mod webhooks;

pub(super) use policies::{binding, mutating_binding, mutating_policy, policy_status, validating_policy};
pub(super) use webhooks::{Webhooks, configuration};

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
