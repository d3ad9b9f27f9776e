//! HorizontalPodAutoscaler, kept in version 2.

mod columns;
mod convert;
mod validation;

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::int_at;
use crate::fields::{fill, list, present};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Map, Value};

pub(crate) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else {
            return;
        };
        let no_metrics = list(spec, "metrics").is_empty();
        let Some(map) = spec.as_object_mut() else { return };
        fill(map, "minReplicas", 1);
        if no_metrics {
            map.insert("metrics", Value::Array(vec![cpu_utilization(80)]));
        }
        if map.get("behavior").is_some_and(|behavior| !behavior.is_null()) {
            let behavior = map.object_entry("behavior");
            rules(
                behavior.object_entry("scaleUp"),
                Some(0),
                &[("Pods", 4), ("Percent", 100)],
            );
            rules(behavior.object_entry("scaleDown"), None, &[("Percent", 100)]);
        }
    }

    fn convert(&self, object: &Value, version: &str) -> Option<Value> {
        match version {
            "v1" => Some(convert::to_v1(object)),
            "v2" if present(object, "apiVersion").and_then(Value::as_str) == Some("autoscaling/v1") => {
                Some(convert::from_v1(object))
            }
            _ => None,
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::spec(object, None, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::spec(new, Some(old), &mut errors);
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
        &columns::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::row(object, now)
    }
}

/// The metric of an average CPU utilization.
fn cpu_utilization(percent: i64) -> Value {
    let mut metric = Value::object();
    metric.set_path(&["type"], "Resource");
    metric.set_path(&["resource", "name"], "cpu");
    metric.set_path(&["resource", "target", "type"], "Utilization");
    metric.set_path(&["resource", "target", "averageUtilization"], percent);
    metric
}

/// Fills the rules of one direction.
fn rules(rules: &mut Map, window: Option<i64>, policies: &[(&'static str, i64)]) {
    if let Some(window) = window {
        fill(rules, "stabilizationWindowSeconds", window);
    }
    fill(rules, "selectPolicy", "Max");
    if rules.get("policies").is_none_or(Value::is_null) {
        let policy = |(kind, value): &(&'static str, i64)| {
            let mut policy = Map::new();
            policy.insert("periodSeconds", 15);
            policy.insert("type", *kind);
            policy.insert("value", *value);
            Value::Object(policy)
        };
        rules.insert("policies", Value::Array(policies.iter().map(policy).collect()));
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("status");
        for field in ["currentReplicas", "desiredReplicas"] {
            let count = int_at(new, &["status", field]).unwrap_or(0);
            check::not_negative(count, &at.child(field), &mut errors);
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
