//! ValidatingAdmissionPolicy, and what policies share.

use super::validating_webhook_configuration::{match_defaults, rule_scopes};
use crate::fields::{fill, list_at, text};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

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
