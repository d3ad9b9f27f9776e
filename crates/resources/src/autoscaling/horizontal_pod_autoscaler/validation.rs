//! What a HorizontalPodAutoscaler must be.

use crate::At;
use crate::check;
use crate::fields::{int, list, list_at, present, text, text_at};
use crate::pod_spec::validation::container_resource_name;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::quantity::Quantity;

const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;

/// The sources of metrics in upstream's order: the field, and the word of the type.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];

/// How the `apiVersion` of a reference is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Required,
    Optional,
    /// It was taken as it is before.
    Any,
}

/// Judges the spec.
pub(super) fn spec(autoscaler: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = autoscaler.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    let min = int(spec, "minReplicas");
    let max = int(spec, "maxReplicas").unwrap_or(0);
    // Scaling to zero is off by default in this version; whoever has it keeps it.
    let lowest = match old.and_then(|old| old.get_path(&["spec", "minReplicas"])) {
        Some(Value::Int(0)) => 0,
        _ => 1,
    };
    if let Some(min) = min.filter(|min| *min < lowest) {
        let why = format!("must be greater than or equal to {lowest}");
        errors.push(at.child("minReplicas").invalid(min, why));
    }
    let at_max = at.child("maxReplicas");
    if max == 0 {
        errors.push(at_max.required("must be set and greater than 0"));
    } else if max < 0 {
        errors.push(at_max.invalid(max, "must be greater than or equal to 1"));
    }
    if min.is_some_and(|min| max < min) {
        errors.push(at_max.invalid(max, "must be greater than or equal to `minReplicas`"));
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
    let same_kind = |old: &Value| {
        ["apiVersion", "kind"]
            .iter()
            .all(|field| text_at(old, &["spec", "scaleTargetRef", field]) == text(target, field))
    };
    let group = if old.is_some_and(same_kind) {
        Group::Any
    } else if text(target, "kind") == "ReplicationController" {
        Group::Optional
    } else {
        Group::Required
    };
    reference(target, group, &at.child("scaleTargetRef"), errors);
    metrics(spec, old, min == Some(0), &at.child("metrics"), errors);
    if let Some(behavior) = present(spec, "behavior") {
        let at = at.child("behavior");
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(rules) = present(behavior, direction) {
                self::rules(rules, &at.child(direction), errors);
            }
        }
    }
}

fn reference(reference: &Value, group: Group, at: &At<'_>, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        check::required_path_segment(text(reference, field), &at.child(field), errors);
    }
    let version = text(reference, "apiVersion");
    if let Some(wrong) = wrong_version(version, group) {
        errors.push(at.child("apiVersion").invalid(version, wrong));
    }
}

fn wrong_version(version: &str, group: Group) -> Option<String> {
    let slashes = version.matches('/').count();
    if group == Group::Any {
        None
    } else if slashes > 1 {
        Some(format!("unexpected GroupVersion string: {version}"))
    } else if group == Group::Required && version.split_once('/').is_none_or(|(group, _)| group.is_empty()) {
        Some("apiVersion must specify API group".to_owned())
    } else {
        None
    }
}

fn metrics(spec: &Value, old: Option<&Value>, to_zero: bool, at: &At<'_>, errors: &mut ErrorList) {
    let is_bad = |metric: &Value| {
        let version = text_at(metric, &["object", "describedObject", "apiVersion"]);
        text(metric, "type") == "Object" && wrong_version(version, Group::Optional).is_some()
    };
    let was_bad = |old: &Value| list_at(old, &["spec", "metrics"]).iter().any(is_bad);
    let group = if old.is_some_and(was_bad) {
        Group::Any
    } else {
        Group::Optional
    };
    for (index, one) in list(spec, "metrics").iter().enumerate() {
        metric(one, group, &at.index(index), errors);
    }
    let outside = |metric: &Value| matches!(text(metric, "type"), "Object" | "External");
    if to_zero && !list(spec, "metrics").iter().any(outside) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(at.forbidden(why));
    }
}

fn metric(metric: &Value, group: Group, at: &At<'_>, errors: &mut ErrorList) {
    let words = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.push(at.child("type").required("must specify a metric source type"));
    }
    check::one_of(kind, &words, &at.child("type"), errors);
    let given: Vec<&str> = SOURCES
        .iter()
        .map(|(field, _)| *field)
        .filter(|field| present(metric, field).is_some())
        .collect();
    if let Some(field) = given.first()
        && let Some(one) = present(metric, field)
    {
        source(field, one, group, &at.child(field), errors);
    }
    let expected = SOURCES
        .iter()
        .find(|(_, word)| *word == kind)
        .map(|(field, _)| *field);
    match expected {
        Some(field) if !given.contains(&field) => {
            let why = "must populate information for the given metric source";
            errors.push(at.child(field).required(why));
        }
        Some(_) => {}
        None => errors.push(at.child("type").not_supported(kind, &words)),
    }
    if given.len() != 1 {
        for field in given.into_iter().filter(|field| Some(*field) != expected) {
            errors.push(
                at.child(field)
                    .forbidden("must populate the given metric source only"),
            );
        }
    }
}

fn source(kind: &str, source: &Value, group: Group, at: &At<'_>, errors: &mut ErrorList) {
    if kind == "object" {
        let described = source.get("describedObject").unwrap_or(&Value::Null);
        reference(described, group, &at.child("describedObject"), errors);
    }
    let name = text(source, "name");
    match kind {
        "resource" | "containerResource" if name.is_empty() => {
            errors.push(at.child("name").required("must specify a resource name"));
        }
        "resource" => {}
        "containerResource" => container_resource_name(name, &at.child("name"), errors),
        _ => match text_at(source, &["metric", "name"]) {
            "" => errors.push(at.child("metric.name").required("must specify a metric name")),
            name => check::required_path_segment(name, &at.child("metric.name"), errors),
        },
    }
    if kind == "containerResource" {
        match text(source, "container") {
            "" => errors.push(at.child("container").required("must specify a container")),
            name => check::label(name, &at.child("container"), errors),
        }
    }
    let target = source.get("target").unwrap_or(&Value::Null);
    let at = at.child("target");
    self::target(target, &at, errors);
    let has = |field| present(target, field).is_some();
    let (value, average, utilization) = (has("value"), has("averageValue"), has("averageUtilization"));
    let need = |field: &str, why: &str| at.child(field).required(why);
    match kind {
        "object" if !value && !average => {
            errors.push(need(
                "averageValue",
                "must set either a target value or averageValue",
            ));
        }
        "external" if !value && !average => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.push(need("averageValue", why));
        }
        "external" if value && average => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.push(at.child("value").forbidden(why));
        }
        "pods" if !average => {
            errors.push(need(
                "averageValue",
                "must specify a positive target averageValue",
            ));
        }
        "resource" | "containerResource" if !utilization && !average => {
            let why = "must set either a target raw value or a target utilization";
            errors.push(need("averageUtilization", why));
        }
        "resource" | "containerResource" if utilization && average => {
            let why = "may not set both a target raw value and a target utilization";
            errors.push(at.child("averageValue").forbidden(why));
        }
        _ => {}
    }
}

fn target(target: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.push(at.child("type").required("must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(at.child("type").invalid(kind, why));
    }
    for field in ["value", "averageValue"] {
        let amount = text(target, field);
        if amount.parse::<Quantity>().is_ok_and(|amount| amount.sign() <= 0) {
            errors.push(at.child(field).invalid(amount, "must be positive"));
        }
    }
    if let Some(percent) = int(target, "averageUtilization").filter(|percent| *percent < 1) {
        errors.push(
            at.child("averageUtilization")
                .invalid(percent, "must be greater than 0"),
        );
    }
}

fn rules(rules: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let window = int(rules, "stabilizationWindowSeconds").unwrap_or(0);
    let here = at.child("stabilizationWindowSeconds");
    if window < 0 {
        errors.push(here.invalid(window, "must be greater than or equal to zero"));
    }
    if window > LONGEST_WINDOW {
        let why = format!("must be less than or equal to {LONGEST_WINDOW}");
        errors.push(here.invalid(window, why));
    }
    if let Some(policy) = present(rules, "selectPolicy").and_then(Value::as_str) {
        let policies = ["Disabled", "Max", "Min"];
        check::one_of(policy, &policies, &at.child("selectPolicy"), errors);
    }
    let here = at.child("policies");
    if list(rules, "policies").is_empty() {
        errors.push(here.required("must specify at least one Policy"));
    }
    for (index, policy) in list(rules, "policies").iter().enumerate() {
        let at = here.index(index);
        check::one_of(
            text(policy, "type"),
            &["Percent", "Pods"],
            &at.child("type"),
            errors,
        );
        let period = int(policy, "periodSeconds").unwrap_or(0);
        check::positive(int(policy, "value").unwrap_or(0), &at.child("value"), errors);
        check::positive(period, &at.child("periodSeconds"), errors);
        if period > LONGEST_PERIOD {
            let why = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.push(at.child("periodSeconds").invalid(period, why));
        }
    }
    if let Some(tolerance) = present(rules, "tolerance") {
        check::not_negative_quantity(tolerance, &at.child("tolerance"), errors);
    }
}
