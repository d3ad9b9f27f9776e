//! ResourceClaim.

use super::validation;
use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::{fill_number, fill_text, list_at, list_mut, object_mut};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep, reset_metadata};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Map, Value};

pub(crate) struct ResourceClaim;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("State", "How the claim stands."),
    Column::AGE,
];

impl Strategy for ResourceClaim {
    fn default(&self, object: &mut Value) {
        claim_spec(object.get_mut("spec"));
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validation::claim_spec(spec, &At::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(new.get("spec"), old.get("spec"), &At::new("spec"), &mut errors);
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
        let deleted = machinery::meta::deletion_timestamp(object).is_some();
        let allocated = object
            .get_path(&["status", "allocation"])
            .is_some_and(|value| !value.is_null());
        let reserved = allocated && !list_at(object, &["status", "reservedFor"]).is_empty();
        let states = [
            (deleted, "deleted"),
            (!allocated && !deleted, "pending"),
            (allocated, "allocated"),
            (reserved, "reserved"),
        ];
        let state = table::join(states.iter().filter(|(is, _)| *is).map(|(_, state)| *state), ",");
        vec![table::name(object), state.into(), table::age(object, now)]
    }
}

/// Fills a claim's spec, or a template's.
pub(super) fn claim_spec(spec: Option<&mut Value>) {
    let Some(devices) = spec.and_then(|spec| spec.get_mut("devices")) else {
        return;
    };
    for request in list_mut(devices, "requests") {
        if let Some(exact) = object_mut(request, "exactly") {
            device_request(exact);
        }
        for alternative in list_mut(request, "firstAvailable") {
            if let Some(alternative) = alternative.as_object_mut() {
                device_request(alternative);
            }
        }
    }
}

fn device_request(request: &mut Map) {
    fill_text(request, "allocationMode", "ExactCount");
    if request.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        fill_number(request, "count", 1);
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        reset_metadata(new, old);
        validation::keep_allocated(new, old);
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::status_change(new, old, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:metadata"], &["f:spec"]]
    }
}
