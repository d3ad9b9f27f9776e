//! OpenAPI validation of an object against its schema, in the words of upstream's validator.
//!
//! An update ratchets: a value that stood there before may stay, even if it no longer fits. List items are found
//! again by their keys in lists that are maps, and not at all in other lists.

use super::{Additional, ListType, Schema, formats};
use machinery::Value;
use machinery::field::{Error, ErrorList, Path, quote};
use std::fmt::Write as _;

/// Judges a new value; `at` is where it stands.
pub fn validate(schema: &Schema, value: &Value, at: &str) -> ErrorList {
    Validator::default().run(schema, value, None, at)
}

/// Judges a changed value. `old` is what stood in its place.
pub fn validate_update(schema: &Schema, value: &Value, old: Option<&Value>, at: &str) -> ErrorList {
    Validator { ratchets: true }.run(schema, value, old, at)
}

#[derive(Default, Clone, Copy)]
struct Validator {
    ratchets: bool,
}

/// What is wrong, and how much was right: of several alternatives the one that fits best explains.
#[derive(Default)]
struct Findings {
    errors: ErrorList,
    matches: usize,
}

impl Findings {
    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }
}

impl Validator {
    fn run(self, schema: &Schema, value: &Value, old: Option<&Value>, at: &str) -> ErrorList {
        let mut path = at.to_owned();
        let mut findings = Findings::default();
        self.ratcheted(schema, value, old, &mut path, &mut findings);
        findings.errors
    }

    /// A value that can be compared with what stood there.
    fn ratcheted(
        self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &mut String,
        out: &mut Findings,
    ) {
        let before = out.errors.len();
        self.value(schema, value, old, path, out);
        if self.ratchets && out.errors.len() > before && old == Some(value) {
            out.errors.truncate(before);
        }
    }

    fn value(self, s: &Schema, value: &Value, old: Option<&Value>, path: &mut String, out: &mut Findings) {
        if value.is_null() {
            if !s.types.is_empty() && !s.nullable {
                out.errors.push(wrong_type(path, &s.types.join(","), "null"));
            }
            self.one_of_values(s, value, path, out);
            out.matches += 2;
            return;
        }
        if !s.types.is_empty() || !s.format.is_empty() {
            self.type_of(s, value, path, out);
        }
        self.combinations(s, value, old, path, out);
        match value {
            Value::String(text) => self.text(s, text, path, out),
            Value::Int(_) | Value::Float(_) => self.number(s, value, path, out),
            Value::Array(items) => self.list(s, items, old, path, out),
            Value::Object(_) => self.object(s, value, old, path, out),
            Value::Null | Value::Bool(_) => {}
        }
        self.one_of_values(s, value, path, out);
        out.matches += 3;
    }

    fn type_of(self, s: &Schema, value: &Value, path: &str, out: &mut Findings) {
        let is = type_name(value);
        if s.types.is_empty() {
            return;
        }
        let number_like = s.has_type("number") || s.has_type("integer");
        if !number_like && !s.format.is_empty() && matches!(value, Value::String(_) | Value::Array(_)) {
            return;
        }
        let whole = matches!(value, Value::Float(f) if f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0);
        let fits =
            s.has_type(is) || (whole && s.has_type("integer")) || (is == "integer" && s.has_type("number"));
        if fits {
            out.matches += 1;
        } else if !s.format.is_empty() && !matches!(value, Value::String(_) | Value::Array(_)) {
            let format = match value {
                Value::Int(_) => "int64",
                Value::Float(_) => "double",
                _ => "",
            };
            out.errors.push(wrong_type(path, &s.format, format));
        } else {
            out.errors.push(wrong_type(path, &s.types.join(","), is));
        }
    }

    fn text(self, s: &Schema, text: &str, path: &str, out: &mut Findings) {
        let length = || text.chars().count() as i64;
        if let Some(most) = s.max_length
            && length() > most
        {
            out.errors.push(Error::too_long(&field(path), most));
        }
        if let Some(least) = s.min_length
            && length() < least
        {
            let why = format!("{path} in body should be at least {least} chars long");
            out.errors.push(Error::invalid(&field(path), text, why));
        }
        if let Some(pattern) = &s.pattern {
            let why = match pattern.regex() {
                Ok(regex) if regex.is_match(text) => None,
                Ok(_) => Some(pattern.text.clone()),
                Err(error) => Some(format!("{}, but pattern is invalid: {error}", pattern.text)),
            };
            if let Some(why) = why {
                let why = format!("{path} in body should match '{why}'");
                out.errors.push(Error::invalid(&field(path), text, why));
            }
        }
        if !s.format.is_empty() && !formats::is_of(&s.format, text) {
            let why = format!("{path} in body must be of type {}: {}", s.format, quote(text));
            out.errors.push(Error::type_invalid(&field(path), text, why));
        }
    }

    fn number(self, s: &Schema, value: &Value, path: &str, out: &mut Findings) {
        let Some(number) = value.as_f64() else { return };
        let mut refuse = |why: String| {
            let why = format!("{path} in body should be {why}");
            out.errors.push(Error::invalid(&field(path), value.clone(), why));
        };
        if let Some(factor) = s.multiple_of
            && factor != 0.0
            && (number / factor).fract() != 0.0
        {
            refuse(format!("a multiple of {factor}"));
        }
        if let Some(most) = s.maximum {
            if s.exclusive_maximum && number >= most {
                refuse(format!("less than {most}"));
            } else if number > most {
                refuse(format!("less than or equal to {most}"));
            }
        }
        if let Some(least) = s.minimum {
            if s.exclusive_minimum && number <= least {
                refuse(format!("greater than {least}"));
            } else if number < least {
                refuse(format!("greater than or equal to {least}"));
            }
        }
        if s.format == "int32" && value.as_i64().is_some_and(|n| i32::try_from(n).is_err()) {
            let why = format!("Checked value must be of type integer with format int32 in {path}");
            out.errors.push(Error::invalid(&Path::root(), "", why));
        }
    }

    fn list(self, s: &Schema, items: &[Value], old: Option<&Value>, path: &mut String, out: &mut Findings) {
        if let Some(schema) = &s.items {
            let old = old
                .and_then(Value::as_array)
                .filter(|_| s.list_type == ListType::Map);
            for (index, item) in items.iter().enumerate() {
                let counterpart = old.and_then(|old| same_keys(s, item, old));
                within(path, format_args!("[{index}]"), |path| {
                    self.ratcheted(schema, item, counterpart, path, out);
                });
            }
        }
        let count = items.len() as i64;
        if let Some(least) = s.min_items
            && count < least
        {
            let why = format!("{path} in body should have at least {least} items");
            out.errors.push(Error::invalid(&field(path), count, why));
        }
        if let Some(most) = s.max_items
            && count > most
        {
            out.errors.push(Error::too_many(
                &field(path),
                items.len(),
                usize::try_from(most).unwrap_or(0),
            ));
        }
        if s.unique_items && (1..items.len()).any(|at| items[..at].contains(&items[at])) {
            let why = format!("{path} in body shouldn't contain duplicates");
            out.errors.push(Error::invalid(&field(path), "", why));
        }
    }

    fn object(self, s: &Schema, value: &Value, old: Option<&Value>, path: &mut String, out: &mut Findings) {
        let Some(map) = value.as_object() else { return };
        let count = map.len() as i64;
        if let Some(least) = s.min_properties
            && count < least
        {
            let why = format!("{path} in body should have at least {least} properties");
            out.errors.push(Error::invalid(&field(path), count, why));
        }
        if let Some(most) = s.max_properties
            && count > most
        {
            out.errors.push(Error::too_many(
                &field(path),
                map.len(),
                usize::try_from(most).unwrap_or(0),
            ));
        }
        for (key, value) in map {
            let schema = match (s.property(key), &s.additional) {
                (Some(schema), _) => schema,
                (None, Some(Additional::Schema(schema))) => schema,
                (None, Some(Additional::Allowed(false))) => {
                    let why = format!("{path}.{key} in body is a forbidden property");
                    out.errors.push(Error::invalid(&field(path), "", why));
                    continue;
                }
                (None, _) => continue,
            };
            let counterpart = old.and_then(|old| old.get(key));
            let dot = if path.is_empty() { "" } else { "." };
            within(path, format_args!("{dot}{key}"), |path| {
                self.ratcheted(schema, value, counterpart, path, out);
            });
        }
        for name in &s.required {
            if !map.contains_key(name) {
                out.errors
                    .push(Error::required(&field(&format!("{path}.{name}")), ""));
            }
        }
    }

    fn one_of_values(self, s: &Schema, value: &Value, path: &str, out: &mut Findings) {
        if s.one_of_values.is_empty() || s.one_of_values.iter().any(|known| equal(known, value)) {
            return;
        }
        let known: Vec<String> = s
            .one_of_values
            .iter()
            .map(|known| match known {
                Value::String(text) => text.to_string(),
                other => String::from_utf8_lossy(&machinery::codec::json::to_vec(other)).into_owned(),
            })
            .collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        out.errors
            .push(Error::not_supported(&field(path), value.clone(), &known));
    }

    fn alone(self, schema: &Schema, value: &Value, old: Option<&Value>, path: &mut String) -> Findings {
        let mut findings = Findings::default();
        self.value(schema, value, old, path, &mut findings);
        findings
    }

    fn combinations(
        self,
        s: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &mut String,
        out: &mut Findings,
    ) {
        let best = |failures: Vec<Findings>| {
            // The first of those that fit best.
            failures
                .into_iter()
                .reduce(|best, next| if next.matches > best.matches { next } else { best })
        };
        if !s.any_of.is_empty() {
            let mut failures = Vec::new();
            let mut good = None;
            for schema in &s.any_of {
                let findings = self.alone(schema, value, old, path);
                if findings.is_valid() {
                    good = Some(findings);
                    break;
                }
                failures.push(findings);
            }
            match good {
                Some(findings) => out.merge(findings),
                None => {
                    out.errors
                        .push(composite(path, "must validate at least one schema (anyOf)"));
                    if let Some(findings) = best(failures) {
                        out.merge(findings);
                    }
                }
            }
        }
        if !s.one_of.is_empty() {
            let (good, failures): (Vec<_>, Vec<_>) = s
                .one_of
                .iter()
                .map(|schema| self.alone(schema, value, old, path))
                .partition(Findings::is_valid);
            if good.len() == 1 {
                good.into_iter().for_each(|findings| out.merge(findings));
            } else {
                let found = match good.len() {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                let why = format!("must validate one and only one schema (oneOf). {found}");
                out.errors.push(composite(path, &why));
                if good.is_empty()
                    && let Some(findings) = best(failures)
                {
                    out.merge(findings);
                }
            }
        }
        if !s.all_of.is_empty() {
            let mut valid = 0;
            for schema in &s.all_of {
                let findings = self.alone(schema, value, old, path);
                valid += usize::from(findings.is_valid());
                out.merge(findings);
            }
            if valid != s.all_of.len() {
                let more = if valid == 0 { ". None validated" } else { "" };
                let why = format!("must validate all the schemas (allOf){more}");
                out.errors.push(composite(path, &why));
            }
        }
        if let Some(schema) = &s.not
            && self.alone(schema, value, old, path).is_valid()
        {
            out.errors
                .push(composite(path, "must not validate the schema (not)"));
        }
    }
}

/// A finding about alternatives, which upstream tells without a field.
fn composite(path: &str, why: &str) -> Error {
    Error::invalid(&Path::root(), "", format!("{} {why}", quote(path)))
}

/// Goes one step down a path and back up.
fn within(path: &mut String, step: std::fmt::Arguments<'_>, then: impl FnOnce(&mut String)) {
    let length = path.len();
    // Writing to a String cannot fail.
    path.write_fmt(step).unwrap_or_default();
    then(path);
    path.truncate(length);
}

fn field(path: &str) -> Path {
    let path = path.trim_start_matches('.');
    if path.is_empty() {
        Path::root()
    } else {
        Path::new(path)
    }
}

fn wrong_type(path: &str, wanted: &str, is: &str) -> Error {
    let why = if is.is_empty() {
        format!("{path} in body must be of type {wanted}")
    } else {
        format!("{path} in body must be of type {wanted}: {}", quote(is))
    };
    Error::type_invalid(&field(path), is, why)
}

/// JSON's name of a value's type.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Int(_) => "integer",
        Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A whole number is the same with and without a point.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.as_f64().is_some() && a.as_f64() == b.as_f64())
}

/// The item of a list with the keys of `item`.
pub(super) fn same_keys<'a>(s: &Schema, item: &Value, old: &'a [Value]) -> Option<&'a Value> {
    let mut found = old.iter().filter(|candidate| {
        s.list_map_keys
            .iter()
            .all(|key| candidate.get(key) == item.get(key))
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json::decode_any;

    const SCHEMA: &str = r#"{"type":"object","required":["spec"],"properties":{"spec":{"type":"object",
        "required":["a"],"properties":{"a":{"type":"integer","minimum":1,"maximum":5,"format":"int32"},
        "b":{"type":"string","minLength":2,"maxLength":3,"pattern":"^x"},"c":{"type":"string","enum":["p","q"]},
        "d":{"x-kubernetes-int-or-string":true},"t":{"type":"string","format":"date-time"},
        "l":{"type":"array","maxItems":2,"items":{"type":"boolean"}},
        "m":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
             "items":{"type":"object","properties":{"k":{"type":"string"},"v":{"type":"integer"}}}},
        "o":{"type":"object","oneOf":[{"required":["x"]},{"required":["y"]}]}}}}}"#;

    fn check(old: Option<&str>, new: &str, want: &[&str]) {
        let read = |text: &str| decode_any(text.as_bytes()).unwrap().value;
        let schema = Schema::parse(&read(SCHEMA));
        let errors = match old {
            Some(old) => validate_update(&schema, &read(new), Some(&read(old)), ""),
            None => validate(&schema, &read(new), ""),
        };
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{new}");
    }

    #[test]
    fn values_are_judged_in_upstreams_words() {
        check(
            None,
            r#"{"spec":{"a":2,"b":"xy","c":"p","d":"1","l":[true],"o":{"x":1}}}"#,
            &[],
        );
        check(None, "{}", &["spec: Required value"]);
        check(
            None,
            r#"{"spec":{"a":"1"}}"#,
            &[r#"spec.a: Invalid value: "string": spec.a in body must be of type integer: "string""#],
        );
        check(
            None,
            r#"{"spec":{"a":9,"b":"y","c":"r","d":true,"l":[true,1,false],"t":"now"}}"#,
            &[
                "spec.a: Invalid value: 9: spec.a in body should be less than or equal to 5",
                r#"spec.b: Invalid value: "y": spec.b in body should be at least 2 chars long"#,
                r#"spec.b: Invalid value: "y": spec.b in body should match '^x'"#,
                r#"spec.c: Unsupported value: "r": supported values: "p", "q""#,
                r#"spec.d: Invalid value: "boolean": spec.d in body must be of type integer,string: "boolean""#,
                r#"spec.l[1]: Invalid value: "integer": spec.l[1] in body must be of type boolean: "integer""#,
                "spec.l: Too many: 3: must have at most 2 items",
                r#"spec.t: Invalid value: "now": spec.t in body must be of type date-time: "now""#,
            ],
        );
        check(
            None,
            r#"{"spec":{"a":1,"o":{}}}"#,
            &[
                r#"<nil>: Invalid value: "": "spec.o" must validate one and only one schema (oneOf). Found none valid"#,
                "spec.o.x: Required value",
            ],
        );
    }

    #[test]
    fn what_stood_there_may_stay() {
        check(
            Some(r#"{"spec":{"a":9,"m":[{"k":"1","v":"bad"}]}}"#),
            r#"{"spec":{"a":9,"b":"xx","m":[{"k":"0"},{"k":"1","v":"bad"}]}}"#,
            &[],
        );
        check(
            Some(r#"{"spec":{"a":9,"l":[1]}}"#),
            r#"{"spec":{"a":8,"l":[1,true]}}"#,
            &[
                "spec.a: Invalid value: 8: spec.a in body should be less than or equal to 5",
                r#"spec.l[0]: Invalid value: "integer": spec.l[0] in body must be of type boolean: "integer""#,
            ],
        );
    }
}
