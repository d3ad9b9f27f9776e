//! `MutatingAdmissionPolicy`: changes to objects, said in CEL: what is to be merged into them, or a JSON patch.
//!
//! Which policies are about a request is decided before any of them changes the object; each then sees what those
//! before it made of it.

use super::inputs::{Evaluation, Expression, Inputs, Wrong, answered};
use super::{Binding, Policies, Policy};
use crate::Objects;
use crate::admission::matching::{Hit, is_no_policys};
use crate::admission::{Attributes, Operation, Plugin, Reinvocation, Target};
use crate::authorization::Authorizer;
use async_trait::async_trait;
use expressions::admission::{BUDGET, Wanted};
use expressions::{Environment, Questions};
use machinery::patch::PatchError;
use machinery::patch::json::JsonPatch;
use machinery::status::{ApiError, Cause, Reason};
use machinery::{Value, meta};
use std::sync::Arc;

const RESOURCES: (&str, &str) = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings");

/// What a policy changes.
#[derive(Debug)]
pub(super) struct Body {
    mutations: Vec<Mutation>,
    reinvoked: bool,
}

#[derive(Debug)]
struct Mutation {
    how: How,
    expression: Expression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The expression is an object whose fields win.
    Apply,
    /// The expression is a list of operations.
    Patch,
}

pub(in crate::admission) struct MutatingAdmissionPolicy(Policies<Body>);

impl Default for MutatingAdmissionPolicy {
    fn default() -> Self {
        Self(Policies::new(RESOURCES.0, RESOURCES.1, Body::read))
    }
}

impl Body {
    fn read(policy: &Value, environment: &Environment, _: &Environment) -> Self {
        let environment = environment.clone().with_patches();
        let mutations = policy
            .get_path(&["spec", "mutations"])
            .and_then(Value::as_array)
            .unwrap_or_default();
        let read = |mutation: &Value, how, field: &str, wanted| {
            let text = mutation.get_str_path(&[field, "expression"]).unwrap_or_default();
            Mutation {
                how,
                expression: Expression::new(&environment, text, wanted),
            }
        };
        Self {
            mutations: mutations
                .iter()
                .map(|mutation| match mutation.get_str_path(&["patchType"]) {
                    Some("JSONPatch") => read(mutation, How::Patch, "jsonPatch", Wanted::Patch),
                    _ => read(mutation, How::Apply, "applyConfiguration", Wanted::Object),
                })
                .collect(),
            reinvoked: policy.get_str_path(&["spec", "reinvocationPolicy"]) == Some("IfNeeded"),
        }
    }
}

/// A policy with one of its bindings and one parameter.
struct Invocation<'p> {
    policy: &'p Policy<Body>,
    binding: &'p Binding,
    hit: Hit,
    params: Option<Arc<Value>>,
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    /// There is nothing to change in what goes or is connected to.
    fn handles(&self, operation: Operation, _: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let (Some(objects), Some(object)) = (
            self.0.objects.get().filter(|_| !is_no_policys(attributes)),
            object,
        ) else {
            return Ok(());
        };
        let all = self.0.all(&**objects).await?;
        if all.1.is_empty() {
            return Ok(());
        }
        let mut request = Request {
            attributes,
            objects: &**objects,
            authorizer: self.0.authorizer.get().map(|authorizer| &**authorizer),
            questions: Arc::default(),
            refusals: Vec::new(),
        };
        let mut invocations = Vec::new();
        for policy in &all.1 {
            request.collect(policy, object, &mut invocations).await;
        }
        let alone = Reinvocation::default();
        let mut turn = attributes
            .reinvocation
            .unwrap_or(&alone)
            .begin(self.name(), Some(object));
        for invocation in &invocations {
            let params = invocation.params.as_deref();
            let id = format!(
                "{}/{}/{}/{}",
                invocation.policy.name,
                invocation.binding.name,
                params.map_or("", meta::namespace),
                params.map_or("", meta::name)
            );
            if !turn.may_ask(&id) {
                continue;
            }
            let new = request.invoke(invocation, object).await?;
            let changed = new.as_ref().is_some_and(|new| !new.semantic_eq(object));
            if let Some(new) = new {
                *object = new;
                turn.asked(&id, invocation.policy.body.reinvoked, changed);
            }
        }
        turn.end(Some(object));
        request.verdict(object)
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.0.objects.get_or_init(|| objects);
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.0.authorizer.get_or_init(|| authorizer);
    }
}

/// A request on its way through all policies.
struct Request<'a> {
    attributes: &'a Attributes<'a>,
    objects: &'a dyn Objects,
    authorizer: Option<&'a dyn Authorizer>,
    questions: Arc<Questions>,
    /// What was refused and why; the reason if it is not the usual one.
    refusals: Vec<(String, Option<Reason>)>,
}

impl Request<'_> {
    /// Adds what a policy, with its bindings and their parameters, is to do with the request.
    async fn collect<'p>(
        &mut self,
        policy: &'p Policy<Body>,
        object: &Value,
        invocations: &mut Vec<Invocation<'p>>,
    ) {
        let (attributes, objects) = (self.attributes, self.objects);
        let hit = match policy.hit(attributes, Some(object), objects).await {
            Ok(Some(hit)) => hit,
            Ok(None) => return,
            Err(error) => return self.misconfigured(policy, None, &error.message),
        };
        let resource = match policy.param_resource(objects) {
            Ok(resource) => resource,
            Err(why) => return self.misconfigured(policy, None, &why),
        };
        for binding in &policy.bindings {
            match binding.matches(attributes, Some(object), objects).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    self.misconfigured(policy, Some(binding), &error.message);
                    continue;
                }
            }
            match policy
                .params(resource.as_ref(), binding, attributes, objects)
                .await
            {
                Ok(found) => invocations.extend(found.into_iter().map(|params| Invocation {
                    policy,
                    binding,
                    hit: hit.clone(),
                    params,
                })),
                Err(why) => self.misconfigured(policy, Some(binding), &why),
            }
        }
    }

    fn misconfigured(&mut self, policy: &Policy<Body>, binding: Option<&Binding>, why: &str) {
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.refuse(
            policy,
            binding,
            &format!("failed to configure {what}: {why}"),
            None,
        );
    }

    fn refuse(
        &mut self,
        policy: &Policy<Body>,
        binding: Option<&Binding>,
        why: &str,
        reason: Option<Reason>,
    ) {
        let name = &policy.name;
        if policy.ignores_failure {
            tracing::debug!(policy = name, why, "a mutating policy failed, failing open");
            return;
        }
        let message = match binding {
            Some(binding) => format!(
                "policy '{name}' with binding '{}' denied request: {why}",
                binding.name
            ),
            None => format!("policy {name:?} denied request: {why}"),
        };
        self.refusals.push((message, reason));
    }

    /// The object as an invocation's mutations make it, each seeing what the one before did; nothing, if its
    /// conditions do not hold.
    async fn invoke(
        &mut self,
        invocation: &Invocation<'_>,
        object: &Value,
    ) -> Result<Option<Value>, ApiError> {
        let Invocation {
            policy, binding, hit, ..
        } = invocation;
        let attributes = self.attributes;
        let inputs = Inputs::new(attributes, Some(object), hit, &self.questions)?;
        let mut inputs = inputs.with_namespace(attributes, self.objects).await?;
        inputs.with_params(invocation.params.clone());
        let holds = answered(&self.questions, attributes, self.authorizer, || {
            policy.conditions.hold(&inputs)
        });
        match holds.await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(why) => {
                self.refuse(policy, Some(binding), &why, Some(Reason::Invalid));
                return Ok(None);
            }
        }
        let mut object = object.clone();
        for mutation in &policy.body.mutations {
            let made = match mutation.expression.error() {
                Some(why) => Err(why.to_owned()),
                None => {
                    answered(&self.questions, attributes, self.authorizer, || {
                        let mut evaluation = Evaluation::new(&inputs, BUDGET);
                        let value = evaluation.run(&mutation.expression).map_err(Wrong::into_text);
                        value.map(|value| value.to_value())
                    })
                    .await
                }
            };
            let changed = match made {
                Ok(made) => change(mutation.how, made, attributes, hit, &object),
                Err(why) => Err(why),
            };
            match changed {
                Ok(Some(changed)) => {
                    inputs.show(attributes.view(&changed, hit)?);
                    object = changed;
                }
                Ok(None) => {}
                Err(why) => self.refuse(policy, Some(binding), &why, Some(Reason::Invalid)),
            }
        }
        Ok(Some(object))
    }

    /// All refusals as one.
    fn verdict(self, object: &Value) -> Result<(), ApiError> {
        let Some((message, reason)) = self.refusals.first() else {
            return Ok(());
        };
        let mut error = self.attributes.forbidden(Some(object), "");
        error.message.clone_from(message);
        if let Some(reason) = reason {
            error.reason = *reason;
        }
        if let Some(details) = &mut error.details {
            details
                .causes
                .extend(self.refusals.iter().map(|(message, _)| Cause {
                    reason: String::new(),
                    message: message.clone(),
                    field: String::new(),
                }));
        }
        Err(error)
    }
}

/// The object with what an expression made; nothing, if a patch's test fails.
fn change(
    how: How,
    made: Value,
    attributes: &Attributes<'_>,
    hit: &Hit,
    object: &Value,
) -> Result<Option<Value>, String> {
    let said = |error: ApiError| error.message;
    let Some(versions) = attributes.versions else {
        return Err("the object is of a kind that cannot be changed".to_owned());
    };
    let shown = attributes.view(object, hit).map_err(said)?;
    let changed = match how {
        How::Apply => {
            // What an object is, is not a policy's to say.
            let mut config = made;
            for field in ["apiVersion", "kind"] {
                if let (Some(config), Some(value)) = (config.as_object_mut(), shown.get(field)) {
                    config.insert(field, value.clone());
                }
            }
            versions
                .merge(&shown, &config, &hit.kind_group, &hit.kind_version)
                .map_err(|error| format!("error applying patch: {}", error.message))?
        }
        How::Patch => {
            let patch = JsonPatch::from_value(made).map_err(|error| format!("JSON Patch: {error}"))?;
            match patch.apply(&shown) {
                Ok(changed) => changed,
                Err(PatchError::TestFailed(_)) => return Ok(None),
                Err(error) => return Err(format!("JSON Patch: {error}")),
            }
        }
    };
    let accepted = versions.accept(changed, &hit.kind_group, &hit.kind_version);
    accepted.map(Some).map_err(said)
}
