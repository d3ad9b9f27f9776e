//! Spreading pods over a topology, and the label keys that belong to a selector.

use crate::At;
use crate::check;
use crate::fields::{entries, int, list, present, text, texts};
use machinery::Value;
use machinery::field::ErrorList;

/// Judges `topologySpreadConstraints`.
pub(super) fn spread_constraints(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let all = list(spec, "topologySpreadConstraints");
    for (index, constraint) in all.iter().enumerate() {
        let at = at.index(index);
        check::positive(
            int(constraint, "maxSkew").unwrap_or(0),
            &at.child("maxSkew"),
            errors,
        );
        let (key, action) = (
            text(constraint, "topologyKey"),
            text(constraint, "whenUnsatisfiable"),
        );
        if key.is_empty() {
            errors.push(at.child("topologyKey").required("can not be empty"));
        }
        check::one_of(
            action,
            &["DoNotSchedule", "ScheduleAnyway"],
            &at.child("whenUnsatisfiable"),
            errors,
        );
        let same =
            |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if all[index + 1..].iter().any(same) {
            let shown = format!("{{{key}, {action}}}");
            errors.push(at.child("{topologyKey, whenUnsatisfiable}").duplicate(shown));
        }
        if let Some(domains) = int(constraint, "minDomains") {
            let at = at.child("minDomains");
            check::positive(domains, &at, errors);
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(at.invalid(domains, why));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = present(constraint, field).and_then(Value::as_str) {
                check::one_of(policy, &["Honor", "Ignore"], &at.child(field), errors);
            }
        }
        label_keys(constraint, &at, errors);
        check::label_selector(
            present(constraint, "labelSelector"),
            &at.child("labelSelector"),
            errors,
        );
    }
}

/// Judges `matchLabelKeys` and `mismatchLabelKeys` against each other and the selector beside them.
pub(super) fn label_keys(holder: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let selector = present(holder, "labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = list(holder, field);
        let at = at.child(field);
        if !keys.is_empty() && selector.is_none() {
            errors.push(at.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for (index, key) in texts(holder, field).enumerate() {
            check::qualified(key, &at.index(index), errors);
        }
    }
    let place = |key: &str| texts(holder, "matchLabelKeys").position(|other| other == key);
    if let Some(selector) = selector {
        let mut seen: Vec<&str> = entries(selector, "matchLabels")
            .iter()
            .map(|(key, _)| key.as_str())
            .collect();
        for expression in list(selector, "matchExpressions") {
            let key = text(expression, "key");
            // The server has added a requirement for each key by now: one more is the client's own.
            if let Some(index) = place(key).filter(|_| seen.contains(&key)) {
                errors.push(
                    at.index(index)
                        .invalid(key, "exists in both matchLabelKeys and labelSelector"),
                );
            }
            seen.push(key);
        }
    }
    let keys = at.child("matchLabelKeys");
    for (index, key) in texts(holder, "matchLabelKeys").enumerate() {
        if texts(holder, "mismatchLabelKeys").any(|other| other == key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(keys.index(index).invalid(key, why));
        }
    }
}
