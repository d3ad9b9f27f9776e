//! `x-kubernetes-validations`: rules in CEL, beside the values they are about.
//!
//! ```text
//! schema ─► Rules (a tree of checked programs, only where there are rules) ─► evaluated from the leaves' parents down
//! ```
//!
//! A rule that names `oldSelf` is asked about changes alone. A value that did not change keeps what a rule says
//! against it (ratcheting), unless the rule is about the change.

use super::declared::type_of;
use super::paths::{self, Notation};
use super::validate::same_keys;
use super::{Additional, ListType, Rule, Schema};
use compact_str::CompactString;
use expressions::{Budget, Environment, EvalError, Program, Type, Val};
use machinery::Value;
use machinery::field::{Error, ErrorList, Path};
use std::sync::Arc;

/// What one expression may cost.
const CALL_LIMIT: u64 = 1_000_000;
/// What all rules of an object may cost, as run.
const TOTAL_LIMIT: u64 = 10_000_000;
/// The longest message an expression makes.
const LONGEST_MESSAGE: usize = 5 * 1024;

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
    /// Where it is said, below what the rule is about.
    place: Option<Path>,
}

impl Rules {
    /// The rules of an object's schema; `None` if there are none.
    pub fn of(schema: &Schema) -> Option<Self> {
        Self::make(schema, true)
    }

    /// The rules of a value within an object.
    pub fn of_part(schema: &Schema) -> Option<Self> {
        Self::make(schema, false)
    }

    fn make(schema: &Schema, root: bool) -> Option<Self> {
        if !schema.has_rules() {
            return None;
        }
        // Values expressions cannot see have rules in definitions nobody would accept today.
        let ty = type_of(schema, root).unwrap_or(Type::Dyn);
        let fields = schema.properties.iter();
        Some(Self {
            own: schema
                .rules
                .iter()
                .filter(|rule| !rule.rule.trim().is_empty())
                .map(|rule| compile(rule, &ty, schema))
                .collect(),
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
        self.validate_at(schema, value, old, &Path::root())
    }

    /// Judges a value that stands somewhere.
    pub fn validate_at(&self, schema: &Schema, value: &Value, old: Option<&Value>, at: &Path) -> ErrorList {
        let mut judging = Judging {
            left: TOTAL_LIMIT,
            errors: ErrorList::new(),
        };
        judging.below(self, schema, value, Before::of(value, old), at);
        judging.errors
    }
}

/// What stood in a value's place.
#[derive(Clone, Copy)]
struct Before<'a> {
    old: Option<&'a Value>,
    /// Nothing is new where the value stands, or, if nothing can be said to have stood there, in the nearest value
    /// around it of which that can be said.
    same: bool,
}

impl<'a> Before<'a> {
    fn of(value: &Value, old: Option<&'a Value>) -> Self {
        Self {
            old,
            same: old == Some(value),
        }
    }

    /// What stood in the place of a part of the value.
    fn below(self, part: &Value, old: Option<&'a Value>) -> Self {
        match old {
            Some(_) => Self::of(part, old),
            None => Self {
                old: None,
                same: self.same,
            },
        }
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
        before: Before<'_>,
        at: &Path,
    ) -> bool {
        if value.is_null() {
            return true;
        }
        if !rules
            .own
            .iter()
            .all(|rule| self.rule(rule, rules, schema, value, before, at))
        {
            return false;
        }
        match value {
            Value::Object(map) => {
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
                    let before = before.below(value, before.old.and_then(|old| old.get(key)));
                    if !self.below(rules, schema, value, before, &at) {
                        return false;
                    }
                }
                true
            }
            Value::Array(items) => {
                let (Some(rules), Some(item_schema)) = (&rules.items, &schema.items) else {
                    return true;
                };
                let old = before
                    .old
                    .and_then(Value::as_array)
                    .filter(|_| schema.list_type == ListType::Map);
                items.iter().enumerate().all(|(index, item)| {
                    let stood = old.and_then(|old| same_keys(schema, item, old));
                    self.below(
                        rules,
                        item_schema,
                        item,
                        before.below(item, stood),
                        &at.index(index),
                    )
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
        before: Before<'_>,
        at: &Path,
    ) -> bool {
        let optional = compiled.rule.optional_old_self == Some(true);
        if compiled.about_change && before.old.is_none() && !optional {
            return true;
        }
        let kind = schema.types.first().map_or("", |ty| ty.as_str());
        let kind = if schema.int_or_string { "" } else { kind };
        let mut refuse = |why: String| self.errors.push(Error::invalid(at, kind, why));
        let program = match &compiled.program {
            Ok(program) => program,
            Err(why) => {
                refuse(format!("rule compile error: {why}"));
                return true;
            }
        };
        let current = Val::of(value, &rules.ty);
        let stood = before.old.map(|old| Val::of(old, &rules.ty));
        let stood = match (optional, stood) {
            (true, stood) => Val::Optional(stood.map(Arc::new)),
            (false, stood) => stood.unwrap_or(Val::Null),
        };
        let variables = [current, stood];
        let most = self.left.min(CALL_LIMIT);
        let mut budget = Budget::new(most);
        let outcome = program.evaluate(&variables, &mut budget);
        self.left -= most - budget.left();
        let named = compiled.named();
        match outcome {
            Ok(Val::Bool(true)) => return true,
            Ok(_) => {}
            Err(EvalError::Exhausted) if most < CALL_LIMIT => {
                refuse(OUT_OF_BUDGET.to_owned());
                return false;
            }
            Err(error @ EvalError::Exhausted) => {
                refuse(format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {named}"
                ));
                return false;
            }
            Err(error) => {
                let error = error.to_string();
                refuse(if error.starts_with("no such overload") {
                    format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {named}"
                    )
                } else {
                    format!("{error} evaluating rule: {named}")
                });
                return true;
            }
        }
        // What stood there before may stay.
        if !compiled.about_change && before.same {
            return true;
        }
        let at = match &compiled.place {
            Some(place) => at.child(place.as_str()),
            None => at.clone(),
        };
        let why = match compiled.told(&variables, &mut self.left) {
            Ok(told) => told.unwrap_or_else(|| compiled.usual_message()),
            Err(why) => {
                self.errors.push(Error::invalid(&at, kind, why));
                return false;
            }
        };
        let error = match compiled.rule.reason.as_str() {
            "FieldValueForbidden" => Error::forbidden(&at, why),
            "FieldValueRequired" => Error::required(&at, why),
            "FieldValueDuplicate" => Error::duplicate(&at, value.clone()),
            _ => Error::invalid(&at, value.clone(), why),
        };
        self.errors.push(if matches!(kind, "object" | "array") {
            Error {
                bad_value: Value::Null,
                ..error.without_value()
            }
        } else {
            error
        });
        true
    }
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Compiled {
    /// What the expression for it says of a value that breaks the rule, if it says something that can be told; or why
    /// nothing more is judged.
    fn told(&self, variables: &[Val<'_>], left: &mut u64) -> Result<Option<String>, String> {
        let Some(program) = &self.message else {
            return Ok(None);
        };
        let most = (*left).min(CALL_LIMIT);
        let mut budget = Budget::new(most);
        let told = program.evaluate(variables, &mut budget);
        *left -= most - budget.left();
        let told = match told {
            Ok(told) => told,
            Err(EvalError::Exhausted) if most < CALL_LIMIT => {
                return Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned());
            }
            Err(EvalError::Exhausted) => {
                let text = machinery::field::quote(&self.rule.message_expression);
                return Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {text}"
                ));
            }
            Err(_) => return Ok(None),
        };
        let told = told.as_str().unwrap_or_default().trim().to_owned();
        let good = !told.is_empty() && told.len() <= LONGEST_MESSAGE && !told.contains('\n');
        Ok(good.then_some(told))
    }

    fn usual_message(&self) -> String {
        if self.rule.message.is_empty() {
            format!("failed rule: {}", self.named())
        } else {
            self.rule.message.trim().to_owned()
        }
    }

    /// What the rule is called where it cannot be judged.
    fn named(&self) -> &str {
        let text = if self.rule.message.is_empty() {
            &self.rule.rule
        } else {
            &self.rule.message
        };
        text.trim()
    }
}

fn compile(rule: &Rule, ty: &Type, schema: &Schema) -> Compiled {
    let environment = environment(rule, ty);
    let program = environment.compile(&rule.rule).map_err(|error| error.to_string());
    let message = Some(&rule.message_expression)
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| environment.compile(text).ok());
    Compiled {
        about_change: program.as_ref().is_ok_and(|program| program.uses(1)),
        place: paths::resolve(&rule.field_path, schema, Notation::Any)
            .ok()
            .filter(|_| !rule.field_path.is_empty())
            .map(|(path, _)| path),
        rule: rule.clone(),
        program,
        message,
    }
}

/// What is to be said of a rule before there are values.
#[derive(Debug)]
pub struct Judged {
    /// The most one evaluation costs; 0 if there is none.
    pub cost: u64,
    pub wrong: Option<String>,
    pub uses_old: bool,
    /// What its message costs, or why it is none.
    pub message: Option<Result<u64, String>>,
}

/// Judges the rules of one schema. Blank ones are let be. `None`: expressions cannot see its values.
pub fn judge(schema: &Schema, root: bool) -> Option<Vec<Judged>> {
    let ty = type_of(schema, root)?;
    Some(schema.rules.iter().map(|rule| judge_one(rule, &ty)).collect())
}

fn judge_one(rule: &Rule, ty: &Type) -> Judged {
    let mut judged = Judged {
        cost: 0,
        wrong: None,
        uses_old: false,
        message: None,
    };
    if rule.rule.trim().is_empty() {
        return judged;
    }
    let environment = environment(rule, ty);
    let program = match environment.compile(&rule.rule) {
        Ok(program) => program,
        Err(error) => {
            judged.wrong = Some(format!("compilation failed: {error}"));
            return judged;
        }
    };
    if !matches!(program.result(), Type::Bool | Type::Dyn) {
        judged.wrong = Some("cel expression must evaluate to a bool".to_owned());
        return judged;
    }
    judged.cost = program.estimated_cost();
    judged.uses_old = program.uses(1);
    if !rule.message_expression.is_empty() {
        judged.message = Some(match environment.compile(&rule.message_expression) {
            Err(error) => Err(format!("messageExpression compilation failed: {error}")),
            Ok(program) if !matches!(program.result(), Type::String(_) | Type::Dyn) => {
                Err("messageExpression must evaluate to a string".to_owned())
            }
            Ok(program) => Ok(program.estimated_cost()),
        });
    }
    judged
}

/// What a rule may name.
fn environment(rule: &Rule, ty: &Type) -> Environment {
    let old = match rule.optional_old_self {
        Some(true) => Type::Optional(Arc::new(ty.clone())),
        _ => ty.clone(),
    };
    Environment::new().with("self", ty.clone()).with("oldSelf", old)
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
                "spec.min: Invalid value: failed rule: !has(self.min) || self.min <= self.max",
                "spec.list[1]: Invalid value: v is 0",
            ],
        );
        check(
            Some(r#"{"spec":{"name":"a"}}"#),
            r#"{"spec":{"name":"b"}}"#,
            &[r#"spec.name: Invalid value: "b": name is immutable"#],
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
            let judged = judge(&schema, true).unwrap();
            judged[0].wrong.clone().unwrap_or_default()
        };
        assert_eq!(judged("self.l.size() > 0"), "");
        assert!(judged("self.missing > 0").contains("undefined field 'missing'"));
        assert!(judged("self.l.size()").contains("must evaluate to a bool"));
    }
}
