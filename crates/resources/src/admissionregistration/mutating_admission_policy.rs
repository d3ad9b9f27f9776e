//! MutatingAdmissionPolicy.

use super::validating_admission_policy::policy_defaults;
use super::validation;
use crate::KindInfo;
use crate::fields::{list_at, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct MutatingAdmissionPolicy;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::number("Mutations", "Number of mutations."),
    Column::text("ParamKind", "What its parameters are."),
    Column::AGE,
];

impl Strategy for MutatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        policy_defaults(object);
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::mutating_policy(object, None, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::mutating_policy(new, Some(old), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let parameters = object
            .get_path(&["spec", "paramKind"])
            .map_or(table::UNSET.to_owned(), |kind| {
                format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind"))
            });
        let count = list_at(object, &["spec", "mutations"]).len() as i64;
        vec![
            table::name(object),
            count.into(),
            parameters.into(),
            table::age(object, now),
        ]
    }
}
