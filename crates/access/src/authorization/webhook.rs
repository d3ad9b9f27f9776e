//! A service outside decides: SubjectAccessReview sent to a webhook, its answers kept, conditions asked first.

use super::{Attributes, Authorizer, Decision};
use crate::remote::Remote;
use async_trait::async_trait;
use expressions::{Budget, Environment, ObjectType, Program, Type, Val};
use machinery::selector::{FieldSelector, LabelSelector, Operator};
use machinery::{Map, Value, codec};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Answers kept at most, and the longest request whose answer is.
const KEPT: usize = 8192;
const LONGEST_KEPT: usize = 10_000;
/// What the conditions of one request may cost.
const BUDGET: u64 = 1_000_000;

/// What is done when there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    NoOpinion,
    Deny,
}

/// How a webhook is asked.
#[derive(Debug, Clone)]
pub struct Options {
    pub name: String,
    /// Of SubjectAccessReview: `v1` or `v1beta1`.
    pub version: String,
    /// How long answers are kept; not at all, without.
    pub keep_allowed: Option<Duration>,
    pub keep_refused: Option<Duration>,
    pub failure_policy: FailurePolicy,
}

/// One webhook.
pub struct Webhook {
    remote: Remote,
    options: Options,
    conditions: Vec<Program>,
    kept: Mutex<HashMap<Vec<u8>, (Instant, Decision)>>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl Webhook {
    /// `conditions` are expressions over `request`; the webhook is asked if all hold.
    pub fn new(remote: Remote, options: Options, conditions: &[String]) -> Result<Self, String> {
        let environment = Environment::new().with("request", request_type());
        let compile = |text: &String| {
            let program = environment
                .compile(text)
                .map_err(|error| format!("compilation failed: {error}"))?;
            match program.result() {
                Type::Bool | Type::Dyn => Ok(program),
                _ => Err(format!("{text:?}: must evaluate to bool")),
            }
        };
        Ok(Self {
            remote,
            options,
            conditions: conditions.iter().map(compile).collect::<Result<_, String>>()?,
            kept: Mutex::default(),
        })
    }

    fn failure(&self, why: String) -> Decision {
        tracing::error!(webhook = self.options.name, why, "an authorization webhook");
        match self.options.failure_policy {
            FailurePolicy::NoOpinion => Decision::NoOpinion(String::new()),
            FailurePolicy::Deny => Decision::Deny(why),
        }
    }

    /// Whether the webhook is to be asked; an error counts only if no other condition says no.
    fn applies(&self, spec: &Value) -> Result<bool, String> {
        let mut budget = Budget::new(BUDGET);
        let mut error = None;
        for condition in &self.conditions {
            let variables = [Val::of(spec, &request_type())];
            match condition.evaluate(&variables, &mut budget) {
                Ok(value) => match value.as_bool() {
                    Some(true) => {}
                    Some(false) => return Ok(false),
                    None => error = Some("a match condition did not return a bool".to_owned()),
                },
                Err(why) => error = Some(why.to_string()),
            }
        }
        error.map_or(Ok(true), Err)
    }

    async fn ask(&self, body: Vec<u8>) -> Result<Decision, String> {
        let (code, answer) = self.remote.post(body).await.map_err(|error| error.to_string())?;
        if !(200..300).contains(&code) {
            return Err(format!("it answered {code}"));
        }
        let review: Review = serde_json::from_slice(&answer)
            .map_err(|error| format!("its answer is no SubjectAccessReview: {error}"))?;
        let status = review.status;
        match (status.allowed, status.denied) {
            (true, true) => {
                Err("webhook subject access review returned both allow and deny response".to_owned())
            }
            (_, true) => Ok(Decision::Deny(status.reason)),
            (true, _) => Ok(Decision::Allow),
            _ => Ok(Decision::NoOpinion(status.reason)),
        }
    }

    fn keep(&self, key: Vec<u8>, decision: &Decision) {
        let keep = match decision {
            Decision::Allow => self.options.keep_allowed,
            Decision::Deny(_) | Decision::NoOpinion(_) => self.options.keep_refused,
        };
        let Some(keep) = keep.filter(|_| key.len() <= LONGEST_KEPT) else {
            return;
        };
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.retain(|_, (until, _)| now < *until);
        }
        if kept.len() < KEPT {
            kept.insert(key, (now + keep, decision.clone()));
        }
    }
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let spec = spec(attributes);
        match self.applies(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return self.failure(why),
        }
        let key = codec::json::to_vec(&spec);
        if let Some((until, decision)) = self.kept.lock().get(&key)
            && Instant::now() < *until
        {
            return decision.clone();
        }
        let head = format!(
            r#"{{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/{}","metadata":{{"creationTimestamp":null}},"spec":"#,
            self.options.version
        );
        let body = [head.as_bytes(), &key, br#","status":{"allowed":false}}"#].concat();
        match self.ask(body).await {
            Ok(decision) => {
                self.keep(key, &decision);
                decision
            }
            Err(why) => self.failure(why),
        }
    }
}

/// What is asked, as a SubjectAccessReview's `spec`.
fn spec(a: &Attributes<'_>) -> Value {
    let mut spec = Map::new();
    let put = |map: &mut Map, key: &'static str, text: &str| {
        if !text.is_empty() {
            map.insert(key, text);
        }
    };
    let mut asked = Map::new();
    if a.is_resource {
        put(&mut asked, "namespace", a.namespace);
        put(&mut asked, "verb", a.verb);
        put(&mut asked, "group", a.group);
        put(&mut asked, "version", a.version);
        put(&mut asked, "resource", a.resource);
        put(&mut asked, "subresource", a.subresource);
        put(&mut asked, "name", a.name);
        if let Some(requirements) = a.label_selector.and_then(label_requirements) {
            let mut selector = Map::new();
            selector.insert("requirements", requirements);
            asked.insert("labelSelector", selector);
        }
        if let Some(requirements) = a.field_selector.and_then(field_requirements) {
            let mut selector = Map::new();
            selector.insert("requirements", requirements);
            asked.insert("fieldSelector", selector);
        }
        spec.insert("resourceAttributes", asked);
    } else {
        put(&mut asked, "path", a.path);
        put(&mut asked, "verb", a.verb);
        spec.insert("nonResourceAttributes", asked);
    }
    put(&mut spec, "user", &a.user.name);
    if !a.user.groups.is_empty() {
        spec.insert("groups", a.user.groups.clone());
    }
    if !a.user.extra.is_empty() {
        let extra: Map = a
            .user
            .extra
            .iter()
            .map(|(key, values)| (key.as_str(), Value::from(values.clone())))
            .collect();
        spec.insert("extra", extra);
    }
    put(&mut spec, "uid", &a.user.uid);
    spec.into()
}

fn label_requirements(text: &str) -> Option<Vec<Value>> {
    let selector = LabelSelector::parse(text).ok()?;
    let requirements = selector.requirements.iter().map(|requirement| {
        let operator = match requirement.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            // Numbers are compared nowhere in the authorization API.
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        Some(one_requirement(
            &requirement.key,
            operator,
            requirement.values.to_vec(),
        ))
    });
    Some(requirements.flatten().collect()).filter(|list: &Vec<Value>| !list.is_empty())
}

fn field_requirements(text: &str) -> Option<Vec<Value>> {
    let selector = FieldSelector::parse(text).ok()?;
    let requirements = selector.requirements.iter().map(|requirement| {
        let operator = if requirement.equal { "In" } else { "NotIn" };
        one_requirement(&requirement.field, operator, vec![requirement.value.clone()])
    });
    Some(requirements.collect()).filter(|list: &Vec<Value>| !list.is_empty())
}

fn one_requirement(key: &str, operator: &str, values: Vec<String>) -> Value {
    let mut map = Map::new();
    map.insert("key", key);
    map.insert("operator", operator);
    if !values.is_empty() {
        map.insert("values", values);
    }
    map.into()
}

/// `request` of match conditions.
fn request_type() -> Type {
    let object = |name: &str, fields: &[(&str, Type)]| {
        let fields = fields.iter().map(|(name, ty)| ((*name).into(), ty.clone()));
        Type::object(ObjectType::built_in(name, fields))
    };
    let requirement = object(
        "kubernetes.SelectorRequirement",
        &[
            ("key", Type::string()),
            ("operator", Type::string()),
            ("values", Type::list(Type::string())),
        ],
    );
    let selector = object(
        "kubernetes.SelectorAttributes",
        &[
            ("rawSelector", Type::string()),
            ("requirements", Type::list(requirement)),
        ],
    );
    let mut resource: Vec<(&str, Type)> = [
        "namespace",
        "verb",
        "group",
        "version",
        "resource",
        "subresource",
        "name",
    ]
    .map(|name| (name, Type::string()))
    .into();
    resource.push(("fieldSelector", selector.clone()));
    resource.push(("labelSelector", selector));
    object(
        "kubernetes.SubjectAccessReviewSpec",
        &[
            (
                "resourceAttributes",
                object("kubernetes.ResourceAttributes", &resource),
            ),
            (
                "nonResourceAttributes",
                object(
                    "kubernetes.NonResourceAttributes",
                    &[("path", Type::string()), ("verb", Type::string())],
                ),
            ),
            ("user", Type::string()),
            ("groups", Type::list(Type::string())),
            ("extra", Type::map(Type::list(Type::string()))),
            ("uid", Type::string()),
        ],
    )
}
