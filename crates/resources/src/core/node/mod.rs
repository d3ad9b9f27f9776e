//! Node.

mod columns;
mod validation;

use crate::fields::{list, present, text};
use crate::pod_spec::resources;
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            pod_cidrs(spec);
        }
        let Some(status) = object.get_mut("status") else {
            return;
        };
        resources::round(status.get_mut("capacity"));
        resources::round(status.get_mut("allocatable"));
        if present(status, "allocatable").is_none()
            && let Some(capacity) = present(status, "capacity").cloned()
        {
            status.set_path(&["allocatable"], capacity);
        }
    }

    /// A node may come with its status.
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.remove_path(&["spec", "configSource"]);
        object.remove_path(&["status", "config"]);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        if old.get_path(&["spec", "configSource"]).is_none_or(Value::is_null) {
            new.remove_path(&["spec", "configSource"]);
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::node(object, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        validation::change(new, old, &mut errors);
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        let unschedulable = object.get_path(&["spec", "unschedulable"]) == Some(&Value::Bool(true));
        vec![CompactString::const_new(if unschedulable {
            "true"
        } else {
            "false"
        })]
    }

    fn columns(&self) -> &'static [Column] {
        &columns::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::row(object, now)
    }
}

/// `podCIDR` is the first of `podCIDRs`.
fn pod_cidrs(spec: &mut Value) {
    let one = text(spec, "podCIDR");
    match list(spec, "podCIDRs").first().and_then(Value::as_str) {
        None if !one.is_empty() => {
            let one = Value::from(one);
            spec.set_path(&["podCIDRs"], Value::Array(vec![one]));
        }
        Some(first) if one.is_empty() => {
            let first = Value::from(first);
            spec.set_path(&["podCIDR"], first);
        }
        _ => {}
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        if old.get_path(&["status", "config"]).is_none_or(Value::is_null) {
            new.remove_path(&["status", "config"]);
        }
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::node(new, &mut errors);
        validation::change(new, old, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
