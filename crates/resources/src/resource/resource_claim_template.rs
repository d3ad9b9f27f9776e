//! ResourceClaimTemplate.

use super::resource_claim::claim_spec;
use super::validation;
use crate::At;
use crate::check;
use crate::fields::entries;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ResourceClaimTemplate;

const COLUMNS: [Column; 2] = [Column::NAME, Column::AGE];

impl Strategy for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        claim_spec(object.get_path_mut(&["spec", "spec"]));
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let at = At::new("spec");
        if let Some(metadata) = spec.get("metadata") {
            let at = at.child("metadata");
            check::annotations(
                entries(metadata, "annotations"),
                &at.child("annotations"),
                &mut errors,
            );
            check::labels(entries(metadata, "labels"), &at.child("labels"), &mut errors);
            for (field, value) in metadata.as_object().into_iter().flatten() {
                if !matches!(field.as_str(), "annotations" | "labels") && !value.is_empty() {
                    errors.push(at.child(field).forbidden("cannot be set"));
                }
            }
        }
        let claim = spec.get("spec").unwrap_or(&Value::Null);
        validation::claim_spec(claim, &at.child("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(new.get("spec"), old.get("spec"), &At::new("spec"), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}
