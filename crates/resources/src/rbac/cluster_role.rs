//! ClusterRole.

use super::validation::{Reach, aggregation, rules};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::names::path_segment_rule;

pub(crate) struct ClusterRole;

const COLUMNS: [Column; 2] = [Column::NAME, Column::CREATED_AT];

impl Strategy for ClusterRole {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        path_segment_rule(name, prefix)
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules(object, Reach::Cluster, &mut errors);
        aggregation(object, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["metadata", "creationTimestamp"]),
        ]
    }
}
