//! A Job's policies for failures and for success.

use super::indexes;
use crate::At;
use crate::check;
use crate::fields::{int, list, present, text};
use machinery::Value;
use machinery::field::ErrorList;

const MOST_RULES: usize = 20;
const MOST_PATTERNS: usize = 20;
const MOST_EXIT_CODES: usize = 255;
const LONGEST_INDEXES: usize = 64 * 1024;

/// Judges `podFailurePolicy`.
pub(super) fn failure(spec: &Value, policy: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.child("rules");
    let rules = list(policy, "rules");
    if rules.len() > MOST_RULES {
        errors.push(at.too_many(rules.len(), MOST_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &at.index(index), errors);
    }
}

fn failure_rule(spec: &Value, rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let here = at.child("action");
    match text(rule, "action") {
        "" => errors.push(here.required(valid(&ACTIONS))),
        "FailIndex" if int(spec, "backoffLimitPerIndex").is_none() => {
            errors.push(here.invalid("FailIndex", "requires the backoffLimitPerIndex to be set"));
        }
        action => check::one_of(action, &ACTIONS, &here, errors),
    }
    let codes = present(rule, "onExitCodes");
    let conditions = list(rule, "onPodConditions");
    if let Some(codes) = codes {
        exit_codes(spec, codes, &at.child("onExitCodes"), errors);
    }
    if !conditions.is_empty() {
        pod_conditions(conditions, &at.child("onPodConditions"), errors);
    }
    match (codes.is_some(), !conditions.is_empty()) {
        (true, true) => errors
            .push(at.invalid_omitted("specifying both OnExitCodes and OnPodConditions is not supported")),
        (false, false) => {
            errors.push(at.invalid_omitted("specifying one of OnExitCodes and OnPodConditions is required"));
        }
        _ => {}
    }
}

fn pod_conditions(patterns: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    if patterns.len() > MOST_PATTERNS {
        errors.push(at.too_many(patterns.len(), MOST_PATTERNS));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let at = at.index(index);
        check::qualified(text(pattern, "type"), &at.child("type"), errors);
        match text(pattern, "status") {
            "" => errors.push(at.child("status").required(valid(&STATUSES))),
            status => check::one_of(status, &STATUSES, &at.child("status"), errors),
        }
    }
}

fn exit_codes(spec: &Value, rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let operator = text(rule, "operator");
    match operator {
        "" => errors.push(at.child("operator").required(valid(&OPERATORS))),
        operator => check::one_of(operator, &OPERATORS, &at.child("operator"), errors),
    }
    if let Some(name) = present(rule, "containerName").and_then(Value::as_str) {
        let pod = spec.get_path(&["template", "spec"]).unwrap_or(&Value::Null);
        let mut containers = list(pod, "containers").iter().chain(list(pod, "initContainers"));
        if !containers.any(|container| text(container, "name") == name) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.push(at.child("containerName").invalid(name, why));
        }
    }
    let values = list(rule, "values");
    let at = at.child("values");
    let shown = || rule.get("values").cloned().unwrap_or_default();
    if values.is_empty() {
        errors.push(at.invalid(shown(), "at least one value is required"));
    } else if values.len() > MOST_EXIT_CODES {
        errors.push(at.too_many(values.len(), MOST_EXIT_CODES));
    }
    let mut codes: Vec<i64> = Vec::with_capacity(values.len());
    let mut ordered = true;
    for (index, code) in values.iter().filter_map(Value::as_i64).enumerate() {
        if operator == "In" && code == 0 {
            errors.push(at.index(index).invalid(code, "must not be 0 for the In operator"));
        }
        if codes.contains(&code) {
            errors.push(at.index(index).duplicate(code));
        }
        ordered &= codes.last().is_none_or(|last| *last <= code);
        codes.push(code);
    }
    if !ordered {
        errors.push(at.invalid(shown(), "must be ordered"));
    }
}

/// Judges `successPolicy` of an indexed Job.
pub(super) fn success(spec: &Value, policy: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let rules = list(policy, "rules");
    let at = at.child("rules");
    if rules.is_empty() {
        errors.push(at.required("at least one rules must be specified when the successPolicy is specified"));
    }
    if rules.len() > MOST_RULES {
        errors.push(at.too_many(rules.len(), MOST_RULES));
    }
    let completions = int(spec, "completions").unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &at.index(index), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, at: &At<'_>, errors: &mut ErrorList) {
    let count = int(rule, "succeededCount");
    let indexes = present(rule, "succeededIndexes").and_then(Value::as_str);
    if count.is_none() && indexes.is_none() {
        errors.push(at.required("at least one of succeededCount or succeededIndexes must be specified"));
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = at.child("succeededIndexes");
        if indexes.len() > LONGEST_INDEXES {
            errors.push(at.too_long(LONGEST_INDEXES as i64));
        }
        match indexes::count(indexes, completions) {
            Ok(count) => total = count,
            Err(why) => {
                errors.push(at.invalid(indexes, format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    let Some(count) = count else { return };
    let at = at.child("succeededCount");
    check::not_negative(count, &at, errors);
    if count > completions {
        let why =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(at.invalid(count, why));
    }
    if indexes.is_some() && count > total {
        let why = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(at.invalid(count, why));
    }
}

fn valid(words: &[&str]) -> String {
    format!("valid values: [\"{}\"]", words.join("\" \""))
}
