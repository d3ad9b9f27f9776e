//! Webhooks: what they are asked about, and where.

use super::{FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, conditions, rules};
use crate::At;
use crate::check;
use crate::fields::{int, list, present, text, texts};
use ::expressions::admission::Declared;
use machinery::field::ErrorList;
use machinery::{Value, names};

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const NO_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admissionregistration) enum Webhooks {
    Validating,
    Mutating,
}

/// What must hold now; what did not hold in the old configuration need not.
#[derive(Clone, Copy)]
struct Strictness {
    conditions: bool,
    no_effects: bool,
    known_review: bool,
    unique_names: bool,
}

impl Strictness {
    fn of(new: &Value, old: Option<&Value>) -> Self {
        let Some(old) = old else {
            return Self {
                conditions: true,
                no_effects: true,
                known_review: true,
                unique_names: true,
            };
        };
        let (new, old) = (list(new, "webhooks"), list(old, "webhooks"));
        let conditions = |hook: &Value| list(hook, "matchConditions").to_vec();
        let same = new.len() == old.len()
            && new
                .iter()
                .zip(old)
                .all(|(new, old)| conditions(new) == conditions(old));
        let known = |hook: &Value| {
            let mut versions = texts(hook, "admissionReviewVersions").peekable();
            versions.peek().is_none() || versions.any(|version| REVIEWS.contains(&version))
        };
        let name = |hook: &Value| text(hook, "name").to_owned();
        Self {
            conditions: !same,
            no_effects: old
                .iter()
                .all(|hook| NO_EFFECTS.contains(&text(hook, "sideEffects"))),
            known_review: old.iter().all(known),
            unique_names: (0..old.len())
                .all(|at| !old[..at].iter().any(|other| name(other) == name(&old[at]))),
        }
    }
}

/// Judges a configuration.
pub(in crate::admissionregistration) fn configuration(
    new: &Value,
    old: Option<&Value>,
    kind: Webhooks,
    errors: &mut ErrorList,
) {
    let strict = Strictness::of(new, old);
    let at = At::new("webhooks");
    let hooks = list(new, "webhooks");
    for (index, hook) in hooks.iter().enumerate() {
        let at = at.index(index);
        webhook(hook, kind, strict, &at, errors);
        review_versions(hook, strict, &at.child("admissionReviewVersions"), errors);
        let name = text(hook, "name");
        let repeated = hooks[..index].iter().any(|other| text(other, "name") == name);
        if strict.unique_names && !name.is_empty() && repeated {
            errors.push(at.child("name").duplicate(name));
        }
    }
}

fn webhook(hook: &Value, kind: Webhooks, strict: Strictness, at: &At<'_>, errors: &mut ErrorList) {
    full_name(text(hook, "name"), &at.child("name"), errors);
    let here = at.child("rules");
    for (index, rule) in list(hook, "rules").iter().enumerate() {
        rules::rule(rule, &here.index(index), errors);
    }
    let word = |field: &'static str, allowed: &[&str], errors: &mut ErrorList| {
        if let Some(word) = present(hook, field).and_then(Value::as_str) {
            check::one_of(word, allowed, &at.child(field), errors);
        }
    };
    word("failurePolicy", &FAILURE_POLICIES, errors);
    word("matchPolicy", &MATCH_POLICIES, errors);
    let allowed: &[&str] = if strict.no_effects { &NO_EFFECTS } else { &EFFECTS };
    if present(hook, "sideEffects").is_none() {
        let why = format!("must specify one of {}", allowed.join(", "));
        errors.push(at.child("sideEffects").required(why));
    }
    word("sideEffects", allowed, errors);
    if let Some(seconds) = int(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(at.child("timeoutSeconds").invalid(seconds, why));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        check::label_selector(present(hook, field), &at.child(field), errors);
    }
    if kind == Webhooks::Mutating {
        word("reinvocationPolicy", &REINVOCATION_POLICIES, errors);
    }
    let client = hook.get("clientConfig").unwrap_or(&Value::Null);
    client_config(client, &at.child("clientConfig"), errors);
    if strict.conditions {
        conditions::conditions(
            list(hook, "matchConditions"),
            &Declared::WEBHOOK.environment(),
            &at.child("matchConditions"),
            errors,
        );
    }
}

fn full_name(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    let wrong = names::dns1123_subdomain(name);
    if !wrong.is_empty() {
        errors.push(at.invalid(name, wrong.join(",")));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.push(at.invalid(name, why));
    }
}

fn review_versions(hook: &Value, strict: Strictness, at: &At<'_>, errors: &mut ErrorList) {
    let all: Vec<&str> = texts(hook, "admissionReviewVersions").collect();
    if all.is_empty() {
        errors.push(at.required(format!("must specify one of {}", REVIEWS.join(", "))));
        return;
    }
    for (index, version) in all.iter().enumerate() {
        let at = at.index(index);
        if all[..index].contains(version) {
            errors.push(at.invalid(*version, "duplicate version"));
        } else {
            check::each(names::dns1035_label(version), version, &at, errors);
        }
    }
    if strict.known_review && !all.iter().any(|version| REVIEWS.contains(version)) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(at.invalid(all, why));
    }
}

/// Judges where a webhook is.
pub(crate) fn client_config(client: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match (
        present(client, "url").and_then(Value::as_str),
        present(client, "service"),
    ) {
        (Some(url), None) => self::url(url, &at.child("url"), errors),
        (None, Some(service)) => self::service(service, &at.child("service"), errors),
        _ => errors.push(at.required("exactly one of url or service is required")),
    }
}

fn url(url: &str, at: &At<'_>, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest
        .strip_prefix("//")
        .map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if !scheme.eq_ignore_ascii_case("https") {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(at.invalid(scheme.to_lowercase(), why));
    }
    if host.is_empty() {
        errors.push(at.invalid(host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        errors.push(at.invalid(user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        errors.push(at.invalid(fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        errors.push(at.invalid(query, "query parameters are not permitted in the URL"));
    }
}

/// Upstream confuses the service's name and its namespace where one is missing; clients see that.
fn service(service: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for (field, shown) in [("namespace", "name"), ("name", "namespace")] {
        if text(service, field).is_empty() {
            errors.push(at.child(shown).required(""));
        }
    }
    let port = int(service, "port").unwrap_or(0);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let why = format!("port is not valid: {}", wrong.join(", "));
        errors.push(at.child("port").invalid(port, why));
    }
    let path = text(service, "path");
    let at = at.child("path");
    match path {
        "" | "/" => return,
        "//" => {
            errors.push(at.invalid(path, "segment[0] may not be empty"));
            return;
        }
        _ => {}
    }
    if !path.starts_with('/') {
        errors.push(at.invalid(path, "must start with a '/'"));
    }
    // The first character is taken for the slash, whatever it is.
    let rest = path.char_indices().nth(1).map_or("", |(start, _)| &path[start..]);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (index, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            errors.push(at.invalid(path, format!("segment[{index}] may not be empty")));
            continue;
        }
        for wrong in names::dns1123_subdomain(step) {
            errors.push(at.invalid(path, format!("segment[{index}]: {wrong}")));
        }
    }
}
