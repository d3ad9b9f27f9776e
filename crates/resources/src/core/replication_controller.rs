//! ReplicationController.

use crate::KindInfo;
use crate::fields::{entries, fill, present};
use crate::pod_spec;
use crate::strategy::{Column, GarbageCollection, Strategy};
use crate::table;
use jiff::Timestamp;
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

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn garbage_collection(&self, _kind: &KindInfo) -> GarbageCollection {
        GarbageCollection::OrphanDependents
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
}
