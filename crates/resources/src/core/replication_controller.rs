//! ReplicationController.

use crate::KindInfo;
use crate::fields::{fill, present};
use crate::pod_spec;
use crate::strategy::{GarbageCollection, Strategy};
use machinery::{Map, Value, meta};

pub(crate) struct ReplicationController;

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
}
