//! ReplicaSet.

use crate::fields::fill;
use crate::pod_spec;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

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

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        let replicas = crate::fields::int_at(object, &["status", "replicas"]).unwrap_or(0);
        vec![compact_str::format_compact!("{replicas}")]
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
}
