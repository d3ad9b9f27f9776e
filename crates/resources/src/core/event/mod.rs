//! Event, under both of its groups: an event lives for an hour.
//!
//! Upstream keeps both groups' events as one; `to_events` and `to_core` are the two ways between their forms.

mod validation;

use crate::KindInfo;
use crate::fields::{int, present, text, text_at};
use crate::strategy::{Column, Context, GarbageCollection, Strategy};
use crate::table;
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct Event;

/// Upstream's default of `--event-ttl`.
const TIME_TO_LIVE_SECONDS: u64 = 3600;

pub(crate) const COLUMNS: [Column; 10] = [
    Column::text("Last Seen", "When it happened last."),
    Column::text("Type", "Normal or warning."),
    Column::text("Reason", "Why it happened, in a word."),
    Column::text("Object", "What it happened to."),
    Column::text("Subobject", "Which part of it.").wide(),
    Column::text("Source", "Who says so.").wide(),
    Column::text("Message", "What happened."),
    Column::text("First Seen", "When it happened first.").wide(),
    Column::text("Count", "How often it happened.").wide(),
    Column::NAME.wide(),
];

impl Strategy for Event {
    fn validate(&self, context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::create(object, context.api_version, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::update(new, old, context.api_version, &mut errors);
        errors
    }

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

    fn convert(&self, object: &Value, version: &str) -> Option<Value> {
        match version {
            "events.k8s.io/v1" => Some(to_events(object)),
            _ if text(object, "apiVersion") == "events.k8s.io/v1" => Some(to_core(object)),
            _ => None,
        }
    }

    fn canonical_field(&self, field: &str) -> CompactString {
        match field.strip_prefix("regarding.") {
            Some(part) => compact_str::format_compact!("involvedObject.{part}"),
            None if field == "reportingController" => "reportingComponent".into(),
            None => field.into(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        event_row(object, now)
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

/// The cells of an event of the core group.
pub(crate) fn event_row(event: &Value, now: Timestamp) -> Vec<Value> {
    let first = match text(event, "firstTimestamp") {
        "" => table::since(text(event, "eventTime"), now),
        time => table::since(time, now),
    };
    let mut last = match text(event, "lastTimestamp") {
        "" => first.clone(),
        time => table::since(time, now),
    };
    // An event that stands for itself has no count.
    let mut count = int(event, "count").filter(|count| *count != 0).unwrap_or(1);
    if let Some(series) = present(event, "series") {
        last = table::since(text(series, "lastObservedTime"), now);
        count = int(series, "count").unwrap_or(0);
    }
    let kind = text_at(event, &["involvedObject", "kind"]).to_lowercase();
    let target = match text_at(event, &["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        table::word(event, &["involvedObject", "fieldPath"]),
        source(event).into(),
        text(event, "message").trim().into(),
        first.into(),
        count.into(),
        table::name(event),
    ]
}

fn source(event: &Value) -> String {
    let either = |path: &[&str], other| match text_at(event, path) {
        "" => text(event, other),
        text => text,
    };
    let component = either(&["source", "component"], "reportingComponent");
    match either(&["source", "host"], "reportingInstance") {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}
