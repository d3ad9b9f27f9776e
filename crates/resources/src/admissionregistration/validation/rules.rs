//! Which requests are meant: operations, groups, versions and resources.

use crate::At;
use crate::check;
use crate::fields::{list, present, text, texts};
use machinery::field::ErrorList;
use machinery::{Value, names};

/// A rule with its operations.
pub(super) fn rule(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let here = at.child("operations");
    needed(rule, "operations", &here, errors);
    star_alone(rule, "operations", "operations", &here, errors);
    for (index, operation) in texts(rule, "operations").enumerate() {
        check::one_of(operation, &OPERATIONS, &here.index(index), errors);
    }
    let here = at.child("apiGroups");
    needed(rule, "apiGroups", &here, errors);
    star_alone(rule, "apiGroups", "API groups", &here, errors);
    let here = at.child("apiVersions");
    needed(rule, "apiVersions", &here, errors);
    star_alone(rule, "apiVersions", "API versions", &here, errors);
    for (index, version) in texts(rule, "apiVersions").enumerate() {
        if version.is_empty() {
            errors.push(here.index(index).required(""));
        }
    }
    resources(rule, &at.child("resources"), errors);
    if let Some(scope) = present(rule, "scope").and_then(Value::as_str) {
        check::one_of(scope, &["*", "Cluster", "Namespaced"], &at.child("scope"), errors);
    }
}

/// A rule of a policy, which may name objects too.
pub(super) fn named_rule(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let here = at.child("resourceNames");
    let mut seen: Vec<&str> = Vec::new();
    for (index, name) in texts(rule, "resourceNames").enumerate() {
        let at = here.index(index);
        check::each(names::path_segment(name, false), name, &at, errors);
        if seen.contains(&name) {
            errors.push(at.duplicate(name));
        } else {
            seen.push(name);
        }
    }
    self::rule(rule, at, errors);
}

/// What a policy or a binding is about.
pub(super) fn match_resources(resources: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(resources, "matchPolicy") {
        "" if present(resources, "matchPolicy").is_none() => {
            errors.push(at.child("matchPolicy").required(""));
        }
        policy => check::one_of(policy, &super::MATCH_POLICIES, &at.child("matchPolicy"), errors),
    }
    for field in ["namespaceSelector", "objectSelector"] {
        match present(resources, field) {
            None => errors.push(at.child(field).required("")),
            some => check::label_selector(some, &at.child(field), errors),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let at = at.child(field);
        for (index, rule) in list(resources, field).iter().enumerate() {
            named_rule(rule, &at.index(index), errors);
        }
    }
}

fn needed(rule: &Value, field: &str, at: &At<'_>, errors: &mut ErrorList) {
    if list(rule, field).is_empty() {
        errors.push(at.required(""));
    }
}

fn star_alone(rule: &Value, field: &str, what: &str, at: &At<'_>, errors: &mut ErrorList) {
    let all = list(rule, field);
    if all.len() > 1 && texts(rule, field).any(|word| word == "*") {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.push(at.invalid(Value::Array(all.to_vec()), why));
    }
}

/// Resources and subresources: nothing may be meant twice.
fn resources(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    needed(rule, "resources", at, errors);
    let (mut whole, mut of_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut everything, mut star, mut plain) = (false, false, false);
    let shown = || Value::Array(list(rule, "resources").to_vec());
    for (index, resource) in texts(rule, "resources").enumerate() {
        let at = at.index(index);
        if resource.is_empty() {
            errors.push(at.required(""));
            continue;
        }
        everything |= resource == "*/*";
        star |= resource == "*";
        let Some((name, part)) = resource.split_once('/') else {
            // As upstream: the last one without a part decides.
            plain = resource != "*";
            continue;
        };
        if whole.contains(&name) {
            let why = format!("if '{name}/*' is present, must not specify {resource}");
            errors.push(at.invalid(resource, why));
        }
        if of_all.contains(&part) {
            let why = format!("if '*/{part}' is present, must not specify {resource}");
            errors.push(at.invalid(resource, why));
        }
        if part == "*" {
            whole.push(name);
        }
        if name == "*" {
            of_all.push(part);
        }
    }
    if list(rule, "resources").len() > 1 && everything {
        let why = "if '*/*' is present, must not specify other resources";
        errors.push(at.invalid(shown(), why));
    }
    if star && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(at.invalid(shown(), why));
    }
}
