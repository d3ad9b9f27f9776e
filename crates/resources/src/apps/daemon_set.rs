//! DaemonSet.

use crate::At;
use crate::check;
use crate::fields::{entries, fill, fill_object, fill_text, int, int_at, present, same, text};
use crate::pod_spec;
use crate::pod_spec::validation;
use crate::strategy::{Column, Context, Strategy, Subresource, bump_generation, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::selector::LabelSelector;

pub(crate) struct DaemonSet;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const COLUMNS: [Column; 11] = [
    Column::NAME,
    Column::number("Desired", "Nodes that should run the pod."),
    Column::number("Current", "Nodes that run it."),
    Column::number("Ready", "Nodes where it is ready."),
    Column::number("Up-to-date", "Nodes that run the newest template."),
    Column::number("Available", "Nodes where it has been ready long enough."),
    Column::text("Node Selector", "Which nodes are meant."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill(spec, "revisionHistoryLimit", 10);
        let strategy = fill_object(spec, "updateStrategy");
        fill_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            let rolling = fill_object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
            map.object_entry("status");
        }
        object.set_path(&["metadata", "generation"], 1);
        pod_spec::drop_disabled(object, None, &pod_spec::TEMPLATE);
        set_template_generation(object, template_generation(object).max(1));
    }

    /// The template's generation, which lives in an annotation, counts changes of the template alone.
    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        pod_spec::drop_disabled(new, Some(old), &pod_spec::TEMPLATE);
        let before = template_generation(old);
        let changed = !same(new, old, &["spec", "template"]);
        if before > 0 || changed {
            set_template_generation(new, before + i64::from(changed));
        }
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
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
        let [names, images] = table::template_containers(object);
        let nodes = object
            .get_path(&["spec", "template", "spec"])
            .map(|spec| entries(spec, "nodeSelector"));
        vec![
            table::name(object),
            table::number(object, &["status", "desiredNumberScheduled"]),
            table::number(object, &["status", "currentNumberScheduled"]),
            table::number(object, &["status", "numberReady"]),
            table::number(object, &["status", "updatedNumberScheduled"]),
            table::number(object, &["status", "numberAvailable"]),
            table::labels(nodes.unwrap_or_default()),
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
        let mut errors = ErrorList::new();
        let selector = |object| Value::get_path(object, &["spec", "selector"]);
        check::immutable(
            selector(new),
            selector(old),
            &At::new("spec.selector"),
            &mut errors,
        );
        errors.extend(self.validate(context, new));
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

fn template_generation(object: &Value) -> i64 {
    let annotation = machinery::meta::annotation(object, TEMPLATE_GENERATION);
    annotation
        .and_then(|text| text.parse().ok())
        .or_else(|| int_at(object, &["spec", "templateGeneration"]))
        .unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = machinery::meta::metadata_mut(object).object_entry("annotations");
    annotations.insert(TEMPLATE_GENERATION, generation.to_string());
}

fn spec_errors(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let selector = present(spec, "selector");
    check::label_selector(selector, &at.child("selector"), errors);
    let template = spec.get("template").unwrap_or(&Value::Null);
    let labels = template
        .get_path(&["metadata", "labels"])
        .and_then(Value::as_object);
    if LabelSelector::from_object(selector).is_ok_and(|selector| !selector.matches(labels)) {
        let shown = labels.cloned().map_or(Value::Null, Value::Object);
        let why = "`selector` does not match template `labels`";
        errors.push(at.child("template.metadata.labels").invalid(shown, why));
    }
    if let Some(selector) = selector.filter(|selector| check::is_empty_selector(selector)) {
        errors.push(
            at.child("selector")
                .invalid(selector.clone(), "empty selector is invalid for daemonset"),
        );
    }
    validation::running_template(Some(template), None, "DaemonSet", &at.child("template"), errors);
    check::not_negative(
        int(spec, "minReadySeconds").unwrap_or(0),
        &at.child("minReadySeconds"),
        errors,
    );
    strategy_errors(
        spec.get("updateStrategy").unwrap_or(&Value::Null),
        &at.child("updateStrategy"),
        errors,
    );
    check::not_negative(
        int(spec, "revisionHistoryLimit").unwrap_or(0),
        &at.child("revisionHistoryLimit"),
        errors,
    );
}

fn strategy_errors(strategy: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(strategy, "type") {
        "OnDelete" => return,
        "RollingUpdate" => {}
        _ => {
            errors.push(at.not_supported(strategy.clone(), &["RollingUpdate", "OnDelete"]));
            return;
        }
    }
    let at = at.child("rollingUpdate");
    let Some(rolling) = present(strategy, "rollingUpdate") else {
        errors.push(at.required(""));
        return;
    };
    let amount = |field| rolling.get(field).cloned().unwrap_or(Value::Int(0));
    let amounts = [
        ("maxUnavailable", amount("maxUnavailable")),
        ("maxSurge", amount("maxSurge")),
    ];
    for (field, amount) in &amounts {
        check::positive_int_or_percent(amount, &at.child(field), errors);
    }
    for (field, amount) in &amounts {
        check::at_most_hundred_percent(amount, &at.child(field), errors);
    }
    let [unavailable, surge] =
        amounts.map(|(_, value)| check::percent(&value).or(value.as_i64()).unwrap_or(0) != 0);
    if unavailable && surge {
        let why = "may not be set when maxUnavailable is non-zero";
        errors.push(at.child("maxSurge").invalid(amount("maxSurge"), why));
    } else if !unavailable && !surge {
        errors.push(
            at.child("maxUnavailable")
                .required("cannot be 0 when maxSurge is 0"),
        );
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        const COUNTS: [&str; 9] = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        let mut errors = ErrorList::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        check::status_counts(status, &COUNTS, &[], "", &mut errors);
        check::collisions_not_forgotten(new, old, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
