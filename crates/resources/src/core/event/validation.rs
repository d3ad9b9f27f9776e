//! What an event must be: little in the core group, more for clients of `events.k8s.io`.

use crate::At;
use crate::check;
use crate::fields::{int, present, same, text, text_at};
use machinery::Value;
use machinery::field::ErrorList;
use machinery::meta;

const LONGEST: usize = 128;
const LONGEST_NOTE: usize = 1024;

/// Judges a new event, in the form of the core group.
pub(super) fn create(event: &Value, api_version: &str, errors: &mut ErrorList) {
    every(event, api_version, errors);
    if api_version == "v1" {
        return;
    }
    series(event, errors);
    if text(event, "eventTime").is_empty() {
        errors.push(At::new("eventTime").required(""));
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(At::new("type").invalid("", format!("has invalid value: {kind}")));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if !text(event, field).is_empty() {
            errors.push(At::new(field).invalid("", "needs to be unset"));
        }
    }
    if int(event, "count").unwrap_or(0) != 0 {
        errors.push(At::new("count").invalid("", "needs to be unset"));
    }
    if ["component", "host"]
        .iter()
        .any(|field| !text_at(event, &["source", field]).is_empty())
    {
        errors.push(At::new("source").invalid("", "needs to be unset"));
    }
}

/// Judges an update of an event; only its series may change.
pub(super) fn update(new: &Value, old: &Value, api_version: &str, errors: &mut ErrorList) {
    every(new, api_version, errors);
    if api_version == "v1" {
        return;
    }
    if !same(new, old, &["series"]) {
        series(new, errors);
    }
    let keep = |field: &'static str, shown: &'static str, errors: &mut ErrorList| {
        check::immutable(new.get(field), old.get(field), &At::new(shown), errors);
    };
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
    ] {
        keep(field, field, errors);
    }
    keep("reportingComponent", "reportingController", errors);
    keep("reportingInstance", "reportingInstance", errors);
}

fn series(event: &Value, errors: &mut ErrorList) {
    let Some(series) = present(event, "series") else {
        return;
    };
    if int(series, "count").unwrap_or(0) < 2 {
        errors.push(At::new("series.count").invalid("", "should be at least 2"));
    }
    if text(series, "lastObservedTime").is_empty() {
        errors.push(At::new("series.lastObservedTime").required(""));
    }
}

/// What holds for every event; those with a time of their own are of the newer kind.
fn every(event: &Value, api_version: &str, errors: &mut ErrorList) {
    let namespace = meta::namespace(event);
    let involved = text_at(event, &["involvedObject", "namespace"]);
    let newer = !text(event, "eventTime").is_empty();
    let agrees = match (newer, involved) {
        (false, "") => matches!(namespace, "" | "default"),
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (false, involved) => namespace == involved,
        (true, _) => true,
    };
    if !agrees {
        let at = At::new("involvedObject.namespace");
        errors.push(at.invalid(involved, "does not match event.namespace"));
    }
    if newer {
        let controller = if api_version == "v1" {
            "reportingComponent"
        } else {
            "reportingController"
        };
        let at = At::new(controller);
        let reporter = text(event, "reportingComponent");
        if reporter.is_empty() {
            errors.push(at.required(""));
        }
        check::qualified(reporter, &at, errors);
        for field in ["reportingInstance", "action", "reason"] {
            let value = text(event, field);
            if value.is_empty() {
                errors.push(At::new(field).required(""));
            }
            length(value, LONGEST, &At::new(field), errors);
        }
        length(text(event, "message"), LONGEST_NOTE, &At::new("message"), errors);
    }
    check::subdomain(namespace, &At::new("namespace"), errors);
}

fn length(value: &str, longest: usize, at: &At<'_>, errors: &mut ErrorList) {
    if value.len() > longest {
        errors.push(at.invalid("", format!("can have at most {longest} characters")));
    }
}
