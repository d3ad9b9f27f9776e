//! What a Job's spec must be, and what of it may change, by upstream's `ValidateJob` and `ValidateJobSpecUpdate`.

use super::{CONTROLLER_UID, JOB_NAME, LEGACY_CONTROLLER_UID, LEGACY_JOB_NAME, policies};
use crate::At;
use crate::check;
use crate::fields::{flag, int, list, present, same, text, text_at};
use crate::pod_spec::validation;
use machinery::field::ErrorList;
use machinery::selector::LabelSelector;
use machinery::{Map, Value, meta, names};

const MOST_PARALLEL: i64 = 100_000;
const MOST_FAILED: i64 = 100_000;
/// Above as many completions less may run at once, and less may fail.
const MANY_COMPLETIONS: i64 = 100_000;
const MOST_OF_MANY: i64 = 10_000;
const MANAGED_BY: usize = 63;

/// Judges a new Job, or one as it is after an update.
pub(super) fn job(job: &Value, prefixed_labels: bool, errors: &mut ErrorList) {
    generated_selector(job, prefixed_labels, errors);
    let spec = job.get("spec").unwrap_or(&Value::Null);
    whole_spec(spec, &At::new("spec"), errors);
    let completions = int(spec, "completions").unwrap_or(0);
    if is_indexed(spec) && completions > 0 {
        let name = meta::name(job);
        let host = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&host).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(At::new("metadata.name").invalid(name, why));
        }
    }
}

pub(super) fn is_indexed(spec: &Value) -> bool {
    text(spec, "completionMode") == "Indexed"
}

fn whole_spec(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    template_spec(spec, at, errors);
    let selector = present(spec, "selector");
    match selector {
        None => errors.push(at.child("selector").required("")),
        some => check::label_selector(some, &at.child("selector"), errors),
    }
    let labels = spec.get_path(&["template", "metadata", "labels"]);
    let labels = labels.and_then(Value::as_object);
    if LabelSelector::from_object(selector).is_ok_and(|selector| !selector.matches(labels)) {
        let shown = labels.cloned().map_or(Value::Null, Value::Object);
        let why = "`selector` does not match template `labels`";
        errors.push(at.child("template.metadata.labels").invalid(shown, why));
    }
}

/// The labels that tie the pods to this Job are the ones the server makes.
fn generated_selector(job: &Value, prefixed: bool, errors: &mut ErrorList) {
    let spec = job.get("spec").unwrap_or(&Value::Null);
    let Some(selector) = present(spec, "selector") else {
        return;
    };
    if flag(spec, "manualSelector") {
        return;
    }
    let (name, uid) = (meta::name(job), meta::uid(job));
    if uid.is_empty() {
        errors.push(At::new("metadata.uid").required(""));
    }
    let labels = spec.get_path(&["template", "metadata", "labels"]);
    let at = At::new("spec.template.metadata.labels");
    let mut wanted = Map::new();
    for (label, value) in [
        (LEGACY_CONTROLLER_UID, uid),
        (LEGACY_JOB_NAME, name),
        (CONTROLLER_UID, uid),
        (JOB_NAME, name),
    ] {
        if !prefixed && matches!(label, CONTROLLER_UID | JOB_NAME) {
            continue;
        }
        wanted.insert(label, value);
        let why = || format!("must be '{value}'");
        match labels
            .and_then(|labels| labels.get(label))
            .and_then(Value::as_str)
        {
            None => errors.push(at.key(label).required(why())),
            Some(other) if other != value => {
                errors.push(at.key(label).invalid(labels.cloned().unwrap_or_default(), why()));
            }
            Some(_) => {}
        }
    }
    if LabelSelector::from_object(Some(selector)).is_ok_and(|selector| !selector.matches(Some(&wanted))) {
        errors.push(At::new("spec.selector").invalid(selector.clone(), "`selector` not auto-generated"));
    }
}

/// Judges what a Job's spec and a CronJob's template share.
pub(crate) fn template_spec(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check::not_negative(int(spec, field).unwrap_or(0), &at.child(field), errors);
    }
    if int(spec, "maxFailedIndexes").is_some() && int(spec, "backoffLimitPerIndex").is_none() {
        let why = "when maxFailedIndexes is specified";
        errors.push(at.child("backoffLimitPerIndex").required(why));
    }
    if let Some(manager) = present(spec, "managedBy").and_then(Value::as_str) {
        let at = at.child("managedBy");
        check::domain_prefixed_path(manager, &at, errors);
        if manager.len() > MANAGED_BY {
            errors.push(at.too_long(MANAGED_BY as i64));
        }
    }
    completion_mode(spec, at, errors);
    if let Some(policy) = present(spec, "podFailurePolicy") {
        policies::failure(spec, policy, &at.child("podFailurePolicy"), errors);
    }
    if let Some(policy) = present(spec, "successPolicy") {
        let at = at.child("successPolicy");
        if is_indexed(spec) {
            policies::success(spec, policy, &at, errors);
        } else {
            errors.push(at.invalid(policy.clone(), "requires indexed completion mode"));
        }
    }
    if let Some(policy) = present(spec, "podReplacementPolicy").and_then(Value::as_str) {
        let allowed: &[&str] = if present(spec, "podFailurePolicy").is_some() {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        check::one_of(policy, allowed, &at.child("podReplacementPolicy"), errors);
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    validation::pod_template(template, &at.child("template"), errors);
    restart_policy(spec, &at.child("template.spec.restartPolicy"), errors);
}

fn restart_policy(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text_at(spec, &["template", "spec", "restartPolicy"]) {
        "" | "Always" => errors.push(at.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if present(spec, "podFailurePolicy").is_some() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(at.invalid("OnFailure", why));
        }
        other => check::one_of(other, &["OnFailure", "Never"], at, errors),
    }
}

fn completion_mode(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let number = |field| int(spec, field);
    let (completions, failed) = (number("completions"), number("maxFailedIndexes"));
    let mode = text(spec, "completionMode");
    if !matches!(mode, "" | "NonIndexed" | "Indexed") {
        errors.push(
            at.child("completionMode")
                .not_supported(mode, &["NonIndexed", "Indexed"]),
        );
    }
    if matches!(mode, "" | "NonIndexed") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = number(field) {
                errors.push(at.child(field).invalid(value, "requires indexed completion mode"));
            }
        }
    }
    if mode != "Indexed" {
        return;
    }
    let too_many = |field: &'static str, most: i64, why: String, errors: &mut ErrorList| {
        if let Some(value) = number(field).filter(|value| *value > most) {
            errors.push(at.child(field).invalid(value, why));
        }
    };
    if completions.is_none() {
        errors.push(
            at.child("completions")
                .required("when completion mode is Indexed"),
        );
    }
    let why = format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
    too_many("parallelism", MOST_PARALLEL, why, errors);
    if let Some(completions) = completions {
        let why = "must be less than or equal to completions".to_owned();
        too_many("maxFailedIndexes", completions, why, errors);
    }
    let why = format!("must be less than or equal to {MOST_FAILED}");
    too_many("maxFailedIndexes", MOST_FAILED, why, errors);
    if completions.is_some_and(|count| count > MANY_COMPLETIONS) && number("backoffLimitPerIndex").is_some() {
        if failed.is_none() {
            let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.push(at.child("maxFailedIndexes").required(why));
        }
        for field in ["parallelism", "maxFailedIndexes"] {
            let why = format!(
                "must be less than or equal to {MOST_OF_MANY} when completions are above {MANY_COMPLETIONS} and used \
                 with backoff limit per index"
            );
            too_many(field, MOST_OF_MANY, why, errors);
        }
    }
}

/// Judges what an update changed.
pub(super) fn change(new: &Value, old: &Value, errors: &mut ErrorList) {
    let spec = |job: &Value| job.get("spec").cloned().unwrap_or_default();
    let (new_spec, old_spec) = (spec(new), spec(old));
    let at = At::new("spec");
    let field = |field: &'static str, errors: &mut ErrorList| {
        check::immutable(new_spec.get(field), old_spec.get(field), &at.child(field), errors);
    };
    let completions = int(&new_spec, "completions");
    if !is_indexed(&new_spec) {
        field("completions", errors);
    } else if let Some(count) = completions
        && int(&old_spec, "completions") != completions
        && int(&new_spec, "parallelism") != completions
    {
        // Upstream names the parallelism from the root of the path.
        let why = "can only be modified in tandem with spec.parallelism";
        errors.push(at.child("completions").invalid(count, why));
    }
    field("selector", errors);
    template_change(&new_spec, &old_spec, old, errors);
    for name in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        field(name, errors);
    }
}

/// While a Job is suspended and none of its pods is active, what its pods ask of nodes may change.
fn template_change(new: &Value, old: &Value, old_job: &Value, errors: &mut ErrorList) {
    let suspended = flag(old, "suspend");
    let status = old_job.get("status").unwrap_or(&Value::Null);
    let rests =
        present(status, "startTime").is_none() || crate::table::condition(old_job, "Suspended") == Some(true);
    let changeable = suspended && rests && int(status, "active").unwrap_or(0) == 0;
    let template = |spec: &Value| spec.get("template").cloned().unwrap_or_default();
    let (new, mut old) = (template(new), template(old));
    if changeable {
        follow_directives(&mut old, &new);
        follow_resources(&mut old, &new);
        if !same(&new, &old, &["spec"]) {
            let spec = new.get("spec").cloned().unwrap_or_default();
            errors.push(At::new("spec.template.spec").invalid(spec, check::IMMUTABLE));
        }
        return;
    }
    check::immutable(Some(&new), Some(&old), &At::new("spec.template"), errors);
}

fn follow_directives(old: &mut Value, new: &Value) {
    let follow = |old: &mut Value, path: &[&str]| match new.get_path(path) {
        Some(value) => old.set_path(path, value.clone()),
        None => {
            old.remove_path(path);
        }
    };
    follow(old, &["spec", "affinity", "nodeAffinity"]);
    let affinity = ["spec", "affinity"];
    if old.get_path(&affinity).is_some_and(Value::is_empty) && new.get_path(&affinity).is_none() {
        old.remove_path(&affinity);
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        follow(old, &["spec", field]);
    }
    for field in ["annotations", "labels"] {
        follow(old, &["metadata", field]);
    }
}

fn follow_resources(old: &mut Value, new: &Value) {
    let (Some(old), Some(new)) = (old.get_mut("spec"), new.get("spec")) else {
        return;
    };
    for field in ["containers", "initContainers"] {
        let others = list(new, field);
        let own = crate::fields::list_mut(old, field);
        if own.len() != others.len() {
            continue;
        }
        for (own, other) in own.iter_mut().zip(others) {
            if text(own, "name") == text(other, "name") {
                match other.get("resources") {
                    Some(resources) => own.set_path(&["resources"], resources.clone()),
                    None => {
                        own.remove_path(&["resources"]);
                    }
                }
            }
        }
    }
}
