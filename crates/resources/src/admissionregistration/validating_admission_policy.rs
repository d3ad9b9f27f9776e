//! ValidatingAdmissionPolicy, and what policies share.

use super::validating_webhook_configuration::{match_defaults, rule_scopes};
use crate::fields::fill;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct ValidatingAdmissionPolicy;

impl Strategy for ValidatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        policy_defaults(object);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Fills a policy's spec.
pub(super) fn policy_defaults(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    if let Some(map) = spec.as_object_mut() {
        fill(map, "failurePolicy", "Fail");
    }
    match_resources(spec.get_mut("matchConstraints"));
}

/// Fills the resources a policy or a binding is about.
pub(super) fn match_resources(resources: Option<&mut Value>) {
    let Some(resources) = resources else { return };
    if let Some(map) = resources.as_object_mut() {
        match_defaults(map);
    }
    rule_scopes(resources, "resourceRules");
    rule_scopes(resources, "excludeResourceRules");
}
