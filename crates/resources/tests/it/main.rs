//! Runs the cases of `cases/`: objects as clients write them, and what the strategies make of them.
//!
//! A case names what it checks beside its object: `defaulted` (parts the object has after defaulting), `created`
//! (parts it has once prepared), `errors` (of creating it, or with `old` of changing it), `row` (its table's cells).
//! A case without `errors` is valid.

use jiff::Timestamp;
use machinery::codec::json;
use machinery::gvk::GroupVersionKind;
use machinery::user::UserInfo;
use machinery::{Value, defaults};
use resources::{Context, KindInfo, Strategy};
use std::path::{Path, PathBuf};

const NOW: &str = "2026-01-01T12:00:00Z";

struct Kind {
    info: KindInfo,
    strategy: &'static dyn Strategy,
}

fn kind_of(object: &Value) -> Kind {
    let text = |field| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    let gvk = GroupVersionKind::new(group, version, text("kind"));
    let found = api::groups()
        .iter()
        .flat_map(|group| &group.versions)
        .flat_map(|version| &version.resources)
        .find(|resource| resource.kind == gvk)
        .unwrap_or_else(|| panic!("no resource of {gvk}"));
    let info = KindInfo {
        group: group.into(),
        kind: text("kind").into(),
        resource: found.name.into(),
        namespaced: found.namespaced,
        has_status: found.subresources.iter().any(|s| s.name == "status"),
    };
    Kind {
        strategy: resources::strategy(group, found.name),
        info,
    }
}

/// Decodes and defaults an object, as the server does with a body.
fn read(object: &Value, kind: &Kind, at: &str) -> Value {
    let mut bytes = Vec::new();
    json::encode(object, &mut bytes);
    let gvk = GroupVersionKind::new(&kind.info.group, version(object), &kind.info.kind);
    let id = api::kind(&gvk).unwrap();
    let decoded = json::decode(&bytes, api::types(), id).unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!(decoded.findings.is_empty(), "{at}: {:?}", decoded.findings);
    let mut value = decoded.value;
    defaults::apply(api::types(), id, &mut value);
    kind.strategy.default(&mut value);
    value
}

fn version(object: &Value) -> &str {
    let text = object
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    text.rsplit('/').next().unwrap_or_default()
}

/// What of `wanted` the object does not have.
fn missing(wanted: &Value, object: &Value, path: &str) -> Vec<String> {
    match (wanted, object) {
        (Value::Object(wanted), Value::Object(object)) => wanted
            .iter()
            .flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                match object.get(key) {
                    Some(found) => missing(value, found, &path),
                    None if value.is_null() => Vec::new(),
                    None => vec![format!("{path} is absent")],
                }
            })
            .collect(),
        (Value::Array(wanted), Value::Array(object)) if wanted.len() == object.len() => wanted
            .iter()
            .zip(object)
            .enumerate()
            .flat_map(|(at, (wanted, object))| missing(wanted, object, &format!("{path}[{at}]")))
            .collect(),
        (wanted, object) if wanted == object => Vec::new(),
        (wanted, object) => vec![format!("{path} is {object:?}, not {wanted:?}")],
    }
}

fn context<'a>(kind: &'a Kind, user: &'a UserInfo, api_version: &'a str) -> Context<'a> {
    Context {
        user,
        now: NOW.parse::<Timestamp>().unwrap(),
        namespace: "default",
        dry_run: false,
        api_version,
        kind: &kind.info,
    }
}

/// What becomes of a case's object: defaulted, then prepared, and what is wrong with it.
pub fn judge(case: &Value, at: &str) -> (Value, Value, Vec<String>) {
    let given = case.get("object").unwrap_or_else(|| panic!("{at}: no object"));
    let kind = kind_of(given);
    let mut object = read(given, &kind, at);
    let defaulted = object.clone();
    let user = UserInfo {
        uid: "7".to_owned(),
        ..UserInfo::authenticated("jane", &["dev"])
    };
    let api_version = given.get("apiVersion").and_then(Value::as_str);
    let context = context(&kind, &user, api_version.unwrap());
    let subresource = case.get("subresource").and_then(Value::as_str);
    let errors = match case.get("old") {
        None => {
            kind.strategy.prepare_for_create(&context, &mut object);
            kind.strategy.validate(&context, &object)
        }
        Some(old) => {
            let old = read(old, &kind, at);
            match subresource {
                Some(name) => {
                    let part = kind.strategy.subresource(name);
                    let part = part.unwrap_or_else(|| panic!("{at}: no {name}"));
                    part.prepare(&context, &mut object, &old);
                    part.validate(&context, &object, &old)
                }
                None => {
                    kind.strategy.prepare_for_update(&context, &mut object, &old);
                    kind.strategy.validate_update(&context, &object, &old)
                }
            }
        }
    };
    let errors = errors.iter().map(ToString::to_string).collect();
    (defaulted, object, errors)
}

fn run(case: &Value, at: &str) -> Vec<String> {
    let (defaulted, object, got) = judge(case, at);
    let mut wrong = Vec::new();
    if let Some(wanted) = case.get("defaulted") {
        wrong.extend(missing(wanted, &defaulted, ""));
    }
    if let Some(wanted) = case.get("warnings") {
        let kind = kind_of(&object);
        let user = UserInfo::authenticated("jane", &["dev"]);
        let warnings = kind
            .strategy
            .warnings_on_create(&context(&kind, &user, "v1"), &object);
        let warnings = Value::Array(warnings.into_iter().map(Value::from).collect());
        if warnings != *wanted {
            wrong.push(format!("the warnings are {warnings:?}"));
        }
    }
    if let Some(wanted) = case.get("created").or_else(|| case.get("changed")) {
        wrong.extend(missing(wanted, &object, ""));
    }
    if let Some(wanted) = case.get("row") {
        let strategy = kind_of(&defaulted).strategy;
        let row = Value::Array(strategy.row(&defaulted, NOW.parse().unwrap()));
        assert_eq!(
            row.as_array().unwrap().len(),
            strategy.columns().len(),
            "{at}: a cell for each column"
        );
        if row != *wanted {
            wrong.push(format!("the row is {row:?}"));
        }
    }
    if case.get("row").is_none() {
        let wanted: Vec<&str> = case
            .get("errors")
            .and_then(Value::as_array)
            .unwrap_or_default()
            .iter()
            .map(|error| error.as_str().unwrap())
            .collect();
        if got != wanted {
            wrong.push(format!("errors:\n    - {}", got.join("\n    - ")));
        }
    }
    wrong
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_case_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cases");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    let mut wrong = Vec::new();
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let cases: Value =
            serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in cases.as_array().unwrap() {
            let name = case.get("case").and_then(Value::as_str).unwrap_or("?");
            let at = format!("{}: {name}", path.strip_prefix(&root).unwrap().display());
            wrong.extend(run(case, &at).into_iter().map(|what| format!("{at}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
