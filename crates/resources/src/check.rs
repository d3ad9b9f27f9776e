//! Checks that many kinds share: names, labels, selectors, numbers, immutability.
//!
//! Each adds what it finds to a list; nothing is allocated when there is nothing to find.

use crate::At;
use crate::fields::{entries, int, list, text, texts};
use machinery::field::ErrorList;
use machinery::quantity::Quantity;
use machinery::selector::LabelSelector;
use machinery::{Key, Value, names};

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const POSITIVE: &str = "must be greater than zero";
pub const IMMUTABLE: &str = "field is immutable";

/// Adds each message as an invalid value.
pub fn each(messages: Vec<String>, value: &str, at: &At<'_>, errors: &mut ErrorList) {
    errors.extend(messages.into_iter().map(|message| at.invalid(value, message)));
}

/// A DNS label.
pub fn label(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    each(names::dns1123_label(value), value, at, errors);
}

/// A DNS subdomain: the name of most objects.
pub fn subdomain(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    each(names::dns1123_subdomain(value), value, at, errors);
}

/// A path with a domain in front of it: `example.com/what`.
pub fn domain_prefixed_path(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(at.required(""));
        return;
    }
    let parts = value.split_once('/');
    let Some((host, path)) = parts.filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        errors.push(at.invalid(value, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    subdomain(host, at, errors);
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
    if !path.bytes().all(allowed) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(at.invalid(path, why));
    }
}

/// The name of a signer: a domain and a path.
pub fn signer_name(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    const DOMAIN: usize = 253;
    const LONGEST: usize = DOMAIN + 1 + 253 + 63 + 1;
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(at.invalid(name, why));
        return;
    };
    if domain.len() > DOMAIN {
        errors.push(at.too_long(DOMAIN as i64));
    }
    first_wrong_label(domain, names::dns1123_label, at, errors);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(at.invalid(domain, why));
    }
    first_wrong_label(path, names::dns1123_subdomain, at, errors);
    if name.len() > LONGEST {
        errors.push(at.too_long(LONGEST as i64));
    }
}

fn first_wrong_label(text: &str, judge: fn(&str) -> Vec<String>, at: &At<'_>, errors: &mut ErrorList) {
    let mut labels = text.split('.').map(|label| (label, judge(label)));
    if let Some((label, wrong)) = labels.find(|(_, wrong)| !wrong.is_empty()) {
        let shown = wrong
            .into_iter()
            .map(|wrong| at.invalid(text, format!("validating label {label:?}: {wrong}")));
        errors.extend(shown);
    }
}

/// A label's key, and much else.
pub fn qualified(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    each(names::qualified_name(value), value, at, errors);
}

/// Labels.
pub fn labels(labels: &[(Key, Value)], at: &At<'_>, errors: &mut ErrorList) {
    for (key, value) in labels {
        qualified(key, at, errors);
        let value = value.as_str().unwrap_or_default();
        each(names::label_value(value), value, at, errors);
    }
}

/// Annotations.
pub fn annotations(annotations: &[(Key, Value)], at: &At<'_>, errors: &mut ErrorList) {
    const MOST: usize = 256 * 1024;
    let mut size = 0;
    for (key, value) in annotations {
        size += key.len() + value.as_str().map_or(0, str::len);
        let bad = if key.bytes().any(|c| c.is_ascii_uppercase()) {
            names::qualified_name(&key.to_lowercase())
        } else {
            names::qualified_name(key)
        };
        each(bad, key, at, errors);
    }
    if size > MOST {
        errors.push(at.too_long(MOST as i64));
    }
}

/// A label selector, if there is one.
pub fn label_selector(selector: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    let Some(selector) = selector else { return };
    labels(entries(selector, "matchLabels"), &at.child("matchLabels"), errors);
    let expressions = at.child("matchExpressions");
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let at = expressions.index(index);
        let count = list(expression, "values").len();
        match text(expression, "operator") {
            "In" | "NotIn" if count == 0 => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(at.child("values").required(why));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(at.child("values").forbidden(why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(
                at.child("operator")
                    .invalid(other, "not a valid selector operator"),
            ),
        }
        qualified(text(expression, "key"), &at.child("key"), errors);
        let values = at.child("values");
        for (index, value) in texts(expression, "values").enumerate() {
            each(names::label_value(value), value, &values.index(index), errors);
        }
    }
}

/// Whether a label selector has no requirement.
pub fn is_empty_selector(selector: &Value) -> bool {
    entries(selector, "matchLabels").is_empty() && list(selector, "matchExpressions").is_empty()
}

/// Zero or more.
pub fn not_negative(value: i64, at: &At<'_>, errors: &mut ErrorList) {
    if value < 0 {
        errors.push(at.invalid(value, NOT_NEGATIVE));
    }
}

/// One or more.
pub fn positive(value: i64, at: &At<'_>, errors: &mut ErrorList) {
    if value <= 0 {
        errors.push(at.invalid(value, POSITIVE));
    }
}

/// A port's number.
pub fn port(port: i64, at: &At<'_>, errors: &mut ErrorList) {
    for message in names::port_number(port) {
        errors.push(at.invalid(port, message));
    }
}

/// A port's number or its name.
pub fn port_or_name(port: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    match port {
        Some(Value::String(name)) => each(names::port_name(name), name, at, errors),
        other => self::port(other.and_then(Value::as_i64).unwrap_or(0), at, errors),
    }
}

/// One of a few words.
pub fn one_of(value: &str, allowed: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    if !allowed.contains(&value) {
        errors.push(at.not_supported(value, allowed));
    }
}

/// One of a few words, and not none.
pub fn required_one_of(value: &str, allowed: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(at.required(""));
    } else {
        one_of(value, allowed, at, errors);
    }
}

/// What must stay as it was.
pub fn immutable(new: Option<&Value>, old: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    let same = match (new, old) {
        (None, None) => true,
        (Some(one), None) | (None, Some(one)) => one.is_empty(),
        (Some(new), Some(old)) => new.semantic_eq(old),
    };
    if !same {
        errors.push(at.invalid(new.cloned().unwrap_or_default(), IMMUTABLE));
    }
}

/// A whole number or a percentage, neither negative.
pub fn positive_int_or_percent(value: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match value {
        Value::String(text) => {
            if !is_percent(text) {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                           or '93%', regex used for validation is '[0-9]+%')";
                errors.push(at.invalid(text.clone(), why));
            }
        }
        other => not_negative(other.as_i64().unwrap_or(0), at, errors),
    }
}

/// At most a hundred percent, if it is a percentage.
pub fn at_most_hundred_percent(value: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.push(at.invalid(value.clone(), "must not be greater than 100%"));
    }
}

/// The number of a percentage.
pub fn percent(value: &Value) -> Option<i64> {
    let text = value.as_str().filter(|text| is_percent(text))?;
    text[..text.len() - 1].parse().ok()
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
}

/// A quantity of zero or more; the decoder has seen to its form.
pub fn not_negative_quantity(value: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let text = value.as_str().unwrap_or_default();
    // Only what begins with a minus is negative.
    if text.starts_with('-') && text.parse::<Quantity>().is_ok_and(|quantity| quantity.sign() < 0) {
        errors.push(at.invalid(text, NOT_NEGATIVE));
    }
}

/// Counts of a workload's status: none negative, none of `part` greater than all replicas, and no more pods available
/// than ready. `ready` is how upstream names the latter.
pub fn status_counts(status: &Value, counts: &[&str], part: &[&str], ready: &str, errors: &mut ErrorList) {
    let at = At::new("status");
    let count = |field: &str| int(status, field).unwrap_or(0);
    for field in counts {
        not_negative(count(field), &at.child(field), errors);
    }
    for field in part {
        if count(field) > count("replicas") {
            errors.push(
                at.child(field)
                    .invalid(count(field), "cannot be greater than status.replicas"),
            );
        }
    }
    if part.contains(&"availableReplicas") && count("availableReplicas") > count("readyReplicas") {
        let why = format!("cannot be greater than {ready}");
        errors.push(
            at.child("availableReplicas")
                .invalid(count("availableReplicas"), why),
        );
    }
}

/// How often names collided never gets less.
pub fn collisions_not_forgotten(new: &Value, old: &Value, errors: &mut ErrorList) {
    const FIELD: [&str; 2] = ["status", "collisionCount"];
    let count = |object: &Value| object.get_path(&FIELD).and_then(Value::as_i64);
    if let Some(before) = count(old)
        && count(new).is_none_or(|now| now < before)
    {
        let at = At::new("status.collisionCount");
        errors.push(at.invalid(count(new).unwrap_or(0), "cannot be decremented"));
    }
}

/// The selector of a workload, which must select something; `None` where it cannot be read.
pub fn workload_selector(
    spec: &Value,
    kind: &str,
    at: &At<'_>,
    errors: &mut ErrorList,
) -> Option<LabelSelector> {
    let at = at.child("selector");
    let selector = spec.get("selector").filter(|selector| !selector.is_null());
    match selector {
        None => errors.push(at.required("")),
        Some(selector) => {
            label_selector(Some(selector), &at, errors);
            if is_empty_selector(selector) {
                errors.push(at.invalid(selector.clone(), format!("empty selector is invalid for {kind}")));
            }
        }
    }
    let parsed = LabelSelector::from_object(selector).ok();
    if parsed.is_none() {
        let shown = selector.cloned().unwrap_or_default();
        errors.push(at.invalid(shown, "invalid label selector"));
    }
    parsed
}

/// What can stand in a path: most names that have no other rule. Required.
pub fn required_path_segment(value: &str, at: &At<'_>, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(at.required(""));
    } else {
        each(names::path_segment(value, false), value, at, errors);
    }
}

/// Judges a text as a DNS subdomain, if there is one.
pub fn optional_subdomain(value: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(text) = value.and_then(Value::as_str) {
        subdomain(text, at, errors);
    }
}
