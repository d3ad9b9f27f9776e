//! Deployment.

use crate::At;
use crate::check;
use crate::fields::{fill, fill_object, fill_text, int, int_at, present, same, text};
use crate::pod_spec;
use crate::pod_spec::validation;
use crate::strategy::{Column, Context, Strategy, Subresource, bump_generation, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) struct Deployment;

const COLUMNS: [Column; 8] = [
    Column::NAME,
    Column::text("Ready", "Ready pods of those wanted."),
    Column::text("Up-to-date", "Pods of the newest template."),
    Column::text("Available", "Pods that have been ready long enough."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        let strategy = fill_object(spec, "strategy");
        fill_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            let rolling = fill_object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
        pod_spec::drop_disabled(object, None, &pod_spec::TEMPLATE);
    }

    /// Annotations count too: they are copied to the replica sets.
    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        pod_spec::drop_disabled(new, Some(old), &pod_spec::TEMPLATE);
        if !same(new, old, &["spec"]) || !same(new, old, &["metadata", "annotations"]) {
            bump_generation(new, old);
        }
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
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
        let count = |path: &[&str]| int_at(object, path).unwrap_or(0);
        let ready = format!(
            "{}/{}",
            count(&["status", "readyReplicas"]),
            count(&["spec", "replicas"])
        );
        let [names, images] = table::template_containers(object);
        vec![
            table::name(object),
            ready.into(),
            table::number(object, &["status", "updatedReplicas"]),
            table::number(object, &["status", "availableReplicas"]),
            table::age(object, now),
            names,
            images,
            table::selector_text(object.get_path(&["spec", "selector"])).into(),
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
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        let labels = meta::labels(old).cloned().unwrap_or_default();
        meta::set(new, "labels", labels);
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"], &["f:metadata", "f:labels"]]
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        const COUNTS: [&str; 8] = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        let mut errors = ErrorList::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        let part = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        check::status_counts(status, &COUNTS, &part, "readyReplicas", &mut errors);
        check::collisions_not_forgotten(new, old, &mut errors);
        errors
    }
}

fn spec_errors(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    check::not_negative(int(spec, "replicas").unwrap_or(0), &at.child("replicas"), errors);
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
    strategy_errors(
        spec.get("strategy").unwrap_or(&Value::Null),
        &at.child("strategy"),
        errors,
    );
    let ready = int(spec, "minReadySeconds").unwrap_or(0);
    check::not_negative(ready, &at.child("minReadySeconds"), errors);
    check::not_negative(
        int(spec, "revisionHistoryLimit").unwrap_or(0),
        &at.child("revisionHistoryLimit"),
        errors,
    );
    if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
        let at = at.child("progressDeadlineSeconds");
        check::not_negative(deadline, &at, errors);
        if deadline <= ready {
            errors.push(at.invalid(deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn strategy_errors(strategy: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let rolling = present(strategy, "rollingUpdate");
    let here = at.child("rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("Recreate", None) => {}
        ("Recreate", Some(_)) => {
            errors.push(here.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        }
        ("RollingUpdate", None) => errors.push(here.required("this should be defaulted and never be nil")),
        ("RollingUpdate", Some(rolling)) => rolling_errors(rolling, &here, errors),
        _ => errors.push(at.not_supported(strategy.clone(), &["Recreate", "RollingUpdate"])),
    }
}

fn rolling_errors(rolling: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let amount = |field| rolling.get(field).cloned().unwrap_or(Value::Int(0));
    let (unavailable, surge) = (amount("maxUnavailable"), amount("maxSurge"));
    check::positive_int_or_percent(&unavailable, &at.child("maxUnavailable"), errors);
    check::positive_int_or_percent(&surge, &at.child("maxSurge"), errors);
    let zero = |value: &Value| check::percent(value).or(value.as_i64()).unwrap_or(0) == 0;
    if zero(&unavailable) && zero(&surge) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.push(at.child("maxUnavailable").invalid(unavailable.clone(), why));
    }
    check::at_most_hundred_percent(&unavailable, &at.child("maxUnavailable"), errors);
}
