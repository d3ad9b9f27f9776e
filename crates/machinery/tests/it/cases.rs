//! Case files: `=== title`, then sections `--- name words`, each with a body up to the next marker. The last section
//! is `--- want`, and what comes out is compared with it.

use machinery::{Key, Map, Value};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) sections: Vec<Section>,
}

pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
    pub(crate) body: String,
}

impl Case {
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }
}

/// Runs every case of a file and compares; with `UPDATE_CASES` set, writes what came out instead.
pub(crate) fn check(file: &str, run: impl Fn(&Case) -> String) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(file);
    let text = std::fs::read_to_string(&path).expect("the case file");
    let (preamble, cases) = read(&text);
    let mut out = preamble;
    let mut failures = Vec::new();
    for case in &cases {
        let got = run(case);
        let want = case.section("want").map_or("", |s| &s.body);
        if got.trim() != want.trim() {
            failures.push(format!(
                "=== {}\n--- want\n{}\n--- got\n{}\n",
                case.title,
                want.trim(),
                got.trim()
            ));
        }
        let _ = writeln!(out, "=== {}", case.title);
        for section in case.sections.iter().filter(|s| s.name != "want") {
            let _ = writeln!(
                out,
                "--- {}",
                [std::slice::from_ref(&section.name), &section.words[..]]
                    .concat()
                    .join(" ")
            );
            let _ = writeln!(out, "{}", section.body.trim_end());
        }
        let _ = writeln!(out, "--- want\n{}\n", got.trim());
    }
    if std::env::var_os("UPDATE_CASES").is_some() {
        std::fs::write(&path, out).expect("write the case file");
        return;
    }
    assert!(!cases.is_empty(), "no cases in {file}");
    assert!(
        failures.is_empty(),
        "{} of {} cases of {file} differ:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

fn read(text: &str) -> (String, Vec<Case>) {
    let mut preamble = String::new();
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("=== ") {
            cases.push(Case {
                title: title.trim().to_owned(),
                sections: Vec::new(),
            });
        } else if let (Some(head), Some(case)) = (line.strip_prefix("--- "), cases.last_mut()) {
            let mut words = head.split_whitespace().map(str::to_owned);
            let name = words.next().unwrap_or_default();
            case.sections.push(Section {
                name,
                words: words.collect(),
                body: String::new(),
            });
        } else if let Some(case) = cases.last_mut() {
            if let Some(section) = case.sections.last_mut() {
                section.body.push_str(line);
                section.body.push('\n');
            }
        } else {
            preamble.push_str(line);
            preamble.push('\n');
        }
    }
    (preamble, cases)
}

/// A value from YAML (or JSON).
pub(crate) fn value(yaml: &str) -> Value {
    let parsed: serde_json::Value =
        serde_yaml_ng::from_str(yaml).unwrap_or_else(|e| panic!("{e} in {yaml:?}"));
    convert(parsed)
}

pub(crate) fn object(yaml: &str) -> Map {
    match value(yaml) {
        Value::Object(map) => map,
        other => panic!("not an object: {other:?}"),
    }
}

fn convert(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => n
            .as_i64()
            .map(Value::Int)
            .or_else(|| n.as_f64().map(Value::Float))
            .expect("a number is one or the other"),
        Json::String(s) => Value::from(s),
        Json::Array(items) => Value::Array(items.into_iter().map(convert).collect()),
        Json::Object(map) => {
            Value::Object(map.into_iter().map(|(k, v)| (Key::from(k), convert(v))).collect())
        }
    }
}

/// Block YAML, for reading and comparing.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(out, "{pad}{}:", scalar(&Value::from(key.as_str())));
                nested(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                block(item, indent + 2, &mut inner);
                let _ = writeln!(out, "{pad}- {}", inner.trim_start().trim_end());
            }
        }
        other => {
            let _ = writeln!(out, "{pad}{}", scalar(other));
        }
    }
}

fn nested(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        other => {
            let _ = writeln!(out, " {}", scalar(other));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::String(s) => {
            let plain = !s.is_empty()
                && s.bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"-_./$".contains(&c))
                && s.as_bytes()[0].is_ascii_alphabetic()
                && !matches!(
                    s.to_lowercase().as_str(),
                    "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
                );
            if plain {
                s.to_string()
            } else {
                serde_json::to_string(s.as_str()).expect("text is JSON")
            }
        }
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
    }
}
