//! Expressions of conditions and policies.

use crate::At;
use expressions::Environment;
use expressions::admission::{Declared, Wanted, compile};
use machinery::Value;
use machinery::field::ErrorList;

/// Judges an expression, told as it was written.
pub(super) fn judge(
    environment: &Environment,
    text: &str,
    wanted: Wanted,
    at: &At<'_>,
    errors: &mut ErrorList,
) {
    if let Err(why) = compile(environment, text, wanted) {
        errors.push(at.invalid(text, why));
    }
}

/// The environments of a policy's expressions.
pub(super) struct Environments {
    /// Of validations, mutations and annotations, with the policy's variables.
    pub all: Environment,
    pub conditions: Environment,
    pub messages: Environment,
}

impl Environments {
    /// Those of a policy, whose variables are still to be defined.
    pub(super) fn new(spec: &Value) -> Self {
        let params = spec.get("paramKind").is_some_and(|kind| !kind.is_null());
        Self {
            all: Declared {
                params,
                authorizer: true,
            }
            .of_policy(),
            // Parameters are known here whether or not there is a kind of them.
            conditions: Declared {
                params: true,
                authorizer: true,
            }
            .environment(),
            messages: Declared {
                params: true,
                authorizer: false,
            }
            .of_policy(),
        }
    }
}
