//! ValidatingAdmissionPolicyBinding.

use super::validating_admission_policy::match_resources;
use super::validation;
use crate::KindInfo;
use crate::fields::text;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ValidatingAdmissionPolicyBinding;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("PolicyName", "The policy it binds."),
    Column::text("ParamRef", "The parameters it is bound with."),
    Column::AGE,
];

impl Strategy for ValidatingAdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        match_resources(object.get_path_mut(&["spec", "matchResources"]));
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::binding(object, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["spec", "policyName"]),
            parameters(object).into(),
            table::age(object, now),
        ]
    }
}

/// Which parameters a binding names.
pub(super) fn parameters(binding: &Value) -> String {
    let Some(reference) = binding.get_path(&["spec", "paramRef"]) else {
        return table::UNSET.to_owned();
    };
    match (text(reference, "name"), text(reference, "namespace")) {
        ("", _) => reference
            .get("selector")
            .map_or(table::UNSET.to_owned(), |s| table::selector_text(Some(s))),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}
