//! HorizontalPodAutoscaler, kept in version 2.

mod columns;
mod convert;

use crate::fields::{fill, list, present};
use crate::strategy::{Column, Strategy};
use jiff::Timestamp;
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
