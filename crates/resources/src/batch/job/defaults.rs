//! Defaults of a Job, and of the template of a CronJob.

use crate::fields::{fill, fill_text, list_mut, present};
use crate::pod_spec;
use machinery::{Map, Value, meta};

/// Fills a Job; what a CronJob's template does not get as well is here.
pub(super) fn job(job: &mut Value) {
    if let Some(spec) = job.get_mut("spec") {
        job_spec(spec);
        own_spec(spec);
    }
    let labels = job
        .get_path(&["spec", "template", "metadata", "labels"])
        .and_then(Value::as_object);
    if let Some(labels) = labels.filter(|labels| !labels.is_empty()).cloned()
        && meta::labels(job).is_none_or(Map::is_empty)
    {
        meta::set(job, "labels", labels);
    }
}

/// Fills what a Job and a CronJob's template share.
pub(crate) fn job_spec(spec: &mut Value) {
    pod_spec::pod_template(spec.get_mut("template"));
    let Some(policy) = spec.get_mut("podFailurePolicy") else {
        return;
    };
    for rule in list_mut(policy, "rules") {
        for pattern in list_mut(rule, "onPodConditions") {
            if let Some(pattern) = pattern.as_object_mut() {
                fill_text(pattern, "status", "True");
            }
        }
    }
}

fn own_spec(spec: &mut Value) {
    let has = |field| present(spec, field).is_some();
    let single = !has("completions") && !has("parallelism");
    let per_index = has("backoffLimitPerIndex");
    let replacement = if has("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    let Some(map) = spec.as_object_mut() else { return };
    if single {
        fill(map, "completions", 1);
    }
    fill(map, "parallelism", 1);
    fill(
        map,
        "backoffLimit",
        if per_index { i64::from(i32::MAX) } else { 6 },
    );
    fill(map, "completionMode", "NonIndexed");
    fill(map, "suspend", false);
    fill(map, "podReplacementPolicy", replacement);
    fill(map, "manualSelector", false);
}
