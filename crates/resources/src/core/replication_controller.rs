//! ReplicationController.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::{entries, fill, int, present, same};
use crate::pod_spec;
use crate::pod_spec::validation;
use crate::strategy::{
    Column, Context, GarbageCollection, Strategy, Subresource, bump_generation, default_subresource, keep,
};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::selector::LabelSelector;
use machinery::{Map, Value, meta};

pub(crate) struct ReplicationController;

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

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            fill(spec, "replicas", 1);
        }
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        let labels = object
            .get_path(&["spec", "template", "metadata", "labels"])
            .and_then(Value::as_object);
        let Some(labels) = labels.cloned() else { return };
        if object
            .get("spec")
            .and_then(|spec| present(spec, "selector"))
            .is_none_or(Value::is_empty)
        {
            object.set_path(&["spec", "selector"], labels.clone());
        }
        if meta::labels(object).is_none_or(Map::is_empty) {
            meta::set(object, "labels", labels);
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

    fn garbage_collection(&self, _kind: &KindInfo) -> GarbageCollection {
        GarbageCollection::OrphanDependents
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
        let selector = object
            .get("spec")
            .map(|spec| entries(spec, "selector"))
            .unwrap_or_default();
        vec![
            table::name(object),
            table::number(object, &["spec", "replicas"]),
            table::number(object, &["status", "replicas"]),
            table::number(object, &["status", "readyReplicas"]),
            table::age(object, now),
            names,
            images,
            table::labels(selector),
        ]
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(spec) = object.get("spec") {
            spec_errors(spec, &At::new("spec"), &mut errors);
        }
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
    check::not_negative(
        int(spec, "minReadySeconds").unwrap_or(0),
        &at.child("minReadySeconds"),
        errors,
    );
    let labels = spec
        .get("selector")
        .and_then(Value::as_object)
        .filter(|labels| !labels.is_empty());
    if labels.is_none() {
        errors.push(at.child("selector").required(""));
    }
    match int(spec, "replicas") {
        None => errors.push(at.child("replicas").required("")),
        Some(replicas) => check::not_negative(replicas, &at.child("replicas"), errors),
    }
    let selector = labels.map(LabelSelector::from_map);
    let at = at.child("template");
    validation::running_template(
        spec.get("template"),
        selector.as_ref(),
        "ReplicationController",
        &at,
        errors,
    );
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        const COUNTS: [&str; 5] = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
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
