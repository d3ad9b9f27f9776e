//! What flow schemas and priority levels must be; the ones every cluster has are fixed.

use crate::At;
use crate::check;
use crate::fields::{flag, int, list, present, text, text_at, texts};
use machinery::field::ErrorList;
use machinery::{Value, meta, names};
use serde_json::json;

const LARGEST_PRECEDENCE: i64 = 10_000;
const MOST_QUEUES: i64 = 10_000_000;
/// Bits of a request's hash that queues are dealt by.
const HASH_BITS: i64 = 60;

/// Judges a flow schema.
pub(super) fn flow_schema(schema: &Value, errors: &mut ErrorList) {
    let spec = schema.get("spec").unwrap_or(&Value::Null);
    let name = meta::name(schema);
    let at = At::new("spec");
    let precedence = int(spec, "matchingPrecedence").unwrap_or(0);
    let here = at.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(here.invalid(precedence, "must be a positive value"));
    }
    if precedence > LARGEST_PRECEDENCE {
        let why = format!("must not be greater than {LARGEST_PRECEDENCE}");
        errors.push(here.invalid(precedence, why));
    }
    if precedence == 1 && name != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(here.invalid(precedence, why));
    }
    if let Some(method) = present(spec, "distinguisherMethod") {
        let methods = ["ByNamespace", "ByUser"];
        if !methods.contains(&text(method, "type")) {
            let at = at.child("distinguisherMethod.type");
            errors.push(at.not_supported(method.clone(), &methods));
        }
    }
    let here = at.child("priorityLevelConfiguration.name");
    match text_at(spec, &["priorityLevelConfiguration", "name"]) {
        "" => errors.push(here.required("must reference a priority level")),
        name => check::subdomain(name, &here, errors),
    }
    let here = at.child("rules");
    for (index, rule) in list(spec, "rules").iter().enumerate() {
        flow_rule(rule, &here.index(index), errors);
    }
    if fixed_schema(name).is_some_and(|fixed| !fixed.semantic_eq(spec)) {
        let why = format!("spec of '{name}' must equal the fixed value");
        errors.push(at.invalid(spec.clone(), why));
    }
    conditions(schema, errors);
}

fn flow_rule(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let here = at.child("subjects");
    if list(rule, "subjects").is_empty() {
        errors.push(here.required("subjects must contain at least one value"));
    }
    for (index, subject) in list(rule, "subjects").iter().enumerate() {
        self::subject(subject, &here.index(index), errors);
    }
    let (resources, others) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(at.required(why));
    }
    let here = at.child("resourceRules");
    for (index, rule) in resources.iter().enumerate() {
        resource_rule(rule, &here.index(index), errors);
    }
    let here = at.child("nonResourceRules");
    for (index, rule) in others.iter().enumerate() {
        let at = here.index(index);
        verbs(rule, &at, errors);
        let urls = "nonResourceURLs";
        if words(
            rule,
            urls,
            "nonResourceURLs must contain at least one value",
            "non-resource URLs",
            &at,
            errors,
        ) {
            let at = at.child(urls);
            for (index, url) in texts(rule, urls).enumerate() {
                if let Some(wrong) = wrong_url(url) {
                    errors.push(at.index(index).invalid(url, wrong));
                }
            }
        }
    }
}

fn subject(subject: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = text(subject, "kind");
    let Some((_, own)) = KINDS.iter().find(|(other, _)| *other == kind) else {
        let kinds = ["Group", "ServiceAccount", "User"];
        errors.push(at.child("kind").not_supported(kind, &kinds));
        return;
    };
    let here = at.child(own);
    match present(subject, own) {
        None => errors.push(here.required(format!("{own} is required when subject kind is '{kind}'"))),
        Some(one) => {
            let name = text(one, "name");
            if name.is_empty() {
                errors.push(here.child("name").required(""));
            } else if kind == "ServiceAccount" && name != "*" {
                check::subdomain(name, &here.child("name"), errors);
            }
            if kind == "ServiceAccount" {
                let at = here.child("namespace");
                match text(one, "namespace") {
                    "" => errors.push(at.required("must specify namespace for service account")),
                    namespace => check::label(namespace, &at, errors),
                }
            }
        }
    }
    for (other, field) in KINDS.iter().filter(|(other, _)| *other != kind) {
        if present(subject, field).is_some() {
            let why = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(at.child(field).forbidden(why));
        }
    }
}

/// A list of words that is not empty, and where the star stands alone. Whether the words are to be judged one by one.
fn words(rule: &Value, field: &str, none: &str, what: &str, at: &At<'_>, errors: &mut ErrorList) -> bool {
    let all = list(rule, field);
    let at = at.child(field);
    if all.is_empty() {
        errors.push(at.required(none));
        return false;
    }
    if !texts(rule, field).any(|word| word == "*") {
        return true;
    }
    if all.len() > 1 {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.push(at.invalid(Value::Array(all.to_vec()), why));
    }
    false
}

fn verbs(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const VERBS: [&str; 9] = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "proxy",
        "update",
        "watch",
    ];
    if words(
        rule,
        "verbs",
        "verbs must contain at least one value",
        "verbs",
        at,
        errors,
    ) && texts(rule, "verbs").any(|verb| !VERBS.contains(&verb))
    {
        let shown = Value::Array(list(rule, "verbs").to_vec());
        errors.push(at.child("verbs").not_supported(shown, &VERBS));
    }
}

fn resource_rule(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    verbs(rule, at, errors);
    let none = "resource rules must supply at least one api group";
    words(rule, "apiGroups", none, "api groups", at, errors);
    let none = "resource rules must supply at least one resource";
    words(rule, "resources", none, "resources", at, errors);
    if list(rule, "namespaces").is_empty() && flag(rule, "clusterScope") {
        return;
    }
    let none = "resource rules that are not cluster scoped must supply at least one namespace";
    if words(rule, "namespaces", none, "namespaces", at, errors) {
        let at = at.child("namespaces");
        for (index, namespace) in texts(rule, "namespaces").enumerate() {
            for wrong in names::dns1123_label(namespace) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
                errors.push(at.index(index).invalid(namespace, why));
            }
        }
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        url if !url.starts_with('/') => Some("must start with slash"),
        url if url.contains(' ') => Some("must not contain white-space"),
        url if url.contains("//") => Some("must not contain double slash"),
        url if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

/// Judges a priority level.
pub(super) fn priority_level(level: &Value, errors: &mut ErrorList) {
    const ROUNDTRIP: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
    if meta::annotation(level, ROUNDTRIP).is_some() {
        let why = format!("annotation '{ROUNDTRIP}' is forbidden");
        errors.push(At::new("metadata.annotations").forbidden(why));
    }
    let spec = level.get("spec").unwrap_or(&Value::Null);
    let name = meta::name(level);
    let at = At::new("spec");
    level_spec(spec, name, &at, errors);
    match name {
        "exempt" => {
            let mut judged = spec.clone();
            judged.set_path(&["exempt"], Value::object());
            if !judged.semantic_eq(&value(&json!({"type": "Exempt", "exempt": {}}))) {
                let why = "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value";
                errors.push(at.invalid(spec.clone(), why));
            }
        }
        "catch-all" => {
            let limited = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
            if !spec.semantic_eq(&value(&json!({"type": "Limited", "limited": limited}))) {
                errors.push(at.invalid(spec.clone(), "spec of 'catch-all' must equal the fixed value"));
            }
        }
        _ => {}
    }
    conditions(level, errors);
}

fn level_spec(spec: &Value, name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let kind = text(spec, "type");
    if (name == "exempt") != (kind == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(at.child("type").invalid(kind, why));
    }
    let (exempt, limited) = (present(spec, "exempt"), present(spec, "limited"));
    match kind {
        "Exempt" => {
            if limited.is_some() {
                let why = "must be nil if the type is not Limited";
                errors.push(at.child("limited").forbidden(why));
            }
            if let Some(exempt) = exempt {
                shares(exempt, &at.child("exempt"), errors);
                lendable(exempt, &at.child("exempt"), errors);
            }
        }
        "Limited" => {
            if exempt.is_some() {
                let why = "must be nil if the type is Limited";
                errors.push(at.child("exempt").forbidden(why));
            }
            match limited {
                None => errors.push(
                    at.child("limited")
                        .required("must not be empty when type is Limited"),
                ),
                Some(limited) => self::limited(limited, &at.child("limited"), errors),
            }
        }
        other => errors.push(at.child("type").not_supported(other, &["Exempt", "Limited"])),
    }
}

fn shares(holder: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(shares) = int(holder, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        let at = at.child("nominalConcurrencyShares");
        errors.push(at.invalid(shares, "must be a non-negative integer"));
    }
}

fn lendable(holder: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(percent) = int(holder, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        let at = at.child("lendablePercent");
        errors.push(at.invalid(percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(limited: &Value, at: &At<'_>, errors: &mut ErrorList) {
    shares(limited, at, errors);
    let response = limited.get("limitResponse").unwrap_or(&Value::Null);
    let here = at.child("limitResponse");
    let queuing = present(response, "queuing");
    match (text(response, "type"), queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(here.child("queuing").forbidden(why));
        }
        ("Queue", None) => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(here.child("queuing").required(why));
        }
        ("Queue", Some(queuing)) => queues(queuing, &here.child("queuing"), errors),
        (other, _) => errors.push(here.child("type").not_supported(other, &["Queue", "Reject"])),
    }
    lendable(limited, at, errors);
    if let Some(percent) = int(limited, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        let at = at.child("borrowingLimitPercent");
        errors.push(at.invalid(percent, "if specified, must be a non-negative integer"));
    }
}

fn queues(queuing: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let number = |field| int(queuing, field).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.push(at.child("queueLengthLimit").invalid(length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(at.child("queues").invalid(queues, "must be positive"));
    } else if queues > MOST_QUEUES {
        let why = format!("must not be greater than {MOST_QUEUES}");
        errors.push(at.child("queues").invalid(queues, why));
    }
    let at = at.child("handSize");
    if hand <= 0 {
        errors.push(at.invalid(hand, "must be positive"));
    } else if hand > queues {
        let why = format!("should not be greater than queues ({queues})");
        errors.push(at.invalid(hand, why));
    } else if (queues as f64).log2() * hand as f64 > HASH_BITS as f64 {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.push(at.invalid(hand, why));
    }
}

/// Judges the conditions of either kind.
pub(super) fn conditions(object: &Value, errors: &mut ErrorList) {
    let at = At::new("status.conditions");
    let status = object.get("status").unwrap_or(&Value::Null);
    let all = list(status, "conditions");
    for (index, condition) in all.iter().enumerate() {
        let at = at.index(index);
        let kind = text(condition, "type");
        if all[..index].iter().any(|other| text(other, "type") == kind) {
            errors.push(at.child("type").duplicate(kind));
        }
        if kind.is_empty() {
            errors.push(at.child("type").required(""));
        }
    }
}

/// The spec of a schema that every cluster has.
fn fixed_schema(name: &str) -> Option<Value> {
    let groups: &[&str] = match name {
        "exempt" => &["system:masters"],
        "catch-all" => &["system:unauthenticated", "system:authenticated"],
        _ => return None,
    };
    let subjects: Vec<_> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "group": {"name": group}}))
        .collect();
    let everything = json!({
        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true
    });
    let rules = json!([{
        "subjects": subjects,
        "resourceRules": [everything],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }]);
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": name},
        "matchingPrecedence": if name == "exempt" { 1 } else { LARGEST_PRECEDENCE },
        "rules": rules,
    });
    if name == "catch-all" {
        spec["distinguisherMethod"] = json!({"type": "ByUser"});
    }
    Some(value(&spec))
}

fn value(json: &serde_json::Value) -> Value {
    // A JSON tree always reads as one of ours.
    serde_json::from_value(json.clone()).unwrap_or_default()
}
