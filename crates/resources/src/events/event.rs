//! Event of `events.k8s.io`.

use crate::KindInfo;
use crate::core;
use crate::fields::{text, text_at};
use crate::strategy::{Column, GarbageCollection, Strategy};
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct Event;

impl Strategy for Event {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        let regarding = [
            "kind",
            "namespace",
            "name",
            "uid",
            "apiVersion",
            "resourceVersion",
            "fieldPath",
        ];
        let regarding = regarding.map(|field| text_at(object, &["regarding", field]));
        let own = ["reason", "reportingController", "type"].map(|field| text(object, field));
        regarding
            .into_iter()
            .chain(own)
            .map(CompactString::from)
            .collect()
    }

    fn garbage_collection(&self, _kind: &KindInfo) -> GarbageCollection {
        GarbageCollection::Unsupported
    }

    fn time_to_live(&self, object: &Value) -> Option<u64> {
        core::event::Event.time_to_live(object)
    }

    fn columns(&self) -> &'static [Column] {
        &core::event::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        core::event::event_row(&core::event::to_core(object), now)
    }
}
