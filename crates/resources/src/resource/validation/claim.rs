//! Claims, and the classes they name.

use super::{MOST_CONFIGS, MOST_REQUESTS, fits, names};
use crate::At;
use crate::check;
use crate::fields::{int, list, present, same, text, texts};
use crate::pod_spec::validation::is_extended;
use machinery::codec::json;
use machinery::field::ErrorList;
use machinery::{Value, names as rules};

const MOST_SELECTORS: usize = 32;
const MOST_CONSTRAINTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LONGEST_PARAMETERS: usize = 10 * 1024;
const NO_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Judges a claim's spec, or a template's.
pub(in crate::resource) fn claim_spec(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let devices = spec.get("devices").unwrap_or(&Value::Null);
    let at = at.child("devices");
    let requests = list(devices, "requests");
    let here = at.child("requests");
    if fits(requests.len(), MOST_REQUESTS, &here, errors) {
        for (index, request) in requests.iter().enumerate() {
            self::request(request, &here.index(index), errors);
        }
        unique(requests, &here, errors);
    }
    let constraints = list(devices, "constraints");
    let here = at.child("constraints");
    if fits(constraints.len(), MOST_CONSTRAINTS, &here, errors) {
        for (index, one) in constraints.iter().enumerate() {
            constraint(one, requests, &here.index(index), errors);
        }
    }
    let configs = list(devices, "config");
    let here = at.child("config");
    if fits(configs.len(), MOST_CONFIGS, &here, errors) {
        for (index, config) in configs.iter().enumerate() {
            let at = here.index(index);
            request_names(config, requests, &at.child("requests"), errors);
            configuration(config, Strictness::New, &at, errors);
        }
    }
}

fn unique(named: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    for (index, one) in named.iter().enumerate() {
        let name = text(one, "name");
        if named[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(at.index(index).duplicate(name));
        }
    }
}

fn request(request: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    check::label(text(request, "name"), &at.child("name"), errors);
    let alternatives = list(request, "firstAvailable");
    match (present(request, "exactly"), alternatives.is_empty()) {
        (None, true) => errors.push(at.required(ONE)),
        (Some(_), false) => {
            let why = format!("{ONE}, but multiple fields are set");
            errors.push(at.invalid(Value::Null, why));
        }
        (Some(exactly), true) => one_request(exactly, &at.child("exactly"), errors),
        (None, false) => {
            let here = at.child("firstAvailable");
            if fits(alternatives.len(), MOST_ALTERNATIVES, &here, errors) {
                for (index, one) in alternatives.iter().enumerate() {
                    let at = here.index(index);
                    check::label(text(one, "name"), &at.child("name"), errors);
                    one_request(one, &at, errors);
                }
                unique(alternatives, &here, errors);
            }
        }
    }
}

fn one_request(request: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(request, "deviceClassName") {
        "" => errors.push(at.child("deviceClassName").required("")),
        name => check::subdomain(name, &at.child("deviceClassName"), errors),
    }
    selectors(request, &at.child("selectors"), errors);
    let count = int(request, "count").unwrap_or(0);
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.push(at.child("count").invalid(count, why));
        }
        "All" => {}
        "ExactCount" => check::positive(count, &at.child("count"), errors),
        other => errors.push(
            at.child("allocationMode")
                .not_supported(other, &["All", "ExactCount"]),
        ),
    }
    let here = at.child("tolerations");
    for (index, one) in list(request, "tolerations").iter().enumerate() {
        toleration(one, &here.index(index), errors);
    }
}

fn selectors(holder: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let selectors = list(holder, "selectors");
    if !fits(selectors.len(), MOST_SELECTORS, at, errors) {
        return;
    }
    for (index, selector) in selectors.iter().enumerate() {
        let at = at.index(index);
        match present(selector, "cel") {
            None => errors.push(at.child("cel").required("")),
            Some(cel) if text(cel, "expression").len() > LONGEST_EXPRESSION => {
                errors.push(at.child("cel.expression").too_long(LONGEST_EXPRESSION as i64));
            }
            Some(_) => {}
        }
    }
}

fn toleration(toleration: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let (key, value) = (text(toleration, "key"), text(toleration, "value"));
    if !key.is_empty() {
        check::qualified(key, &at.child("key"), errors);
    }
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            errors.push(
                at.child("value")
                    .invalid(value, "must be empty for operator `Exists`"),
            );
        }
        "Exists" => {}
        "Equal" => check::each(rules::label_value(value), value, &at.child("value"), errors),
        other => check::required_one_of(other, &["Equal", "Exists"], &at.child("operator"), errors),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() {
        check::one_of(effect, &super::device::EFFECTS, &at.child("effect"), errors);
    }
}

fn constraint(constraint: &Value, requests: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    request_names(constraint, requests, &at.child("requests"), errors);
    let field = ["matchAttribute", "distinctAttribute"]
        .into_iter()
        .find_map(|field| Some((field, present(constraint, field)?.as_str()?)));
    match field {
        Some((field, name)) => names::fully_qualified(name, &at.child(field), errors),
        None => errors.push(at.required(
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        )),
    }
}

fn request_names(holder: &Value, requests: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    let all: Vec<&str> = texts(holder, "requests").collect();
    if !fits(all.len(), MOST_REQUESTS, at, errors) {
        return;
    }
    for (index, name) in all.iter().enumerate() {
        request_name(name, requests, &at.index(index), errors);
    }
    for (index, name) in all.iter().enumerate() {
        if all[..index].contains(name) {
            errors.push(at.index(index).duplicate(*name));
        }
    }
}

/// The name of a request of the claim, or of one of its alternatives.
pub(super) fn request_name(name: &str, requests: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        errors.push(at.invalid(name, NO_REQUEST));
        return;
    }
    for part in &parts {
        check::label(part, at, errors);
    }
    let named = |all: &[Value], name: &str| all.iter().find(|one| text(one, "name") == name).cloned();
    let known = named(requests, parts[0]).is_some_and(|request| match parts.get(1) {
        None => true,
        Some(part) => named(list(&request, "firstAvailable"), part).is_some(),
    });
    if !known {
        errors.push(at.invalid(name, NO_REQUEST));
    }
}

/// Whether limits that came later apply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    New,
    /// It was stored like this before.
    Stored,
}

/// A driver's own configuration.
pub(super) fn configuration(config: &Value, strictness: Strictness, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.child("opaque");
    let Some(opaque) = present(config, "opaque") else {
        errors.push(at.required(""));
        return;
    };
    names::driver(text(opaque, "driver"), &at.child("driver"), errors);
    let most = (strictness == Strictness::New).then_some(LONGEST_PARAMETERS);
    raw_object(opaque.get("parameters"), most, &at.child("parameters"), errors);
}

/// JSON that must be an object.
pub(super) fn raw_object(raw: Option<&Value>, most: Option<usize>, at: &At<'_>, errors: &mut ErrorList) {
    let Some(raw) = raw.filter(|raw| !raw.is_null()) else {
        errors.push(at.required(""));
        return;
    };
    let mut bytes = Vec::new();
    json::encode(raw, &mut bytes);
    if let Some(most) = most.filter(|most| bytes.len() > *most) {
        errors.push(at.too_long(most as i64));
    } else if raw.as_object().is_none() {
        errors.push(at.invalid("<value omitted>", "must be a valid JSON object"));
    }
}

/// Judges a class.
pub(in crate::resource) fn class_spec(new: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    selectors(spec, &at.child("selectors"), errors);
    let strictness = if old.is_some_and(|old| same(new, old, &["spec", "config"])) {
        Strictness::Stored
    } else {
        Strictness::New
    };
    let configs = list(spec, "config");
    let here = at.child("config");
    if fits(configs.len(), MOST_CONFIGS, &here, errors) {
        for (index, config) in configs.iter().enumerate() {
            configuration(config, strictness, &here.index(index), errors);
        }
    }
    if let Some(name) = present(spec, "extendedResourceName").and_then(Value::as_str)
        && !is_extended(name)
    {
        let why = "must be a valid extended resource name";
        errors.push(at.child("extendedResourceName").invalid(name, why));
    }
}
