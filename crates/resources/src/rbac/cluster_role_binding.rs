//! ClusterRoleBinding.

use super::role_binding::{COLUMNS, binding_defaults, binding_row};
use crate::strategy::{Column, Strategy};
use jiff::Timestamp;
use machinery::Value;
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

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        binding_row(object, now)
    }
}
