//! Whether an applied configuration fits its type, in upstream's words.
//!
//! The configuration is checked as it was written, before any defaulting, for what is written is what is owned.

use super::atom::{Atom, Relation, Scalar, Ty};
use super::element;
use super::name;
use crate::Value;
use crate::patch::go;
use std::collections::HashSet;

/// The findings, one text as upstream prints them, or nothing.
pub(crate) fn validate(ty: Ty<'_>, value: &Value) -> Result<(), String> {
    let mut findings = Vec::new();
    check(ty, value, &mut String::new(), &mut findings);
    match findings.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(ty: Ty<'_>, value: &Value, path: &mut String, findings: &mut Vec<String>) {
    let mut find = |path: &str, message: String| {
        findings.push(if path.is_empty() {
            message
        } else {
            format!("{path}: {message}")
        });
    };
    match (ty.atom(Some(value)), value) {
        (_, Value::Null) => {}
        (Atom::Scalar(scalar), value) => {
            if let Some(message) = wrong_scalar(scalar, value) {
                find(path, message);
            }
        }
        (Atom::List(list), Value::Array(items)) => {
            let mut seen = HashSet::with_capacity(items.len());
            for (i, item) in items.iter().enumerate() {
                let step = match list.relation {
                    Relation::Atomic => name::Name::from(format!("i:{i}")),
                    _ => match element::name_of(&list, item) {
                        Ok(name) => name,
                        Err(message) => {
                            // Without a name nothing deeper can be reported.
                            findings.push(with_path(path, format!("element {i}: {message}")));
                            return;
                        }
                    },
                };
                let start = path.len();
                if !seen.insert(step.clone()) {
                    let mut shown = String::new();
                    name::display(&step, &mut shown);
                    findings.push(with_path(path, format!("duplicate entries for key {shown}")));
                }
                name::display(&step, path);
                check(list.item, item, path, findings);
                path.truncate(start);
            }
        }
        (Atom::Map(map), Value::Object(fields)) => {
            for (key, value) in fields {
                let start = path.len();
                path.push('.');
                path.push_str(key);
                let Some(child) = map.child(key) else {
                    findings.push(with_path(path, "field not declared in schema".to_owned()));
                    path.truncate(start);
                    return;
                };
                check(child.ty, value, path, findings);
                path.truncate(start);
            }
        }
        (Atom::List(_), value) => find(path, format!("expected list, got &{{{}}}", go::display(value))),
        (Atom::Map(_), value) => find(path, format!("expected map, got &{{{}}}", go::display(value))),
    }
}

fn with_path(path: &str, message: String) -> String {
    if path.is_empty() {
        message
    } else {
        format!("{path}: {message}")
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::Numeric, Value::Int(_) | Value::Float(_))
        | (Scalar::String, Value::String(_))
        | (Scalar::Boolean, Value::Bool(_))
        | (Scalar::Any, Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_)) => None,
        (Scalar::Numeric, other) => Some(format!(
            "expected numeric (int or float), got {}",
            go::type_name(other)
        )),
        (Scalar::String, other) => Some(format!(
            "expected string, got &value.valueUnstructured{{Value:{}}}",
            go::syntax(other)
        )),
        (Scalar::Boolean, other) => Some(format!("expected boolean, got &{{{}}}", go::display(other))),
        (Scalar::Any, other) => Some(format!("expected any scalar, got &{{{}}}", go::display(other))),
    }
}
