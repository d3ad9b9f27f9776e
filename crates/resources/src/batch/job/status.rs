//! What a Job's status may become: whoever manages it, clients can rely on these steps.
//!
//! A rule is applied only where what it speaks of changed, so that a status that broke it before can still be written.

use super::indexes;
use super::validation::is_indexed;
use crate::At;
use crate::check;
use crate::fields::{flag, int, list, present, same, text, texts};
use crate::strategy::{Context, Subresource, keep};
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(super) struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let step = Step::new(new, old);
        counts(step.status, &mut errors);
        conditions(&step, &mut errors);
        times(&step, &mut errors);
        finished(&step, &mut errors);
        index_lists(&step, &mut errors);
        rest(&step, &mut errors);
        transitions(&step, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}

/// The status before and after.
struct Step<'a> {
    new: &'a Value,
    old: &'a Value,
    spec: &'a Value,
    status: &'a Value,
    before: &'a Value,
}

impl<'a> Step<'a> {
    fn new(new: &'a Value, old: &'a Value) -> Self {
        Self {
            new,
            old,
            spec: new.get("spec").unwrap_or(&Value::Null),
            status: new.get("status").unwrap_or(&Value::Null),
            before: old.get("status").unwrap_or(&Value::Null),
        }
    }

    fn is(&self, kind: &str) -> bool {
        is(self.new, kind)
    }

    fn was(&self, kind: &str) -> bool {
        is(self.old, kind)
    }

    fn turned(&self, kind: &str) -> bool {
        self.is(kind) != self.was(kind)
    }

    fn changed(&self, field: &str) -> bool {
        !same(self.status, self.before, &[field])
    }

    fn finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn turned_finished(&self) -> bool {
        self.finished() != (self.was("Complete") || self.was("Failed"))
    }

    fn time(&self, field: &str) -> Option<Timestamp> {
        text(self.status, field).parse().ok()
    }
}

fn is(job: &Value, kind: &str) -> bool {
    crate::table::condition(job, kind) == Some(true)
}

fn counts(status: &Value, errors: &mut ErrorList) {
    let at = At::new("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        check::not_negative(int(status, field).unwrap_or(0), &at.child(field), errors);
    }
    let Some(uncounted) = present(status, "uncountedTerminatedPods") else {
        return;
    };
    let mut seen: Vec<&str> = Vec::new();
    let at = at.child("uncountedTerminatedPods");
    for field in ["succeeded", "failed"] {
        let at = at.child(field);
        for (index, uid) in texts(uncounted, field).enumerate() {
            if uid.is_empty() {
                errors.push(at.index(index).invalid(uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(at.index(index).duplicate(uid));
            } else {
                seen.push(uid);
            }
        }
    }
}

fn conditions(step: &Step<'_>, errors: &mut ErrorList) {
    let at = At::new("status.conditions");
    let complete = step.is("Complete");
    if (step.turned("Complete") || step.turned("Failed")) && complete && step.is("Failed") {
        errors.push(at.invalid_omitted("cannot set Complete=True and Failed=true conditions"));
    }
    if (step.turned("Complete") || step.turned("FailureTarget")) && complete && step.is("FailureTarget") {
        errors.push(at.invalid_omitted("cannot set Complete=True and FailureTarget=true conditions"));
    }
}

fn times(step: &Step<'_>, errors: &mut ErrorList) {
    let at = At::new("status");
    let complete = step.is("Complete");
    let (started, completed) = (step.time("startTime"), step.time("completionTime"));
    let shown = || {
        present(step.status, "completionTime")
            .cloned()
            .unwrap_or_default()
    };
    if step.turned("Complete") || step.changed("completionTime") {
        if completed.is_some() && !complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.push(at.child("completionTime").invalid(shown(), why));
        }
        if completed.is_none() && complete {
            errors.push(
                at.child("completionTime")
                    .required("completionTime is required for Complete jobs"),
            );
        }
    }
    if (step.changed("startTime") || step.changed("completionTime"))
        && let (Some(started), Some(completed)) = (started, completed)
        && completed < started
    {
        let why = "must be equal to or after `startTime`";
        errors.push(at.child("completionTime").invalid(shown(), why));
    }
}

fn finished(step: &Step<'_>, errors: &mut ErrorList) {
    let at = At::new("status");
    if (step.turned("Failed") || step.changed("failedIndexes"))
        && step.is("Failed")
        && !step.is("FailureTarget")
    {
        let why = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(at.child("conditions").invalid_omitted(why));
    }
    if (step.turned("Complete") || step.turned("SuccessCriteriaMet"))
        && step.is("Complete")
        && !step.is("SuccessCriteriaMet")
    {
        let why = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(at.child("conditions").invalid_omitted(why));
    }
    if !step.finished() {
        return;
    }
    let turned = step.turned_finished();
    let active = int(step.status, "active").unwrap_or(0);
    if (turned || step.changed("active")) && active > 0 {
        errors.push(
            at.child("active")
                .invalid(active, "active>0 is invalid for finished job"),
        );
    }
    let nothing_to_do = flag(step.spec, "suspend") && int(step.spec, "completions") == Some(0);
    if (turned || step.changed("startTime")) && !nothing_to_do && step.time("startTime").is_none() {
        errors.push(
            at.child("startTime")
                .required("startTime is required for finished job"),
        );
    }
    if (turned || step.changed("uncountedTerminatedPods"))
        && let Some(uncounted) = present(step.status, "uncountedTerminatedPods")
        && ["failed", "succeeded"]
            .iter()
            .any(|field| !list(uncounted, field).is_empty())
    {
        let why = "must be empty for finished job";
        errors.push(
            at.child("uncountedTerminatedPods")
                .invalid(uncounted.clone(), why),
        );
    }
}

fn index_lists(step: &Step<'_>, errors: &mut ErrorList) {
    let at = At::new("status");
    let (completions, limit) = (
        int(step.spec, "completions"),
        int(step.spec, "backoffLimitPerIndex"),
    );
    let completed = text(step.status, "completedIndexes");
    let failed = present(step.status, "failedIndexes").and_then(Value::as_str);
    let completed_changed = step.changed("completedIndexes");
    let failed_changed = failed != present(step.before, "failedIndexes").and_then(Value::as_str);
    if completed_changed
        && let Some(completions) = completions
        && let Err(why) = indexes::count(completed, completions)
    {
        let why = format!("error parsing completedIndexes: {why}");
        errors.push(at.child("completedIndexes").invalid(completed, why));
    }
    if failed_changed
        && limit.is_some()
        && let (Some(completions), Some(failed)) = (completions, failed)
        && let Err(why) = indexes::count(failed, completions)
    {
        let why = format!("error parsing failedIndexes: {why}");
        errors.push(at.child("failedIndexes").invalid(failed, why));
    }
    if completed_changed && !completed.is_empty() && !is_indexed(step.spec) {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(at.child("completedIndexes").invalid(completed, why));
    }
    if failed_changed
        && limit.is_none()
        && let Some(failed) = failed
    {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(at.child("failedIndexes").invalid(failed, why));
    }
    if (failed_changed || completed_changed)
        && let (Some(completions), Some(failed)) = (completions, failed)
        && let Some(index) = indexes::overlap(completed, failed, completions)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(at.child("failedIndexes").invalid(failed, why));
    }
}

fn rest(step: &Step<'_>, errors: &mut ErrorList) {
    let at = At::new("status");
    let count = |field: &str| int(step.status, field).unwrap_or(0);
    if (step.turned_finished() || step.changed("terminating")) && step.finished() && count("terminating") > 0
    {
        let why = "terminating>0 is invalid for finished job";
        errors.push(at.child("terminating").invalid(count("terminating"), why));
    }
    if (step.changed("ready") || step.changed("active")) && count("ready") > count("active") {
        let why = "cannot set more ready pods than active";
        errors.push(at.child("ready").invalid(count("ready"), why));
    }
    let at = at.child("conditions");
    let met = step.is("SuccessCriteriaMet");
    for kind in ["Failed", "FailureTarget"] {
        if met && step.is(kind) {
            let why = format!("cannot set SuccessCriteriaMet=True and {kind}=true conditions");
            errors.push(at.invalid_omitted(why));
        }
    }
    if present(step.spec, "successPolicy").is_some() && !met && step.is("Complete") {
        let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        errors.push(at.invalid_omitted(why));
    }
}

fn transitions(step: &Step<'_>, errors: &mut ErrorList) {
    let at = At::new("status");
    let conditions = at.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if step.was(kind) && !step.is(kind) {
            let why = format!("cannot disable the terminal {kind}=True condition");
            errors.push(conditions.invalid_omitted(why));
        }
    }
    let count = |status: &Value, field: &str| int(status, field).unwrap_or(0);
    let less = |field: &str| count(step.status, field) < count(step.before, field);
    // A Job that is scaled down forgets the indexes it does not have any more.
    let elastic = is_indexed(step.spec) && int(step.spec, "completions") == int(step.spec, "parallelism");
    for (field, counted) in [("failed", true), ("succeeded", !elastic)] {
        if counted && less(field) {
            let why = format!("cannot decrease the {field} counter");
            errors.push(at.child(field).invalid(count(step.status, field), why));
        }
    }
    let completed = present(step.status, "completionTime");
    if completed.is_some()
        && present(step.before, "completionTime").is_some()
        && step.changed("completionTime")
    {
        let shown = completed.cloned().unwrap_or_default();
        errors.push(at.child("completionTime").invalid(shown, check::IMMUTABLE));
    }
    let resuming = step.was("Suspended") && crate::table::condition(step.new, "Suspended") == Some(false);
    if present(step.before, "startTime").is_some()
        && step.changed("startTime")
        && !resuming
        && !flag(step.spec, "suspend")
    {
        let shown = present(step.status, "startTime").cloned().unwrap_or_default();
        let why = "field is immutable for unsuspended job once set";
        errors.push(at.child("startTime").invalid(shown, why));
    }
    let met = (
        "SuccessCriteriaMet",
        step.was("SuccessCriteriaMet"),
        step.is("SuccessCriteriaMet"),
    );
    if met.1 && !met.2 {
        errors.push(conditions.invalid_omitted("cannot disable the SuccessCriteriaMet=True condition"));
    }
    if step.was("Complete") && !met.1 && met.2 {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(conditions.invalid_omitted(why));
    }
}
