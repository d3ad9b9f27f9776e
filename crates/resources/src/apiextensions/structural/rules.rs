//! `x-kubernetes-validations`: rules in CEL, beside the values they are about.
//!
//! ```text
//! schema ─► Rules (a tree of checked programs, only where there are rules) ─► evaluated from the leaves' parents down
//! ```
//!
//! A rule that names `oldSelf` is asked about changes alone. A value that did not change keeps what a rule says
//! against it (ratcheting), unless the rule is about the change.

use super::validate::same_keys;
use super::{Additional, ListType, Rule, Schema};
use compact_str::CompactString;
use expressions::{Budget, Environment, EvalError, ObjectType, Program, Type, Val};
use machinery::Value;
use machinery::field::{Error, ErrorList, Path};
use std::sync::Arc;

/// What one expression may cost, as estimated and as run.
pub const ESTIMATED_LIMIT: u64 = 10_000_000;
/// What all rules of a definition may cost, as estimated.
pub const ESTIMATED_TOTAL: u64 = 100_000_000;
const CALL_LIMIT: u64 = 1_000_000;
/// What all rules of an object may cost, as run.
const TOTAL_LIMIT: u64 = 10_000_000;
/// The largest object a request can bring.
const LARGEST: u64 = 3 * 1024 * 1024;

/// The rules of a schema and below.
#[derive(Debug)]
pub struct Rules {
    own: Vec<Compiled>,
    ty: Type,
    fields: Vec<(CompactString, Rules)>,
    items: Option<Box<Rules>>,
    others: Option<Box<Rules>>,
}

/// A rule with its programs.
#[derive(Debug)]
struct Compiled {
    rule: Rule,
    program: Result<Program, String>,
    message: Option<Program>,
    about_change: bool,
}

/// A rule that cannot be, and where it stands among its schema's rules.
#[derive(Debug)]
pub struct Wrong {
    pub index: usize,
    /// `rule` or `messageExpression`.
    pub field: &'static str,
    pub text: String,
    pub why: String,
}

impl Rules {
    /// The rules of an object's schema; `None` if there are none.
    pub fn of(schema: &Schema) -> Option<Self> {
        Self::make(schema, true)
    }

    fn make(schema: &Schema, root: bool) -> Option<Self> {
        if !schema.has_rules() {
            return None;
        }
        let ty = type_of(schema, root);
        let fields = schema.properties.iter();
        Some(Self {
            own: schema.rules.iter().map(|rule| compile(rule, &ty)).collect(),
            fields: fields
                .filter_map(|(name, schema)| Some((name.clone(), Self::make(schema, false)?)))
                .collect(),
            items: schema
                .items
                .as_ref()
                .and_then(|items| Self::make(items, false))
                .map(Box::new),
            others: match &schema.additional {
                Some(Additional::Schema(others)) => Self::make(others, false).map(Box::new),
                _ => None,
            },
            ty,
        })
    }

    /// Judges an object, or a change of one.
    pub fn validate(&self, schema: &Schema, value: &Value, old: Option<&Value>) -> ErrorList {
        let mut judging = Judging {
            left: TOTAL_LIMIT,
            errors: ErrorList::new(),
        };
        judging.below(self, schema, value, old, &Path::root());
        judging.errors
    }
}

struct Judging {
    left: u64,
    errors: ErrorList,
}

impl Judging {
    /// Whether to go on.
    fn below(
        &mut self,
        rules: &Rules,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        at: &Path,
    ) -> bool {
        if value.is_null() {
            return true;
        }
        if !rules
            .own
            .iter()
            .all(|rule| self.rule(rule, rules, schema, value, old, at))
        {
            return false;
        }
        match value {
            Value::Object(map) => {
                let old = old.filter(|_| !schema.atomic_map);
                for (key, value) in map {
                    let field = rules.fields.iter().find(|(name, _)| *name == key.as_str());
                    let (rules, schema, at) =
                        match (field, schema.property(key), &rules.others, &schema.additional) {
                            (Some((_, rules)), Some(schema), _, _) => (rules, schema, at.child(key)),
                            (None, None, Some(rules), Some(Additional::Schema(schema))) => {
                                (rules.as_ref(), schema.as_ref(), at.key(key))
                            }
                            _ => continue,
                        };
                    if !self.below(rules, schema, value, old.and_then(|old| old.get(key)), &at) {
                        return false;
                    }
                }
                true
            }
            Value::Array(items) => {
                let (Some(rules), Some(item_schema)) = (&rules.items, &schema.items) else {
                    return true;
                };
                let old = old
                    .and_then(Value::as_array)
                    .filter(|_| schema.list_type == ListType::Map);
                items.iter().enumerate().all(|(index, item)| {
                    let before = old.and_then(|old| same_keys(schema, item, old));
                    self.below(rules, item_schema, item, before, &at.index(index))
                })
            }
            _ => true,
        }
    }

    fn rule(
        &mut self,
        compiled: &Compiled,
        rules: &Rules,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        at: &Path,
    ) -> bool {
        let optional = compiled.rule.optional_old_self == Some(true);
        if compiled.about_change && old.is_none() && !optional {
            return true;
        }
        let kind = schema.types.first().map_or("object", |ty| ty.as_str());
        let kind = if schema.int_or_string { "" } else { kind };
        let program = match &compiled.program {
            Ok(program) => program,
            Err(why) => {
                let why = format!("rule compile error: {why}");
                self.errors.push(Error::invalid(at, kind, why));
                return true;
            }
        };
        let current = Val::of(value, &rules.ty);
        let before = old.map(|old| Val::of(old, &rules.ty));
        let before = match (optional, before) {
            (true, before) => Val::Optional(before.map(Arc::new)),
            (false, before) => before.unwrap_or(Val::Null),
        };
        let variables = [current, before];
        let most = self.left.min(CALL_LIMIT);
        let mut budget = Budget::new(most);
        let outcome = program.evaluate(&variables, &mut budget);
        self.left -= most - budget.left();
        match outcome {
            Ok(Val::Bool(true)) => return true,
            Err(EvalError::Exhausted) => {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.push(Error::invalid(at, kind, why));
                return false;
            }
            _ => {}
        }
        // What stood there before may stay.
        if !compiled.about_change && old == Some(value) {
            return true;
        }
        let said = compiled.said(&variables);
        let why = match outcome {
            Err(error) => format!("{error} evaluating rule: {said}"),
            Ok(_) => said,
        };
        let at = compiled.place(at);
        self.errors.push(match compiled.rule.reason.as_str() {
            "FieldValueForbidden" => Error::forbidden(&at, why),
            "FieldValueRequired" => Error::required(&at, why),
            "FieldValueDuplicate" => Error::duplicate(&at, kind),
            _ => Error::invalid(&at, kind, why),
        });
        true
    }
}

impl Compiled {
    /// What is said of a value that breaks the rule.
    fn said(&self, variables: &[Val<'_>]) -> String {
        let told = self.message.as_ref().and_then(|program| {
            let mut budget = Budget::new(CALL_LIMIT);
            let told = program.evaluate(variables, &mut budget).ok()?;
            let told = told.as_str()?.trim().to_owned();
            (!told.is_empty() && !told.contains('\n')).then_some(told)
        });
        told.unwrap_or_else(|| match self.rule.message.trim() {
            "" => format!("failed rule: {}", self.rule.rule.trim()),
            message => message.to_owned(),
        })
    }

    /// Where it is said.
    fn place(&self, at: &Path) -> Path {
        let mut at = at.clone();
        let mut rest = self.rule.field_path.trim_start_matches('.');
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix("['")
                && let Some((key, after)) = inner.split_once("']")
            {
                at = at.key(key);
                rest = after.trim_start_matches('.');
                continue;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            at = at.child(&rest[..end]);
            rest = rest[end..].trim_start_matches('.');
        }
        at
    }
}

fn compile(rule: &Rule, ty: &Type) -> Compiled {
    let old = match rule.optional_old_self {
        Some(true) => Type::Optional(Arc::new(ty.clone())),
        _ => ty.clone(),
    };
    let environment = Environment::new().with("self", ty.clone()).with("oldSelf", old);
    let program = environment.compile(&rule.rule).map_err(|error| error.to_string());
    let message = Some(&rule.message_expression)
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| environment.compile(text).ok());
    Compiled {
        about_change: program.as_ref().is_ok_and(|program| program.uses(1)),
        rule: rule.clone(),
        program,
        message,
    }
}

/// What is wrong with the rules of one schema, and what they may cost. `rounds` is how often the schema's values can
/// stand in one object.
pub fn judge(schema: &Schema, root: bool, rounds: u64, spent: &mut u64) -> Vec<Wrong> {
    let ty = type_of(schema, root);
    let mut wrong = Vec::new();
    for (index, rule) in schema.rules.iter().enumerate() {
        let mut refuse = |field, text: &str, why: String| {
            wrong.push(Wrong {
                index,
                field,
                text: text.to_owned(),
                why,
            });
        };
        if rule.rule.trim().is_empty() {
            continue;
        }
        let old = match rule.optional_old_self {
            Some(true) => Type::Optional(Arc::new(ty.clone())),
            _ => ty.clone(),
        };
        let environment = Environment::new().with("self", ty.clone()).with("oldSelf", old);
        match environment.compile(&rule.rule) {
            Err(error) => refuse("rule", &rule.rule, format!("compilation failed: {error}")),
            Ok(program) if !matches!(program.result(), Type::Bool | Type::Dyn) => {
                refuse(
                    "rule",
                    &rule.rule,
                    "cel expression must evaluate to a bool".to_owned(),
                );
            }
            Ok(program) => {
                let cost = program.estimated_cost().saturating_mul(rounds);
                *spent = spent.saturating_add(cost);
                if cost > ESTIMATED_LIMIT {
                    let factor = cost as f64 / ESTIMATED_LIMIT as f64;
                    let factor = if factor > 100.0 {
                        "more than 100x".to_owned()
                    } else {
                        format!("{factor:.1}x")
                    };
                    refuse(
                        "",
                        &rule.rule,
                        format!(
                            "estimated rule cost exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
                        ),
                    );
                }
            }
        }
        if !rule.message_expression.trim().is_empty() {
            match environment.compile(&rule.message_expression) {
                Err(error) => refuse(
                    "messageExpression",
                    &rule.message_expression,
                    format!("messageExpression compilation failed: {error}"),
                ),
                Ok(program) if !matches!(program.result(), Type::String(_) | Type::Dyn) => refuse(
                    "messageExpression",
                    &rule.message_expression,
                    "messageExpression must evaluate to a string".to_owned(),
                ),
                Ok(_) => {}
            }
        }
    }
    wrong
}

/// How often a value of a schema below can stand where one of this schema stands.
pub fn rounds_below(schema: &Schema) -> u64 {
    let least = |inner: Option<&Schema>| LARGEST / (inner.map_or(1, smallest) + 1).max(1);
    match schema.types.first().map(|ty| ty.as_str()) {
        Some("array") => limit(schema.max_items).unwrap_or_else(|| least(schema.items.as_deref())),
        Some("object") => match &schema.additional {
            Some(Additional::Schema(inner)) => {
                limit(schema.max_properties).unwrap_or_else(|| least(Some(inner)))
            }
            _ => 1,
        },
        _ => 1,
    }
}

fn limit(most: Option<i64>) -> Option<u64> {
    most.and_then(|most| u64::try_from(most).ok())
}

/// The fewest bytes a value takes in JSON.
fn smallest(schema: &Schema) -> u64 {
    match schema.types.first().map(|ty| ty.as_str()) {
        Some("object") => {
            let required = schema
                .properties
                .iter()
                .filter(|(name, _)| schema.required.contains(name));
            let fields: u64 = required
                .map(|(name, schema)| name.len() as u64 + 3 + smallest(schema) + 1)
                .sum();
            2 + fields
        }
        Some("array" | "string") => 2,
        Some("boolean") => 4,
        _ => 1,
    }
}

/// The CEL type of a schema's values.
fn type_of(schema: &Schema, root: bool) -> Type {
    if schema.int_or_string {
        return Type::Dyn;
    }
    match schema.types.first().map(|ty| ty.as_str()) {
        Some("object") => {
            if let Some(Additional::Schema(inner)) = &schema.additional
                && schema.properties.is_empty()
            {
                let inner = type_of(inner, false);
                return Type::Map(
                    Arc::new(Type::String(LARGEST)),
                    Arc::new(inner),
                    rounds_below(schema),
                );
            }
            let with_meta = root || schema.embedded_resource;
            if schema.properties.is_empty() && schema.preserve_unknown && !with_meta {
                return Type::Dyn;
            }
            let mut fields: Vec<(CompactString, Type)> = schema
                .properties
                .iter()
                .filter(|(name, _)| {
                    !with_meta || !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
                })
                .map(|(name, property)| (name.clone(), type_of(property, false)))
                .collect();
            if with_meta {
                let text = || Type::String(253);
                let metadata = [("name".into(), text()), ("generateName".into(), text())];
                fields.push(("apiVersion".into(), text()));
                fields.push(("kind".into(), text()));
                fields.push((
                    "metadata".into(),
                    Type::object(ObjectType::new("metadata", metadata)),
                ));
            }
            Type::object(ObjectType::new("object", fields))
        }
        Some("array") => {
            let item = schema
                .items
                .as_ref()
                .map_or(Type::Dyn, |items| type_of(items, false));
            Type::List(Arc::new(item), rounds_below(schema))
        }
        Some("string") => {
            let longest = schema
                .one_of_values
                .iter()
                .filter_map(Value::as_str)
                .map(|text| text.len() as u64)
                .max();
            let most = longest.or(limit(schema.max_length)).unwrap_or(LARGEST);
            match schema.format.as_str() {
                "byte" => Type::Bytes(most),
                "duration" => Type::Duration,
                "date" | "date-time" | "datetime" => Type::Timestamp,
                _ => Type::String(most),
            }
        }
        Some("integer") => Type::Int,
        Some("number") => Type::Double,
        Some("boolean") => Type::Bool,
        _ => Type::Dyn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json::decode_any;

    const SCHEMA: &str = r#"{"type":"object","properties":{"spec":{"type":"object","properties":{
        "min":{"type":"integer"},"max":{"type":"integer"},"name":{"type":"string","maxLength":10,
            "x-kubernetes-validations":[{"rule":"self == oldSelf","message":"name is immutable"}]},
        "list":{"type":"array","maxItems":5,"items":{"type":"object","properties":{"v":{"type":"integer"}},
            "x-kubernetes-validations":[{"rule":"self.v > 0","messageExpression":"'v is ' + string(self.v)"}]}}},
        "x-kubernetes-validations":[{"rule":"!has(self.min) || self.min <= self.max","fieldPath":".min"}]}}}"#;

    fn check(old: Option<&str>, new: &str, want: &[&str]) {
        let read = |text: &str| decode_any(text.as_bytes()).unwrap().value;
        let schema = Schema::parse(&read(SCHEMA));
        let rules = Rules::of(&schema).unwrap();
        let old = old.map(read);
        let errors = rules.validate(&schema, &read(new), old.as_ref());
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{new}");
    }

    #[test]
    fn objects_are_judged_by_their_rules() {
        check(None, r#"{"spec":{"min":1,"max":2,"list":[{"v":1}]}}"#, &[]);
        check(
            None,
            r#"{"spec":{"min":3,"max":2,"list":[{"v":1},{"v":0}]}}"#,
            &[
                r#"spec.min: Invalid value: "object": failed rule: !has(self.min) || self.min <= self.max"#,
                r#"spec.list[1]: Invalid value: "object": v is 0"#,
            ],
        );
        check(
            Some(r#"{"spec":{"name":"a"}}"#),
            r#"{"spec":{"name":"b"}}"#,
            &[r#"spec.name: Invalid value: "string": name is immutable"#],
        );
        check(None, r#"{"spec":{"name":"b"}}"#, &[]);
        check(
            Some(r#"{"spec":{"min":3,"max":2}}"#),
            r#"{"spec":{"min":3,"max":2}}"#,
            &[],
        );
    }

    #[test]
    fn rules_are_checked_before_there_are_values() {
        let judged = |rule: &str| {
            let text = format!(
                r#"{{"type":"object","properties":{{"l":{{"type":"array","items":{{"type":"string"}}}}}},"x-kubernetes-validations":[{{"rule":"{rule}"}}]}}"#
            );
            let schema = Schema::parse(&decode_any(text.as_bytes()).unwrap().value);
            let mut spent = 0;
            let wrong = judge(&schema, true, 1, &mut spent);
            wrong
                .into_iter()
                .next()
                .map(|wrong| wrong.why)
                .unwrap_or_default()
        };
        assert_eq!(judged("self.l.size() > 0"), "");
        assert!(judged("self.missing > 0").contains("undefined field 'missing'"));
        assert!(judged("self.l.size()").contains("must evaluate to a bool"));
        assert!(judged("self.l.all(a, self.l.all(b, a.contains(b)))").contains("exceeds budget"));
    }
}
