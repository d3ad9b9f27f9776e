//! ValidatingAdmissionPolicy, and what policies share.

use super::validating_webhook_configuration::{match_defaults, rule_scopes};
use super::validation;
use crate::fields::{fill, list_at, text};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep, reset_metadata};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ValidatingAdmissionPolicy;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::number("Validations", "Number of validations."),
    Column::text("ParamKind", "What its parameters are."),
    Column::AGE,
];

impl Strategy for ValidatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        policy_defaults(object);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::validating_policy(object, None, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::validating_policy(new, Some(old), &mut errors);
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
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
        let count = list_at(object, &["spec", "validations"]).len() as i64;
        vec![
            table::name(object),
            count.into(),
            parameters.into(),
            table::age(object, now),
        ]
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

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        reset_metadata(new, old);
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::policy_status(new, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:metadata"], &["f:spec"]]
    }
}
