//! ReplicaSet.

use crate::At;
use crate::check;
use crate::fields::{fill, int, same};
use crate::pod_spec;
use crate::pod_spec::validation;
use crate::strategy::{Column, Context, Strategy, Subresource, bump_generation, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ReplicaSet;

const COLUMNS: [Column; 8] = [
    Column::NAME,
    Column::number("Desired", "Pods wanted."),
    Column::number("Current", "Pods there are."),
    Column::number("Ready", "Pods that are ready."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            fill(spec, "replicas", 1);
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
        pod_spec::drop_disabled(object, None, &pod_spec::TEMPLATE);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        pod_spec::drop_disabled(new, Some(old), &pod_spec::TEMPLATE);
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        let replicas = crate::fields::int_at(object, &["status", "replicas"]).unwrap_or(0);
        vec![compact_str::format_compact!("{replicas}")]
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        pod_spec::template_warnings(object, None, &["spec", "template"])
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        pod_spec::template_warnings(new, Some(old), &["spec", "template"])
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = table::template_containers(object);
        vec![
            table::name(object),
            table::number(object, &["spec", "replicas"]),
            table::number(object, &["status", "replicas"]),
            table::number(object, &["status", "readyReplicas"]),
            table::age(object, now),
            names,
            images,
            table::selector(object.get_path(&["spec", "selector"])),
        ]
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(spec) = object.get("spec") {
            spec_errors(spec, &At::new("spec"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        let selector = |object| Value::get_path(object, &["spec", "selector"]);
        check::immutable(
            selector(new),
            selector(old),
            &At::new("spec.selector"),
            &mut errors,
        );
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }
}

fn spec_errors(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for field in ["replicas", "minReadySeconds"] {
        check::not_negative(int(spec, field).unwrap_or(0), &at.child(field), errors);
    }
    // Upstream names the Deployment here too.
    if let Some(selector) = check::workload_selector(spec, "deployment", at, errors) {
        let template = spec.get("template");
        validation::running_template(
            template,
            Some(&selector),
            "ReplicaSet",
            &at.child("template"),
            errors,
        );
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        const COUNTS: [&str; 6] = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ];
        let mut errors = ErrorList::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        check::status_counts(
            status,
            &COUNTS,
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
            "readyReplicas",
            &mut errors,
        );
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
