//! Policies, and the bindings that put them to use.

use super::expressions::{Environments, judge};
use super::{FAILURE_POLICIES, REINVOCATION_POLICIES, conditions, rules};
use crate::At;
use crate::check;
use crate::conditions::conditions as status_conditions;
use crate::fields::{list, present, same, text, texts};
use ::expressions::Environment;
use ::expressions::admission::{Wanted, compile};
use machinery::field::ErrorList;
use machinery::{Value, meta, names};

const MOST_ANNOTATIONS: usize = 20;
const LONGEST_ANNOTATION: usize = 5 * 1024;
const NOT_GIVEN: &str = "expression is not specified";

/// Judges a policy that validates.
pub(in crate::admissionregistration) fn validating_policy(
    new: &Value,
    old: Option<&Value>,
    errors: &mut ErrorList,
) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    let mut environments = Environments::new(spec);
    common(new, old, Operations::All, &environments, errors);
    variables(spec, &mut environments.all, &at.child("variables"), errors);
    environments.messages.share_definitions(&environments.all);
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            let why = "validations or auditAnnotations must contain at least one item";
            errors.push(at.child(field).required(why));
        }
        return;
    }
    let here = at.child("validations");
    for (index, one) in validations.iter().enumerate() {
        validation(one, &environments, &here.index(index), errors);
    }
    let here = at.child("auditAnnotations");
    audit_annotations(new, annotations, &environments.all, &here, errors);
}

/// Judges a policy that changes objects.
pub(in crate::admissionregistration) fn mutating_policy(
    new: &Value,
    old: Option<&Value>,
    errors: &mut ErrorList,
) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    let mut environments = Environments::new(spec);
    common(new, old, Operations::Mutating, &environments, errors);
    variables(spec, &mut environments.all, &at.child("variables"), errors);
    let environment = environments.all.with_patches();
    let here = at.child("mutations");
    if list(spec, "mutations").is_empty() {
        errors.push(here.required("mutations must contain at least one item"));
    }
    for (index, one) in list(spec, "mutations").iter().enumerate() {
        mutation(one, &environment, &here.index(index), errors);
    }
    check::required_one_of(
        text(spec, "reinvocationPolicy"),
        &REINVOCATION_POLICIES,
        &at.child("reinvocationPolicy"),
        errors,
    );
}

/// Which operations a policy can be about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operations {
    All,
    Mutating,
}

fn common(
    new: &Value,
    old: Option<&Value>,
    operations: Operations,
    environments: &Environments,
    errors: &mut ErrorList,
) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    let here = at.child("failurePolicy");
    match present(spec, "failurePolicy").and_then(Value::as_str) {
        None => errors.push(here.required("")),
        Some(policy) => check::one_of(policy, &FAILURE_POLICIES, &here, errors),
    }
    if let Some(kind) = present(spec, "paramKind") {
        parameter_kind(kind, &at.child("paramKind"), errors);
    }
    let here = at.child("matchConstraints");
    match present(spec, "matchConstraints") {
        None => errors.push(here.required("")),
        Some(resources) => {
            rules::match_resources(resources, &here, errors);
            if list(resources, "resourceRules").is_empty() {
                errors.push(here.child("resourceRules").required(""));
            }
            if operations == Operations::Mutating {
                no_deletes(resources, &here, errors);
            }
        }
    }
    let kept =
        |old: &Value| same(new, old, &["spec", "paramKind"]) && same(new, old, &["spec", "matchConditions"]);
    if !old.is_some_and(kept) {
        let here = at.child("matchConditions");
        let list = list(spec, "matchConditions");
        conditions::conditions(list, &environments.conditions, &here, errors);
    }
}

/// What is deleted cannot be changed.
fn no_deletes(resources: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.child("resourceRules.operations");
    for rule in list(resources, "resourceRules") {
        for operation in texts(rule, "operations") {
            check::one_of(operation, &["*", "CONNECT", "CREATE", "UPDATE"], &at, errors);
        }
    }
}

fn parameter_kind(kind: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let version = text(kind, "apiVersion");
    let here = at.child("apiVersion");
    if version.is_empty() {
        errors.push(here.required(""));
    } else if version != "/" && version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.push(here.invalid(version, why));
    } else {
        let (group, name) = version.split_once('/').unwrap_or(("", version));
        let wrong = names::dns1123_subdomain(group);
        if !group.is_empty() && !wrong.is_empty() {
            errors.push(here.invalid(group, wrong.join(",")));
        }
        let wrong = names::dns1035_label(name);
        if name.is_empty() {
            errors.push(here.invalid(version, "version must be specified"));
        } else if !wrong.is_empty() {
            errors.push(here.invalid(name, wrong.join(",")));
        }
    }
    let name = text(kind, "kind");
    let wrong = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(at.child("kind").required(""));
    } else if !wrong.is_empty() {
        let why = format!(
            "may have mixed case, but should otherwise match: {}",
            wrong.join(",")
        );
        errors.push(at.child("kind").invalid(name, why));
    }
}

fn variables(spec: &Value, environment: &mut Environment, at: &At<'_>, errors: &mut ErrorList) {
    for (index, variable) in list(spec, "variables").iter().enumerate() {
        let at = at.index(index);
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.push(at.child("name").required("name is not specified"));
        } else if !is_identifier(name) {
            errors.push(at.child("name").invalid(name, "must be a valid CEL identifier"));
        }
        let expression = text(variable, "expression");
        if expression.trim().is_empty() {
            errors.push(at.child("expression").required(NOT_GIVEN));
            continue;
        }
        let program = compile(environment, expression, Wanted::Anything);
        if let Err(why) = &program {
            errors.push(at.child("expression").invalid(expression, why.as_str()));
        }
        environment.define(name, program);
    }
}

fn is_identifier(name: &str) -> bool {
    #[rustfmt::skip]
    const RESERVED: [&str; 21] = [
        "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
        "let", "loop", "package", "namespace", "return", "var", "void", "while",
    ];
    let starts = |c: char| c == '_' || c.is_ascii_alphabetic();
    name.starts_with(starts)
        && name.chars().all(|c| starts(c) || c.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn validation(validation: &Value, environments: &Environments, at: &At<'_>, errors: &mut ErrorList) {
    const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    let expression = text(validation, "expression");
    if expression.trim().is_empty() {
        errors.push(at.child("expression").required(NOT_GIVEN));
    } else {
        let at = at.child("expression");
        judge(&environments.all, expression, Wanted::Flag, &at, errors);
    }
    for field in ["messageExpression", "message"] {
        let value = text(validation, field);
        if !value.is_empty() && value.trim().is_empty() {
            errors.push(at.child(field).invalid(value, "must be non-empty if specified"));
        } else if field == "message" && value.trim().contains(['\n', '\r']) {
            errors.push(at.child(field).invalid(value, "must not contain line breaks"));
        } else if field == "messageExpression" && !value.is_empty() {
            judge(
                &environments.messages,
                value,
                Wanted::Text,
                &at.child(field),
                errors,
            );
        }
    }
    if let Some(reason) = present(validation, "reason").and_then(Value::as_str) {
        check::one_of(reason, &REASONS, &at.child("reason"), errors);
    }
}

fn audit_annotations(
    policy: &Value,
    annotations: &[Value],
    environment: &Environment,
    at: &At<'_>,
    errors: &mut ErrorList,
) {
    if annotations.len() > MOST_ANNOTATIONS {
        let why = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.push(at.invalid(Value::Array(annotations.to_vec()), why));
    }
    let name = meta::name(policy);
    for (index, annotation) in annotations.iter().enumerate() {
        let at = at.index(index);
        let key = text(annotation, "key");
        if name.is_empty() {
            errors.push(
                at.child("key")
                    .invalid(key, "requires metadata.name be non-empty"),
            );
        } else {
            check::qualified(&format!("{name}/{key}"), &at.child("key"), errors);
        }
        let value = text(annotation, "valueExpression").trim();
        if value.is_empty() {
            let why = "valueExpression is not specified";
            errors.push(at.child("valueExpression").required(why));
        } else if value.len() > LONGEST_ANNOTATION {
            let why = format!("must not exceed {LONGEST_ANNOTATION} bytes in length");
            errors.push(at.child("valueExpression").required(why));
        } else {
            let at = at.child("valueExpression");
            judge(environment, value, Wanted::TextOrNull, &at, errors);
        }
        if annotations[..index].iter().any(|other| text(other, "key") == key) {
            errors.push(at.child("key").duplicate(key));
        }
    }
}

fn mutation(mutation: &Value, environment: &Environment, at: &At<'_>, errors: &mut ErrorList) {
    const TYPES: [(&str, &str, Wanted); 2] = [
        ("ApplyConfiguration", "applyConfiguration", Wanted::Object),
        ("JSONPatch", "jsonPatch", Wanted::Patch),
    ];
    let kind = text(mutation, "patchType");
    let here = at.child("patchType");
    if kind.is_empty() {
        errors.push(here.required(""));
        return;
    }
    let Some((_, own, wanted)) = TYPES.iter().find(|(other, ..)| *other == kind) else {
        errors.push(here.not_supported(kind, &TYPES.map(|(kind, ..)| kind)));
        return;
    };
    match present(mutation, own) {
        None => {
            let why = format!("must be specified when patchType is {kind}");
            errors.push(at.child(own).required(why));
        }
        Some(patch) => {
            let (expression, at) = (text(patch, "expression"), at.child(own));
            if expression.trim().is_empty() {
                errors.push(at.child("expression").required(""));
            } else {
                let at = at.child("expression");
                judge(environment, expression, *wanted, &at, errors);
            }
        }
    }
    for (_, other, _) in TYPES.iter().filter(|(other, ..)| *other != kind) {
        if present(mutation, other).is_some() {
            let why = format!("must not be specified when patchType is {kind}");
            errors.push(at.child(other).invalid(format!("{{{other}}}"), why));
        }
    }
}

/// Judges the binding of a policy that validates.
pub(in crate::admissionregistration) fn binding(binding: &Value, errors: &mut ErrorList) {
    bound(binding, errors);
    let spec = binding.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec.validationActions");
    let actions: Vec<&str> = texts(spec, "validationActions").collect();
    for (index, action) in actions.iter().enumerate() {
        let at = at.index(index);
        check::one_of(action, &["Audit", "Deny", "Warn"], &at, errors);
        if actions[..index].contains(action) {
            errors.push(at.duplicate(*action));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.push(at.invalid(actions, why));
    } else if actions.is_empty() {
        errors.push(at.required("at least one validation action is required"));
    }
}

/// Judges the binding of a policy that changes objects.
pub(in crate::admissionregistration) fn mutating_binding(binding: &Value, errors: &mut ErrorList) {
    bound(binding, errors);
    let spec = binding.get("spec").unwrap_or(&Value::Null);
    if let Some(resources) = present(spec, "matchResources") {
        no_deletes(resources, &At::new("spec.matchResources"), errors);
    }
}

fn bound(binding: &Value, errors: &mut ErrorList) {
    let spec = binding.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    match text(spec, "policyName") {
        "" => errors.push(at.child("policyName").required("")),
        name => check::subdomain(name, &at.child("policyName"), errors),
    }
    if let Some(reference) = present(spec, "paramRef") {
        parameters(reference, &at.child("paramRef"), errors);
    }
    if let Some(resources) = present(spec, "matchResources") {
        rules::match_resources(resources, &at.child("matchResources"), errors);
    }
}

fn parameters(reference: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(reference, "name"), present(reference, "selector"));
    if !name.is_empty() {
        check::each(names::path_segment(name, false), name, &at.child("name"), errors);
    }
    let both = !name.is_empty() && selector.is_some();
    if both {
        errors.push(at.child("name").forbidden(EXCLUSIVE));
    }
    check::label_selector(selector, &at.child("selector"), errors);
    if both {
        errors.push(at.child("selector").forbidden(EXCLUSIVE));
    }
    if name.is_empty() && selector.is_none() {
        errors.push(at.required("one of name or selector must be specified"));
    }
    let action = text(reference, "parameterNotFoundAction");
    let at = at.child("parameterNotFoundAction");
    check::required_one_of(action, &["Deny", "Allow"], &at, errors);
}

/// Judges what a policy's status says.
pub(in crate::admissionregistration) fn policy_status(policy: &Value, errors: &mut ErrorList) {
    let status = policy.get("status").unwrap_or(&Value::Null);
    let at = At::new("status");
    let here = at.child("typeChecking.expressionWarnings");
    let warnings = present(status, "typeChecking").map(|checking| list(checking, "expressionWarnings"));
    for (index, warning) in warnings.unwrap_or_default().iter().enumerate() {
        let at = here.index(index);
        for field in ["warning", "fieldRef"] {
            if text(warning, field).trim().is_empty() {
                errors.push(at.child(field).required(""));
            }
        }
    }
    status_conditions(list(status, "conditions"), &at.child("conditions"), errors);
}
