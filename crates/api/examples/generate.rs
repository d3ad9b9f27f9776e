//! Rewrites `src/tables/` from the API facts: `cargo run -p api --example generate -- <api-facts.json>`.
//!
//! The tables are lines of text, compact enough to be read at every start in about a millisecond; `src/parse.rs`
//! documents their form.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: generate <api-facts.json>")?;
    let facts: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let types = facts["types"].as_object().ok_or("no types")?;
    let tables = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tables");
    std::fs::write(tables.join("types.txt"), type_lines(types)?)?;
    std::fs::write(tables.join("resources.txt"), resource_lines(&facts, types)?)?;
    Ok(())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn type_lines(types: &Map<String, Value>) -> Result<String, Box<dyn Error>> {
    let index: BTreeMap<&str, usize> = types
        .keys()
        .enumerate()
        .map(|(at, name)| (name.as_str(), at))
        .collect();
    let mut out = String::new();
    for (name, definition) in types {
        write!(out, "T {name} {}", definition["message"].as_str().unwrap_or("-"))?;
        if definition["mapType"] == "atomic" {
            out.push_str(" atomic");
        }
        for gvk in definition["gvk"].as_array().into_iter().flatten() {
            // Options and watch events are in every group; the first of each is enough.
            let ours = text(gvk, "group");
            if definition["gvk"].as_array().is_some_and(|all| all.len() == 1) || ours.is_empty() {
                write!(out, " {}/{}/{}", ours, text(gvk, "version"), text(gvk, "kind"))?;
            }
        }
        out.push('\n');
        let required: Vec<&str> = definition["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (field, facts) in definition["fields"].as_object().into_iter().flatten() {
            field_line(&mut out, field, facts, &index, required.contains(&field.as_str()))?;
        }
    }
    Ok(out)
}

fn field_line(
    out: &mut String,
    name: &str,
    facts: &Value,
    index: &BTreeMap<&str, usize>,
    required: bool,
) -> Result<(), Box<dyn Error>> {
    write!(out, "{name} {}", type_text(facts, index)?)?;
    let tag = facts["tag"].as_u64().unwrap_or_else(|| hidden_tag(name));
    let mut via: Vec<String> = facts["via"]
        .as_array()
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    // On the wire this list is a message of its own, whose items are field 1.
    let tag = if text(facts, "proto").ends_with(".Verbs") {
        via.push(tag.to_string());
        1
    } else {
        tag
    };
    write!(out, " {tag}")?;
    if !via.is_empty() {
        write!(out, " v{}", via.join("."))?;
    }
    if required {
        out.push_str(" r");
    }
    for strategy in text(facts, "patchStrategy").split(',').filter(|s| !s.is_empty()) {
        out.push_str(match strategy {
            "merge" => " m",
            "retainKeys" => " k",
            "replace" => " p",
            other => return Err(format!("unknown patch strategy {other}").into()),
        });
    }
    if let Some(key) = facts["patchMergeKey"].as_str() {
        write!(out, " M{key}")?;
    }
    if !facts["default"].is_null() {
        write!(out, " D{}", facts["default"])?;
    }
    out.push('\n');
    Ok(())
}

/// The fields of JSONSchemaProps whose JSON names differ from their protobuf names.
fn hidden_tag(name: &str) -> u64 {
    match name {
        "$schema" => 2,
        "$ref" => 3,
        "x-kubernetes-preserve-unknown-fields" => 38,
        "x-kubernetes-embedded-resource" => 39,
        "x-kubernetes-int-or-string" => 40,
        "x-kubernetes-list-map-keys" => 41,
        "x-kubernetes-list-type" => 42,
        "x-kubernetes-map-type" => 43,
        "x-kubernetes-validations" => 44,
        _ => 0,
    }
}

fn type_text(facts: &Value, index: &BTreeMap<&str, usize>) -> Result<String, Box<dyn Error>> {
    if let Some(name) = facts["ref"].as_str() {
        let at = index.get(name).ok_or_else(|| format!("unknown type {name}"))?;
        return Ok(format!("@{at}"));
    }
    Ok(match (text(facts, "type"), text(facts, "format")) {
        ("string", "byte") => "y".to_owned(),
        ("string", _) => "s".to_owned(),
        ("integer", "int32") => "i".to_owned(),
        ("integer", _) => "l".to_owned(),
        ("number", _) => "d".to_owned(),
        ("boolean", _) => "b".to_owned(),
        ("array", _) => {
            let item = type_text(&facts["items"], index)?;
            match text(facts, "listType") {
                "set" => format!("[s{item}"),
                "map" => {
                    let keys: Vec<&str> = facts["listMapKeys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .collect();
                    format!("[m{};{item}", keys.join(","))
                }
                _ => format!("[a{item}"),
            }
        }
        ("object", _) if facts["values"].is_object() => {
            let value = type_text(&facts["values"], index)?;
            if text(facts, "mapType") == "atomic" {
                format!("<{value}")
            } else {
                format!("{{{value}")
            }
        }
        ("object", _) => "j".to_owned(),
        (other, format) => return Err(format!("unknown type {other} {format}").into()),
    })
}

fn resource_lines(facts: &Value, types: &Map<String, Value>) -> Result<String, Box<dyn Error>> {
    let mut out = String::from("G -\nV v1\n");
    let core = facts["core"]["resources"].as_array().ok_or("no core resources")?;
    for resource in core
        .iter()
        .filter(|resource| !text(resource, "name").contains('/'))
    {
        let name = text(resource, "name");
        resource_line(
            &mut out,
            "R",
            name,
            resource,
            ("", "v1"),
            text(resource, "kind"),
            if resource["namespaced"] == true { "N" } else { "C" },
        )?;
        for sub in core {
            if let Some(subresource) = text(sub, "name").strip_prefix(&format!("{name}/")) {
                let group = if sub["version"].is_null() {
                    ""
                } else {
                    text(sub, "group")
                };
                let version = sub["version"].as_str().unwrap_or("v1");
                resource_line(
                    &mut out,
                    "S",
                    subresource,
                    sub,
                    (group, version),
                    text(sub, "kind"),
                    "",
                )?;
            }
        }
    }
    for group in facts["discovery"]["items"].as_array().ok_or("no discovery")? {
        let group_name = text(&group["metadata"], "name");
        writeln!(out, "G {group_name}")?;
        for version in group["versions"].as_array().into_iter().flatten() {
            let version_name = text(version, "version");
            writeln!(out, "V {version_name}")?;
            for resource in version["resources"].as_array().into_iter().flatten() {
                let kind = text(&resource["responseKind"], "kind");
                let scope = if resource["scope"] == "Namespaced" {
                    "N"
                } else {
                    "C"
                };
                resource_line(
                    &mut out,
                    "R",
                    text(resource, "resource"),
                    resource,
                    (group_name, version_name),
                    kind,
                    scope,
                )?;
                for sub in resource["subresources"].as_array().into_iter().flatten() {
                    let (sub_group, sub_version) = match (
                        text(&sub["responseKind"], "group"),
                        text(&sub["responseKind"], "version"),
                    ) {
                        ("", "") => (group_name, version_name),
                        other => other,
                    };
                    resource_line(
                        &mut out,
                        "S",
                        text(sub, "subresource"),
                        sub,
                        (sub_group, sub_version),
                        text(&sub["responseKind"], "kind"),
                        "",
                    )?;
                }
            }
        }
    }
    check_kinds(&out, types);
    Ok(out)
}

#[allow(clippy::too_many_arguments)]
fn resource_line(
    out: &mut String,
    tag: &str,
    name: &str,
    facts: &Value,
    (group, version): (&str, &str),
    kind: &str,
    scope: &str,
) -> Result<(), Box<dyn Error>> {
    let words = |key: &str| -> String {
        let all: Vec<&str> = facts[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(",")
        }
    };
    write!(out, "{tag} {name} {group}/{version}/{kind} {}", words("verbs"))?;
    if tag == "R" {
        let singular = facts["singularName"]
            .as_str()
            .or(facts["singularResource"].as_str())
            .unwrap_or("");
        let singular = if singular.is_empty() { "-" } else { singular };
        write!(
            out,
            " {scope} {singular} {} {}",
            words("shortNames"),
            words("categories")
        )?;
    }
    out.push('\n');
    Ok(())
}

/// Says which resources have a kind that no type describes.
fn check_kinds(lines: &str, types: &Map<String, Value>) {
    let known: Vec<String> = types
        .values()
        .flat_map(|definition| definition["gvk"].as_array().into_iter().flatten())
        .map(|gvk| {
            format!(
                "{}/{}/{}",
                text(gvk, "group"),
                text(gvk, "version"),
                text(gvk, "kind")
            )
        })
        .collect();
    for line in lines.lines().filter(|line| line.starts_with("R ")) {
        if let Some(kind) = line.split(' ').nth(2)
            && !known.iter().any(|k| k == kind)
        {
            eprintln!("no type describes {kind}");
        }
    }
}
