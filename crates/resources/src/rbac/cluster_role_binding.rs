//! ClusterRoleBinding.

use super::role_binding::{COLUMNS, binding_defaults, binding_row};
use super::validation::{Reach, binding, same_role};
use crate::strategy::{Column, Context, Strategy};
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::names::path_segment_rule;

pub(crate) struct ClusterRoleBinding;

impl Strategy for ClusterRoleBinding {
    fn default(&self, object: &mut Value) {
        binding_defaults(object);
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        path_segment_rule(name, prefix)
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        binding(object, Reach::Cluster, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        same_role(new, old, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        binding_row(object, now)
    }
}
