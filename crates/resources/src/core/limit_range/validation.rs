//! What limits may say: known names, and amounts that do not contradict one another.

use crate::At;
use crate::check;
use crate::fields::{entries, list_at, text};
use crate::pod_spec::validation::{container_resource_name, may_overcommit, resource_name};
use machinery::field::ErrorList;
use machinery::quantity::Quantity;
use machinery::{Value, names};
use std::collections::BTreeSet;

/// Judges `spec.limits`.
pub(super) fn limits(range: &Value, errors: &mut ErrorList) {
    let at = At::new("spec.limits");
    let all = list_at(range, &["spec", "limits"]);
    for (index, limit) in all.iter().enumerate() {
        let at = at.index(index);
        let kind = text(limit, "type");
        kind_errors(kind, &at.child("type"), errors);
        if all[..index].iter().any(|other| text(other, "type") == kind) {
            errors.push(at.child("type").duplicate(kind));
        }
        one(limit, kind, &at, errors);
    }
}

fn kind_errors(kind: &str, at: &At<'_>, errors: &mut ErrorList) {
    let wrong = names::qualified_name(kind);
    let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind);
    if !wrong.is_empty() {
        check::each(wrong, kind, at, errors);
    } else if !kind.contains('/') && !standard {
        errors.push(at.invalid(kind, "must be a standard limit type or fully qualified"));
    }
}

fn one(limit: &Value, kind: &str, at: &At<'_>, errors: &mut ErrorList) {
    let mut all: BTreeSet<&str> = BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let here = at.child(field);
        let amounts = entries(limit, field);
        if kind == "Pod" && field.starts_with("default") {
            if !amounts.is_empty() {
                errors.push(here.forbidden("may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        if field == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" {
            let has = |field| limit.get_path(&[field, "storage"]).is_some();
            if !has("min") && !has("max") {
                let why = "either minimum or maximum storage value is required, but neither was provided";
                errors.push(at.child("limits").required(why));
            }
        }
        for (name, _) in amounts {
            if matches!(kind, "Pod" | "Container") {
                container_resource_name(name, &here.key(name), errors);
            } else {
                resource_name(name, &here.key(name), errors);
            }
            all.insert(name);
        }
    }
    for name in all {
        amounts(limit, kind, name, at, errors);
    }
}

fn amounts(limit: &Value, kind: &str, name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let amount = |field: &str| {
        let text = limit.get_path(&[field, name])?.as_str()?;
        text.parse::<Quantity>().ok()
    };
    let defaults = |field: &str| amount(field).filter(|_| kind != "Pod");
    let (min, max) = (amount("min"), amount("max"));
    let (limit_default, request) = (defaults("default"), defaults("defaultRequest"));
    // Who must not be above whom, which of the two upstream shows, at which field, and their names.
    let order = [
        (min, max, min, "min", ("min", "max")),
        (
            min,
            request,
            request,
            "defaultRequest",
            ("min", "default request"),
        ),
        (
            request,
            max,
            request,
            "defaultRequest",
            ("default request", "max"),
        ),
        (
            request,
            limit_default,
            request,
            "defaultRequest",
            ("default request", "default limit"),
        ),
        (min, limit_default, min, "default", ("min", "default")),
        (limit_default, max, max, "default", ("default", "max")),
    ];
    for (low, high, shown, field, (low_name, high_name)) in order {
        if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
            && low > high
        {
            let why = format!("{low_name} value {low} is greater than {high_name} value {high}");
            let at = at.child(field);
            errors.push(at.key(name).invalid(shown.to_string(), why));
        }
    }
    if let Some(ratio) = amount("maxLimitRequestRatio") {
        let at = at.child("maxLimitRequestRatio");
        let at = at.key(name);
        if ratio < Quantity::from_millis(1000) {
            errors.push(at.invalid(ratio.to_string(), format!("ratio {ratio} is less than 1")));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = max.as_f64() / min.as_f64();
            if ratio.as_f64() > most {
                let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
                errors.push(at.invalid(ratio.to_string(), why));
            }
        }
    }
    if let (Some(limit), Some(request)) = (limit_default, request)
        && !may_overcommit(name)
        && limit != request
    {
        let why = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        let at = at.child("defaultRequest");
        errors.push(at.key(name).invalid(request.to_string(), why));
    }
}
