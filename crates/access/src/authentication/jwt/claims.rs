//! From claims to a user: by name, or by expressions over `claims` and `user`.

use super::config::{Issuer, Mapping};
use expressions::{Budget, Environment, ObjectType, Program, Type, Val};
use machinery::user::UserInfo;
use machinery::{Map, Value};
use std::collections::BTreeMap;

/// What one expression may cost, and all of a token.
const BUDGET: u64 = 1_000_000;

/// What an expression may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variables {
    Claims,
    User,
}

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Expression {
    program: Program,
    variables: Variables,
}

impl Expression {
    pub(super) fn compile(text: &str, variables: Variables) -> Result<Self, String> {
        let environment = match variables {
            Variables::Claims => Environment::new().with("claims", claims_type()),
            Variables::User => Environment::new().with("user", user_type()),
        };
        let program = environment.compile(text).map_err(|error| error.to_string())?;
        Ok(Self { program, variables })
    }

    pub(super) fn may_be_bool(&self) -> bool {
        matches!(self.program.result(), Type::Bool | Type::Dyn)
    }

    fn evaluate<'a>(&'a self, value: &'a Value, budget: &mut Budget) -> Result<Val<'a>, String> {
        let ty = match self.variables {
            Variables::Claims => claims_type(),
            Variables::User => user_type(),
        };
        self.program
            .evaluate(&[Val::of(value, &ty)], budget)
            .map_err(|error| error.to_string())
    }

    fn holds(&self, value: &Value, budget: &mut Budget) -> Result<bool, String> {
        self.evaluate(value, budget)?
            .as_bool()
            .ok_or_else(|| "the expression did not return a bool".to_owned())
    }
}

fn claims_type() -> Type {
    Type::map(Type::Dyn)
}

fn user_type() -> Type {
    Type::object(ObjectType::built_in(
        "kubernetes.UserInfo",
        [
            ("username".into(), Type::string()),
            ("uid".into(), Type::string()),
            ("groups".into(), Type::list(Type::string())),
            ("extra".into(), Type::map(Type::list(Type::string()))),
        ],
    ))
}

/// An issuer's rules, compiled.
pub(super) struct Claims {
    rules: Vec<(Rule, String)>,
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Expression)>,
    user_rules: Vec<(Expression, String)>,
}

enum Rule {
    Required { claim: String, value: String },
    Expression(Expression),
}

enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

impl Claims {
    pub(super) fn new(issuer: &Issuer) -> Result<Self, String> {
        let source = |mapping: &Mapping| -> Result<Option<Source>, String> {
            if !mapping.expression.is_empty() {
                let expression = Expression::compile(&mapping.expression, Variables::Claims)?;
                return Ok(Some(Source::Expression(expression)));
            }
            Ok((!mapping.claim.is_empty()).then(|| Source::Claim {
                name: mapping.claim.clone(),
                prefix: mapping.prefix.clone().unwrap_or_default(),
            }))
        };
        let rules = issuer.claim_validation_rules.iter().map(|rule| {
            let message = |usual: String| {
                if rule.message.is_empty() {
                    usual
                } else {
                    rule.message.clone()
                }
            };
            if rule.expression.is_empty() {
                let required = Rule::Required {
                    claim: rule.claim.clone(),
                    value: rule.required_value.clone(),
                };
                return Ok((required, String::new()));
            }
            let expression = Expression::compile(&rule.expression, Variables::Claims)?;
            Ok((
                Rule::Expression(expression),
                message(format!("validation expression '{}' failed", rule.expression)),
            ))
        });
        let extra = issuer.claim_mappings.extra.iter().map(|extra| {
            Ok((
                extra.key.clone(),
                Expression::compile(&extra.value_expression, Variables::Claims)?,
            ))
        });
        let user_rules = issuer.user_validation_rules.iter().map(|rule| {
            let message = if rule.message.is_empty() {
                format!("validation expression '{}' failed", rule.expression)
            } else {
                rule.message.clone()
            };
            Ok((Expression::compile(&rule.expression, Variables::User)?, message))
        });
        Ok(Self {
            rules: rules.collect::<Result<_, String>>()?,
            username: source(&issuer.claim_mappings.username)?.ok_or("no username")?,
            groups: source(&issuer.claim_mappings.groups)?,
            uid: source(&issuer.claim_mappings.uid)?,
            extra: extra.collect::<Result<_, String>>()?,
            user_rules: user_rules.collect::<Result<_, String>>()?,
        })
    }

    /// The user verified claims are of.
    pub(super) fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let mut budget = Budget::new(BUDGET);
        let budget = &mut budget;
        let mut user = UserInfo {
            name: self.username(claims, budget)?,
            ..UserInfo::default()
        };
        if user.name.is_empty() {
            return Err("oidc: empty username".to_owned());
        }
        match &self.groups {
            None => {}
            Some(Source::Claim { name, prefix }) => {
                if let Some(value) = claims.get(name) {
                    let groups = strings(value)
                        .ok_or_else(|| format!("oidc: parse groups claim {name:?}: not a list of strings"))?;
                    user.groups = groups
                        .into_iter()
                        .map(|group| format!("{prefix}{group}"))
                        .collect();
                }
            }
            Some(Source::Expression(expression)) => {
                let value = expression.evaluate(claims, budget);
                user.groups = texts(
                    &value.map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))?,
                )?;
            }
        }
        match &self.uid {
            None => {}
            Some(Source::Claim { name, .. }) => {
                let value = claims.get(name).and_then(Value::as_str);
                value
                    .ok_or_else(|| format!("oidc: parse uid claim {name:?}: not a string"))?
                    .clone_into(&mut user.uid);
            }
            Some(Source::Expression(expression)) => {
                let value = expression
                    .evaluate(claims, budget)
                    .map_err(|why| format!("oidc: error evaluating uid claim expression: {why}"))?;
                value
                    .as_str()
                    .ok_or("oidc: uid expression must return a string")?
                    .clone_into(&mut user.uid);
            }
        }
        for (key, expression) in &self.extra {
            let value = expression
                .evaluate(claims, budget)
                .map_err(|why| format!("oidc: error evaluating extra claim expression: {why}"))?;
            let values = texts(&value)?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (rule, message) in &self.rules {
            match rule {
                Rule::Required { claim, value } => {
                    let given = claims
                        .get(claim)
                        .ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
                    let given = given
                        .as_str()
                        .ok_or_else(|| format!("oidc: parse claim {claim}: not a string"))?;
                    if given != value {
                        return Err(format!(
                            "oidc: required claim {claim} value does not match. Got = {given}, want = {value}"
                        ));
                    }
                }
                Rule::Expression(expression) => {
                    if !expression
                        .holds(claims, budget)
                        .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?
                    {
                        return Err(format!(
                            "oidc: error evaluating claim validation expression: {message}"
                        ));
                    }
                }
            }
        }
        if !self.user_rules.is_empty() {
            let shown = shown(&user);
            for (expression, message) in &self.user_rules {
                if !expression
                    .holds(&shown, budget)
                    .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?
                {
                    return Err(format!(
                        "oidc: error evaluating user info validation rule: {message}"
                    ));
                }
            }
        }
        Ok(user)
    }

    fn username(&self, claims: &Value, budget: &mut Budget) -> Result<String, String> {
        match &self.username {
            Source::Expression(expression) => {
                let value = expression.evaluate(claims, budget);
                let value = value
                    .map_err(|why| format!("oidc: error evaluating username claim expression: {why}"))?;
                Ok(value
                    .as_str()
                    .ok_or("oidc: username expression must return a string")?
                    .to_owned())
            }
            Source::Claim { name, prefix } => {
                let value = claims.get(name).and_then(Value::as_str);
                let value = value.ok_or_else(|| {
                    format!("oidc: parse username claims {name:?}: not present or not a string")
                })?;
                // An address somebody did not prove is nobody's name.
                if name == "email"
                    && let Some(verified) = claims.get("email_verified")
                    && verified.as_bool() != Some(true)
                {
                    return Err("oidc: email not verified".to_owned());
                }
                Ok(format!("{prefix}{value}"))
            }
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(vec![text.to_string()]),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

/// A text, a list of texts, or nothing.
fn texts(value: &Val<'_>) -> Result<Vec<String>, String> {
    if matches!(value, Val::Null) {
        return Ok(Vec::new());
    }
    if let Some(text) = value.as_str() {
        return Ok(if text.is_empty() {
            Vec::new()
        } else {
            vec![text.to_owned()]
        });
    }
    let items = value
        .items()
        .ok_or("oidc: the expression must return a string or a list of strings")?;
    let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
    let texts: Option<Vec<String>> = texts.collect();
    let texts = texts.ok_or("oidc: the expression must return a list of strings")?;
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

fn shown(user: &UserInfo) -> Value {
    let extra: &BTreeMap<String, Vec<String>> = &user.extra;
    let extra: Map = extra
        .iter()
        .map(|(key, values)| (key.as_str(), Value::from(values.clone())))
        .collect();
    let mut map = Map::new();
    map.insert("username", user.name.as_str());
    map.insert("uid", user.uid.as_str());
    map.insert("groups", user.groups.clone());
    map.insert("extra", extra);
    map.into()
}
