//! A HorizontalPodAutoscaler's row.

use crate::fields::{int_at, list_at, text, text_at};
use crate::strategy::Column;
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(super) const COLUMNS: [Column; 7] = [
    Column::NAME,
    Column::text("Reference", "What is scaled."),
    Column::text("Targets", "What is measured, and what it should be."),
    Column::text("MinPods", "The fewest pods."),
    Column::text("MaxPods", "The most pods."),
    Column::text("Replicas", "Pods there are."),
    Column::AGE,
];

pub(super) fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = ["kind", "name"].map(|field| text_at(object, &["spec", "scaleTargetRef", field]));
    let least = int_at(object, &["spec", "minReplicas"]);
    vec![
        table::name(object),
        target.join("/").into(),
        targets(object).into(),
        least
            .map_or(table::UNSET.to_owned(), |least| least.to_string())
            .into(),
        table::number(object, &["spec", "maxReplicas"]),
        table::number(object, &["status", "currentReplicas"]),
        table::age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    let current = list_at(object, &["status", "currentMetrics"]);
    let metrics = list_at(object, &["spec", "metrics"]);
    if metrics.is_empty() {
        return table::NONE.to_owned();
    }
    let shown: Vec<String> = metrics
        .iter()
        .take(2)
        .enumerate()
        .map(|(at, metric)| target(metric, current.get(at)))
        .collect();
    match metrics.len().saturating_sub(2) {
        0 => shown.join(", "),
        more => format!("{} + {more} more...", shown.join(", ")),
    }
}

/// What one metric is now and should be.
fn target(metric: &Value, current: Option<&Value>) -> String {
    let source = match text(metric, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = |field| amount(metric.get_path(&[source, "target", field]));
    let measured = |field| amount(current.and_then(|current| current.get_path(&[source, "current", field])));
    let now = |field| measured(field).unwrap_or_else(|| table::UNKNOWN.to_owned());
    let name = text_at(metric, &[source, "name"]);
    match source {
        "external" | "object" => match wanted("averageValue") {
            Some(average) => format!("{}/{average} (avg)", now("averageValue")),
            None => format!("{}/{}", now("value"), wanted("value").unwrap_or_default()),
        },
        "pods" => format!(
            "{}/{}",
            now("averageValue"),
            wanted("averageValue").unwrap_or_default()
        ),
        _ => match wanted("averageValue") {
            Some(average) => format!("{name}: {}/{average}", now("averageValue")),
            None => {
                let percent = |amount: Option<String>| amount.map(|amount| format!("{amount}%"));
                let wanted = percent(wanted("averageUtilization")).unwrap_or_else(|| "<auto>".to_owned());
                let now =
                    percent(measured("averageUtilization")).unwrap_or_else(|| table::UNKNOWN.to_owned());
                format!("{name}: {now}/{wanted}")
            }
        },
    }
}

fn amount(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.to_string()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}
