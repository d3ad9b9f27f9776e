//! RoleBinding, and what it shares with ClusterRoleBinding.

use crate::fields::{fill_text, list_mut, text};
use crate::strategy::Strategy;
use machinery::Value;
use machinery::names::path_segment_rule;

pub(crate) struct RoleBinding;

impl Strategy for RoleBinding {
    fn default(&self, object: &mut Value) {
        binding_defaults(object);
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        path_segment_rule(name, prefix)
    }
}

/// Fills the groups of the role and of users and groups of users.
pub(super) fn binding_defaults(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef").and_then(Value::as_object_mut) {
        fill_text(role, "apiGroup", super::GROUP);
    }
    for subject in list_mut(object, "subjects") {
        let named = matches!(text(subject, "kind"), "User" | "Group");
        if let Some(subject) = subject.as_object_mut().filter(|_| named) {
            fill_text(subject, "apiGroup", super::GROUP);
        }
    }
}
