//! Event, under both of its groups: an event lives for an hour.
//!
//! Upstream keeps both groups' events as one; `to_events` and `to_core` are the two ways between their forms.

use crate::KindInfo;
use crate::fields::{text, text_at};
use crate::strategy::{GarbageCollection, Strategy};
use compact_str::CompactString;
use machinery::Value;

pub(crate) struct Event;

/// Upstream's default of `--event-ttl`.
const TIME_TO_LIVE_SECONDS: u64 = 3600;

impl Strategy for Event {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        let reporter = text(object, "reportingComponent");
        let source = text_at(object, &["source", "component"]);
        let involved = [
            "kind",
            "namespace",
            "name",
            "uid",
            "apiVersion",
            "resourceVersion",
            "fieldPath",
        ];
        let involved = involved.map(|field| text_at(object, &["involvedObject", field]));
        let own = [
            text(object, "reason"),
            reporter,
            if source.is_empty() { reporter } else { source },
        ];
        involved
            .into_iter()
            .chain(own)
            .chain([text(object, "type")])
            .map(CompactString::from)
            .collect()
    }

    fn garbage_collection(&self, _kind: &KindInfo) -> GarbageCollection {
        GarbageCollection::Unsupported
    }

    fn time_to_live(&self, _object: &Value) -> Option<u64> {
        Some(TIME_TO_LIVE_SECONDS)
    }
}

/// The fields that differ in name: in the core group, in `events.k8s.io`.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
];

/// An event of the core group as `events.k8s.io` shows it.
pub fn to_events(event: &Value) -> Value {
    renamed(event, "events.k8s.io/v1", RENAMED.iter().copied())
}

/// An event of `events.k8s.io` as the core group keeps it.
pub fn to_core(event: &Value) -> Value {
    renamed(event, "v1", RENAMED.iter().map(|(core, events)| (*events, *core)))
}

fn renamed(
    event: &Value,
    api_version: &str,
    names: impl Iterator<Item = (&'static str, &'static str)>,
) -> Value {
    let mut out = event.clone();
    let map = out.make_object();
    let moved: Vec<_> = names
        .filter_map(|(from, to)| map.remove(from).map(|value| (to, value)))
        .collect();
    for (to, value) in moved {
        map.insert(to, value);
    }
    map.insert("apiVersion", api_version);
    out
}
