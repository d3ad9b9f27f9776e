//! What webhooks and policies of admission must be.
//!
//! Expressions are compiled: what is none, or evaluates to something else than it must, is refused here.

mod conditions;
mod expressions;
mod policies;
mod rules;
mod webhooks;

pub(super) use policies::{binding, mutating_binding, mutating_policy, policy_status, validating_policy};
pub(crate) use webhooks::client_config;
pub(super) use webhooks::{Webhooks, configuration};

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
