//! StorageVersionMigration: that every object of a resource is to be stored anew.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::conditions::conditions;
use crate::fields::{list_at, text, text_at};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep, reset_metadata};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, names};

pub(crate) struct StorageVersionMigration;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Resource", "The resource."),
    Column::text("Status", "How the migration stands."),
];
const RESOURCE: [&str; 2] = ["spec", "resource"];
const CONDITIONS: [&str; 2] = ["status", "conditions"];

impl Strategy for StorageVersionMigration {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("spec.resource");
        let resource = object.get_path(&RESOURCE).unwrap_or(&Value::Null);
        let (name, group) = (text(resource, "resource"), text(resource, "group"));
        let wrong = names::dns1035_label(name);
        if name.is_empty() {
            errors.push(at.child("resource").required("resource is required to be set"));
        } else if !wrong.is_empty() {
            errors.push(at.child("resource").invalid(name, wrong.join(",")));
        }
        let wrong = names::dns1123_subdomain(group);
        if !group.is_empty() && !wrong.is_empty() {
            errors.push(at.child("group").invalid(group, wrong.join(",")));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
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

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let resource = object.get_path(&RESOURCE).unwrap_or(&Value::Null);
        let (name, group) = (text(resource, "resource"), text(resource, "group"));
        let shown = if group.is_empty() {
            name.to_owned()
        } else {
            format!("{name}.{group}")
        };
        let holds = list_at(object, &CONDITIONS).iter().rev().find(|condition| {
            text(condition, "status") == "True"
                && matches!(text(condition, "type"), "Running" | "Failed" | "Succeeded")
        });
        let status = holds.map_or("Unknown", |condition| text(condition, "type"));
        vec![table::name(object), shown.into(), status.into()]
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        reset_metadata(new, old);
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        const VERSION: [&str; 2] = ["status", "resourceVersion"];
        let mut errors = ErrorList::new();
        let at = At::new("status");
        let here = at.child("conditions");
        conditions(list_at(new, &CONDITIONS), &here, &mut errors);
        let (now, before) = (text_at(new, &VERSION), text_at(old, &VERSION));
        if !before.is_empty() && before != now {
            errors.push(at.child("resourceVersion").invalid(now, check::IMMUTABLE));
        }
        let is = |object: &Value, kind: &str| table::condition(object, kind) == Some(true);
        let shown = || Value::Array(list_at(new, &CONDITIONS).to_vec());
        if is(new, "Succeeded") && is(new, "Failed") {
            let why = "Both success and failed conditions cannot be true at the same time";
            errors.push(here.invalid(shown(), why));
        }
        for (kind, word) in [("Succeeded", "Success"), ("Failed", "Failed")] {
            if is(old, kind) && !is(new, kind) {
                let why = format!("{word} condition cannot be set to false once it is true");
                errors.push(here.invalid(shown(), why));
            }
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:metadata"], &["f:spec"]]
    }
}
