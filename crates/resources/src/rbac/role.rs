//! Role.

use crate::strategy::Strategy;
use machinery::names::path_segment_rule;

pub(crate) struct Role;

impl Strategy for Role {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        path_segment_rule(name, prefix)
    }
}
