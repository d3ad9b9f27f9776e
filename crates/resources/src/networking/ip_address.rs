//! IPAddress.

use crate::At;
use crate::check;
use crate::fields::{present, text};
use crate::ip::wrong_strict_address;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, names};

pub(crate) struct IpAddress;

const COLUMNS: [Column; 2] = [Column::NAME, Column::text("ParentRef", "What has the address.")];

impl Strategy for IpAddress {
    fn check_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        wrong_strict_address(name).into_iter().collect()
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("spec.parentRef");
        let Some(parent) = object.get("spec").and_then(|spec| present(spec, "parentRef")) else {
            errors.push(at.required(""));
            return errors;
        };
        // The core group, which Services are in, has no name.
        if !text(parent, "group").is_empty() {
            check::subdomain(text(parent, "group"), &at.child("group"), &mut errors);
        }
        for field in ["resource", "name"] {
            check::required_path_segment(text(parent, field), &at.child(field), &mut errors);
        }
        let namespace = text(parent, "namespace");
        check::each(
            names::path_segment(namespace, false),
            namespace,
            &at.child("namespace"),
            &mut errors,
        );
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let parent = |object| Value::get_path(object, &["spec", "parentRef"]);
        check::immutable(parent(new), parent(old), &At::new("spec.parentRef"), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let parent = object
            .get_path(&["spec", "parentRef"])
            .map_or(table::NONE.to_owned(), |parent| {
                let group = text(parent, "group");
                let dot = if group.is_empty() { "" } else { "." };
                let resource = format!("{}{dot}{group}", text(parent, "resource")).to_lowercase();
                let parts = [resource.as_str(), text(parent, "namespace"), text(parent, "name")];
                table::join(parts.into_iter().filter(|part| !part.is_empty()), "/")
            });
        vec![table::name(object), parent.into()]
    }
}
