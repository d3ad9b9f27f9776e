//! Between versions 1 and 2: version 1 has one CPU target, and keeps the rest in annotations as JSON.

use super::cpu_utilization;
use crate::fields::{int_at, list_at, text, text_at};
use machinery::codec::json;
use machinery::{Value, meta};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The object as version 1 shows it.
pub(super) fn to_v1(object: &Value) -> Value {
    let mut out = object.clone();
    out.set_path(&["apiVersion"], "autoscaling/v1");
    let is_cpu = |metric: &&Value| {
        text(metric, "type") == "Resource" && text_at(metric, &["resource", "name"]) == "cpu"
    };
    let metrics = list_at(object, &["spec", "metrics"]);
    let target = metrics
        .iter()
        .filter(is_cpu)
        .find_map(|metric| int_at(metric, &["resource", "target", "averageUtilization"]));
    let others: Vec<Value> = metrics
        .iter()
        .filter(|m| !(is_cpu(m) && int_at(m, &["resource", "target", "averageUtilization"]).is_some()))
        .cloned()
        .collect();
    out.remove_path(&["spec", "metrics"]);
    if let Some(target) = target {
        out.set_path(&["spec", "targetCPUUtilizationPercentage"], target);
    }
    annotate(
        &mut out,
        METRICS,
        (!others.is_empty()).then_some(Value::Array(others)),
    );
    let behavior = out.remove_path(&["spec", "behavior"]);
    annotate(&mut out, BEHAVIOR, behavior);
    let current = out
        .remove_path(&["status", "currentMetrics"])
        .filter(|v| !v.is_empty());
    if let Some(current) = &current {
        let utilization = current
            .as_array()
            .unwrap_or_default()
            .iter()
            .filter(is_cpu)
            .find_map(|metric| int_at(metric, &["resource", "current", "averageUtilization"]));
        if let Some(utilization) = utilization {
            out.set_path(&["status", "currentCPUUtilizationPercentage"], utilization);
        }
    }
    annotate(&mut out, CURRENT, current);
    let conditions = out
        .remove_path(&["status", "conditions"])
        .filter(|v| !v.is_empty());
    annotate(&mut out, CONDITIONS, conditions);
    out
}

/// The object as version 2 keeps it.
pub(super) fn from_v1(object: &Value) -> Value {
    let mut out = object.clone();
    out.set_path(&["apiVersion"], "autoscaling/v2");
    let mut metrics = Vec::new();
    if let Some(target) = out
        .remove_path(&["spec", "targetCPUUtilizationPercentage"])
        .and_then(|v| v.as_i64())
    {
        metrics.push(cpu_utilization(target));
    }
    if let Some(Value::Array(others)) = take_annotation(&mut out, METRICS) {
        metrics.extend(others);
    }
    if !metrics.is_empty() {
        out.set_path(&["spec", "metrics"], metrics);
    }
    if let Some(behavior) = take_annotation(&mut out, BEHAVIOR) {
        out.set_path(&["spec", "behavior"], behavior);
    }
    out.remove_path(&["status", "currentCPUUtilizationPercentage"]);
    if let Some(current) = take_annotation(&mut out, CURRENT) {
        out.set_path(&["status", "currentMetrics"], current);
    }
    if let Some(conditions) = take_annotation(&mut out, CONDITIONS) {
        out.set_path(&["status", "conditions"], conditions);
    }
    if meta::annotations(&out).is_some_and(machinery::Map::is_empty) {
        out.remove_path(&["metadata", "annotations"]);
    }
    out
}

fn annotate(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return;
    };
    let mut bytes = Vec::new();
    json::encode(&value, &mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    meta::metadata_mut(object)
        .object_entry("annotations")
        .insert(key, text);
}

/// What an annotation of these holds; one that cannot be read is as good as none.
fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let text = object.remove_path(&["metadata", "annotations", key])?;
    let decoded = json::decode_any(text.as_str()?.as_bytes()).ok()?;
    Some(decoded.value)
}
