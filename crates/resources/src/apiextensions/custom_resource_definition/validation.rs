//! Whether a definition can be served: its names, its versions, and that its schemas are structural and their rules
//! sound.

use crate::apiextensions::structural::{Additional, Schema, rules};
use crate::fields::{flag, list_at, present, text, text_at};
use machinery::field::{Error, ErrorList, Path};
use machinery::{Value, meta, names};
use std::collections::HashSet;

pub(super) fn validate(crd: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let group = text_at(crd, &["spec", "group"]);
    let plural = text_at(crd, &["spec", "names", "plural"]);
    if meta::name(crd) != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Error::invalid(
            &Path::new("metadata").child("name"),
            meta::name(crd),
            why,
        ));
    }
    let at = spec.child("group");
    if group.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        let wrong = names::dns1123_subdomain(group);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at, group, wrong.join(",")));
        } else if !group.contains('.') {
            errors.push(Error::invalid(
                &at,
                group,
                "should be a domain with at least one dot",
            ));
        }
    }
    validate_names(crd, &spec.child("names"), &mut errors);
    let at = spec.child("scope");
    match text_at(crd, &["spec", "scope"]) {
        "" => errors.push(Error::required(&at, "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(&at, other, &["Cluster", "Namespaced"])),
    }
    validate_versions(crd, &spec, &mut errors);
    errors
}

fn validate_names(crd: &Value, at: &Path, errors: &mut ErrorList) {
    let name = |field: &str| text_at(crd, &["spec", "names", field]);
    for field in ["plural", "singular", "kind", "listKind"] {
        let (value, at) = (name(field), at.child(field));
        if value.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let kind = field == "kind" || field == "listKind";
        let wrong = names::dns1035_label(&if kind {
            value.to_lowercase()
        } else {
            value.to_owned()
        });
        if !wrong.is_empty() {
            let why = if kind {
                format!(
                    "may have mixed case, but should otherwise match: {}",
                    wrong.join(",")
                )
            } else {
                wrong.join(",")
            };
            errors.push(Error::invalid(&at, value, why));
        }
    }
    if !name("kind").is_empty() && name("kind") == name("listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(Error::invalid(&at.child("listKind"), name("listKind"), why));
    }
}

fn validate_versions(crd: &Value, spec: &Path, errors: &mut ErrorList) {
    let versions = list_at(crd, &["spec", "versions"]);
    let at = spec.child("versions");
    if versions.is_empty() {
        errors.push(Error::required(
            &at,
            "must have exactly one version marked as storage version",
        ));
        return;
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let (name, at) = (text(version, "name"), at.index(index).child("name"));
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at, name, wrong.join(",")));
        }
        if !seen.insert(name) {
            let why = "must contain unique version names";
            errors.push(Error::invalid(&spec.child("versions"), versions.to_vec(), why));
        }
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(Error::invalid(&at, versions.to_vec(), why));
    }
    let schema_of = |version: &'_ Value| version.get_path(&["schema", "openAPIV3Schema"]).cloned();
    let first = schema_of(&versions[0]);
    // A schema all versions share is told once.
    if versions.iter().all(|version| schema_of(version) == first) {
        validate_schema(first.as_ref(), &spec.child("validation"), errors);
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let at = at.index(index).child("schema");
        validate_schema(schema_of(version).as_ref(), &at, errors);
    }
}

fn validate_schema(schema: Option<&Value>, at: &Path, errors: &mut ErrorList) {
    let at = at.child("openAPIV3Schema");
    let Some(text) = schema.filter(|schema| !schema.is_null()) else {
        errors.push(Error::required(&at, "schemas are required"));
        return;
    };
    match text.get("type").and_then(Value::as_str) {
        Some("object") => {}
        None | Some("") => errors.push(Error::required(
            &at.child("type"),
            "must not be empty at the root",
        )),
        Some(other) => errors.push(Error::invalid(
            &at.child("type"),
            other,
            "must be object at the root",
        )),
    }
    for field in ["metadata", "apiVersion", "kind"] {
        let property = text.get_path(&["properties", field]);
        let wanted = if field == "metadata" { "object" } else { "string" };
        if let Some(ty) = property
            .and_then(|property| present(property, "type"))
            .and_then(Value::as_str)
            && ty != wanted
        {
            let at = at.child("properties").key(field).child("type");
            errors.push(Error::invalid(&at, ty, format!("must be {wanted}")));
        }
    }
    let schema = Schema::parse(text);
    let before = errors.len();
    structural(&schema, true, &at, errors);
    let mut spent = 0;
    if errors.len() == before {
        judge_rules(&schema, true, 1, &at, &mut spent, errors);
    }
    if spent > rules::ESTIMATED_TOTAL {
        let factor = spent as f64 / rules::ESTIMATED_TOTAL as f64;
        let factor = if factor > 100.0 {
            "more than 100x".to_owned()
        } else {
            format!("{factor:.1}x")
        };
        let why = format!(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
        );
        errors.push(Error::forbidden(&at, why));
    }
}

/// Every value has a type, and patterns are expressions.
fn structural(schema: &Schema, root: bool, at: &Path, errors: &mut ErrorList) {
    if !root && schema.types.is_empty() && !schema.preserve_unknown {
        let why = "must not be empty for specified object fields";
        errors.push(Error::required(&at.child("type"), why));
    }
    if let Some(pattern) = &schema.pattern
        && let Err(why) = pattern.regex()
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&at.child("pattern"), pattern.text.as_str(), why));
    }
    each_child(schema, at, &mut |child, at| structural(child, false, at, errors));
}

fn judge_rules(schema: &Schema, root: bool, rounds: u64, at: &Path, spent: &mut u64, errors: &mut ErrorList) {
    for wrong in rules::judge(schema, root, rounds, spent) {
        let at = at.child("x-kubernetes-validations").index(wrong.index);
        errors.push(match wrong.field {
            "" => Error::forbidden(&at.child("rule"), wrong.why),
            field => Error::invalid(&at.child(field), wrong.text, wrong.why),
        });
    }
    let below = rounds.saturating_mul(rules::rounds_below(schema));
    each_child(schema, at, &mut |child, at| {
        judge_rules(child, false, below, at, spent, errors);
    });
}

fn each_child(schema: &Schema, at: &Path, then: &mut dyn FnMut(&Schema, &Path)) {
    for (name, property) in &schema.properties {
        then(property, &at.child("properties").key(name));
    }
    if let Some(items) = &schema.items {
        then(items, &at.child("items"));
    }
    if let Some(Additional::Schema(others)) = &schema.additional {
        then(others, &at.child("additionalProperties"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json::decode_any;

    fn check(schema: &str, want: &[&str]) {
        let text = format!(
            r#"{{"metadata":{{"name":"foos.example.com"}},"spec":{{"group":"example.com","scope":"Cluster",
                "names":{{"plural":"foos","singular":"foo","kind":"Foo","listKind":"FooList"}},
                "versions":[{{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#
        );
        let errors = validate(&decode_any(text.as_bytes()).unwrap().value);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got.len(), want.len(), "{got:?}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{got}");
        }
    }

    #[test]
    fn schemas_are_structural_and_rules_sound() {
        check(
            r#"{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}"#,
            &[],
        );
        check(
            "null",
            &["spec.validation.openAPIV3Schema: Required value: schemas are required"],
        );
        check(
            r#"{"type":"object","properties":{"spec":{"description":"x"}}}"#,
            &[
                "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
            ],
        );
        check(
            r#"{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"integer"}},
                "x-kubernetes-validations":[{"rule":"self.b > 1"}]}}}"#,
            &[
                r#"spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: "self.b > 1": compilation failed: ERROR: <input>:1:5: undefined field 'b'"#,
            ],
        );
    }
}
