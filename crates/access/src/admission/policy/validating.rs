//! `ValidatingAdmissionPolicy`: what must hold of objects, said in CEL.

use super::inputs::{Evaluation, Expression, Inputs, Wrong, answered};
use super::{Binding, Policies, Policy};
use crate::Objects;
use crate::admission::matching::is_no_policys;
use crate::admission::{Attributes, Operation, Plugin, Target};
use crate::authorization::Authorizer;
use async_trait::async_trait;
use expressions::admission::{BUDGET, Wanted};
use expressions::{Environment, Questions, Val};
use machinery::Value;
use machinery::status::{ApiError, Cause, Reason};
use serde::Serialize;
use std::sync::Arc;

const RESOURCES: (&str, &str) = ("validatingadmissionpolicies", "validatingadmissionpolicybindings");
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";
const LONGEST_MESSAGE: usize = 5 * 1024;
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// What a policy checks and notes.
#[derive(Debug)]
pub(super) struct Body {
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Option<Reason>,
}

/// Why a request does not please a policy.
struct Denial {
    /// Which of the policy's validations said so.
    index: usize,
    message: String,
    reason: Reason,
}

/// What a policy says of a request, with one parameter.
#[derive(Default)]
struct Verdict {
    denials: Vec<Denial>,
    annotations: Vec<(String, String)>,
    /// Annotations that could not be made: refusals, whatever the binding's actions.
    failed: Vec<String>,
}

impl Verdict {
    fn failure(policy: &Policy<Body>, message: String) -> Self {
        let denial = Denial {
            index: 0,
            message,
            reason: Reason::Invalid,
        };
        Self {
            denials: (!policy.ignores_failure).then_some(denial).into_iter().collect(),
            ..Self::default()
        }
    }
}

/// What is written of a failure that is to be audited.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuditedFailure<'a> {
    message: &'a str,
    policy: &'a str,
    binding: &'a str,
    expression_index: usize,
    validation_actions: &'a [String],
}

pub(in crate::admission) struct ValidatingAdmissionPolicy(Policies<Body>);

impl Default for ValidatingAdmissionPolicy {
    fn default() -> Self {
        Self(Policies::new(RESOURCES.0, RESOURCES.1, Body::read))
    }
}

impl Body {
    fn read(policy: &Value, environment: &Environment, silent: &Environment) -> Self {
        let list = |field: &str| {
            let list = policy.get_path(&["spec", field]).and_then(Value::as_array);
            list.unwrap_or_default()
        };
        let text = |of: &Value, field: &str| {
            let text = of.get(field).and_then(Value::as_str).unwrap_or_default();
            text.trim().to_owned()
        };
        let compiled =
            |of: &Value, field: &str, wanted| Expression::new(environment, &text(of, field), wanted);
        Self {
            validations: list("validations")
                .iter()
                .map(|validation| Validation {
                    expression: compiled(validation, "expression", Wanted::Flag),
                    message: text(validation, "message"),
                    message_expression: validation
                        .get("messageExpression")
                        .and_then(Value::as_str)
                        .filter(|text| !text.is_empty())
                        .map(|text| Expression::new(silent, text, Wanted::Text)),
                    reason: Reason::from_name(&text(validation, "reason")),
                })
                .collect(),
            annotations: list("auditAnnotations")
                .iter()
                .map(|annotation| {
                    let value = compiled(annotation, "valueExpression", Wanted::TextOrNull);
                    (text(annotation, "key"), value)
                })
                .collect(),
        }
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation, _: &Target<'_>) -> bool {
        true
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let Some(objects) = self.0.objects.get().filter(|_| !is_no_policys(attributes)) else {
            return Ok(());
        };
        let all = self.0.all(&**objects).await?;
        if all.1.is_empty() {
            return Ok(());
        }
        let mut request = Request {
            attributes,
            object,
            objects: &**objects,
            authorizer: self.0.authorizer.get().map(|authorizer| &**authorizer),
            questions: Arc::default(),
            refusal: None,
            audited: false,
        };
        for policy in &all.1 {
            request.judge(policy).await?;
        }
        request.refusal.map_or(Ok(()), Err)
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
    object: Option<&'a Value>,
    objects: &'a dyn Objects,
    authorizer: Option<&'a dyn Authorizer>,
    questions: Arc<Questions>,
    /// The first one decides.
    refusal: Option<ApiError>,
    /// A failure was written to the audit log: the first one is.
    audited: bool,
}

impl Request<'_> {
    /// What a policy has against the request, with all bindings that are about it.
    async fn judge(&mut self, policy: &Policy<Body>) -> Result<(), ApiError> {
        let hit = match policy.hit(self.attributes, self.object, self.objects).await {
            Ok(Some(hit)) => hit,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.misconfigured(policy, None, &error.message);
                return Ok(());
            }
        };
        let resource = match policy.param_resource(self.objects) {
            Ok(resource) => resource,
            Err(why) => {
                self.misconfigured(policy, None, &why);
                return Ok(());
            }
        };
        let mut annotations: Vec<(String, Vec<String>)> = Vec::new();
        for binding in &policy.bindings {
            match binding.matches(self.attributes, self.object, self.objects).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    self.misconfigured(policy, Some(binding), &error.message);
                    continue;
                }
            }
            let found = policy.params(resource.as_ref(), binding, self.attributes, self.objects);
            let params = match found.await {
                Ok(params) => params,
                Err(why) => {
                    self.misconfigured(policy, Some(binding), &why);
                    continue;
                }
            };
            if params.is_empty() {
                continue;
            }
            let inputs = Inputs::new(self.attributes, self.object, &hit, &self.questions)?;
            let mut inputs = inputs.with_namespace(self.attributes, self.objects).await?;
            for params in params {
                inputs.with_params(params);
                let verdict = answered(&self.questions, self.attributes, self.authorizer, || {
                    evaluate(policy, &inputs)
                })
                .await;
                self.act(policy, binding, &verdict);
                for (key, value) in verdict.annotations {
                    match annotations.iter_mut().find(|(known, _)| *known == key) {
                        None => annotations.push((key, vec![value])),
                        Some((_, values)) if values.contains(&value) => {}
                        Some((_, values)) => values.push(value),
                    }
                }
            }
        }
        for (key, values) in annotations {
            let key = format!("{}/{key}", policy.name);
            self.attributes.notes.annotate(key, values.join(", "));
        }
        Ok(())
    }

    fn misconfigured(&mut self, policy: &Policy<Body>, binding: Option<&Binding>, why: &str) {
        if !policy.ignores_failure {
            let what = if binding.is_some() { "binding" } else { "policy" };
            let why = format!("failed to configure {what}: {why}");
            self.refuse(policy, binding, &why, Reason::Invalid);
        }
    }

    /// Does what the binding wants done about denials.
    fn act(&mut self, policy: &Policy<Body>, binding: &Binding, verdict: &Verdict) {
        for denial in &verdict.denials {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.refuse(policy, Some(binding), &denial.message, denial.reason),
                    "Warn" => self.attributes.notes.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, denial.message
                    )),
                    "Audit" => self.audit(policy, binding, denial),
                    _ => {}
                }
            }
        }
        for why in &verdict.failed {
            self.refuse(policy, Some(binding), why, Reason::Invalid);
        }
    }

    fn audit(&mut self, policy: &Policy<Body>, binding: &Binding, denial: &Denial) {
        if std::mem::replace(&mut self.audited, true) {
            return;
        }
        let failures = [AuditedFailure {
            message: &denial.message,
            policy: &policy.name,
            binding: &binding.name,
            expression_index: denial.index,
            validation_actions: &binding.actions,
        }];
        match serde_json::to_string(&failures) {
            Ok(text) => self.attributes.notes.annotate(FAILURE_ANNOTATION, text),
            Err(error) => tracing::warn!(policy = policy.name, %error, "a failure could not be audited"),
        }
    }

    fn refuse(&mut self, policy: &Policy<Body>, binding: Option<&Binding>, why: &str, reason: Reason) {
        if self.refusal.is_some() {
            return;
        }
        let bound = binding.map_or(String::new(), |binding| {
            format!(" with binding '{}'", binding.name)
        });
        let message = format!(
            "ValidatingAdmissionPolicy '{}'{bound} denied request: {why}",
            policy.name
        );
        let mut error = self.attributes.forbidden(self.object, &message);
        error.reason = reason;
        error.code = match reason {
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::RequestEntityTooLarge => 413,
            _ => 422,
        };
        if let Some(details) = &mut error.details {
            details.causes.push(Cause {
                reason: String::new(),
                message,
                field: String::new(),
            });
        }
        self.refusal = Some(error);
    }
}

fn evaluate(policy: &Policy<Body>, inputs: &Inputs) -> Verdict {
    match policy.conditions.hold(inputs) {
        Ok(true) => {}
        Ok(false) => return Verdict::default(),
        Err(why) => return Verdict::failure(policy, why),
    }
    let mut verdict = Verdict::default();
    let mut evaluation = Evaluation::new(inputs, BUDGET);
    let mut refuted = Vec::new();
    for (index, validation) in policy.body.validations.iter().enumerate() {
        match evaluation.run(&validation.expression) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => refuted.push((index, Ok(validation))),
            Err(Wrong::Failed(why)) => refuted.push((index, Err(why))),
            Err(Wrong::Exhausted(why)) => return Verdict::failure(policy, why),
        }
    }
    for (index, refuted) in refuted {
        match refuted {
            Ok(validation) => match validation.message(&mut evaluation) {
                Ok(message) => verdict.denials.push(Denial {
                    index,
                    message,
                    reason: validation.reason.unwrap_or(Reason::Invalid),
                }),
                Err(why) => {
                    let failure = Verdict::failure(policy, format!("failed messageExpression: {why}"));
                    verdict.denials.extend(failure.denials);
                }
            },
            Err(why) => verdict.denials.extend(
                Verdict::failure(policy, why)
                    .denials
                    .into_iter()
                    .map(|denial| Denial { index, ..denial }),
            ),
        }
    }
    let mut evaluation = Evaluation::new(inputs, BUDGET);
    for (key, expression) in &policy.body.annotations {
        match evaluation.run(expression) {
            Ok(value) => {
                let text = value.as_str().unwrap_or_default().trim();
                if !text.is_empty() {
                    let text = until(text, LONGEST_ANNOTATION).to_owned();
                    verdict.annotations.push((key.clone(), text));
                }
            }
            Err(Wrong::Exhausted(why)) => return Verdict::failure(policy, why),
            Err(Wrong::Failed(_)) if policy.ignores_failure => {}
            Err(Wrong::Failed(why)) => verdict.failed.push(why),
        }
    }
    verdict
}

/// At most so many bytes of a text.
fn until(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

impl Validation {
    /// What is said when it does not hold.
    fn message<'a>(&'a self, evaluation: &mut Evaluation<'a>) -> Result<String, String> {
        let spoken = match self
            .message_expression
            .as_ref()
            .map(|expression| evaluation.run(expression))
        {
            Some(Err(Wrong::Exhausted(why))) => return Err(why),
            Some(Err(Wrong::Failed(why))) => {
                tracing::debug!(why, "a message expression failed");
                None
            }
            Some(Ok(value)) => value.as_str().map(|text| text.trim().to_owned()),
            None => None,
        };
        let spoken =
            spoken.filter(|text| !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n'));
        Ok(match (spoken, self.message.as_str()) {
            (Some(text), _) => text,
            (None, "") => format!("failed expression: {}", self.expression.text),
            (None, message) => message.to_owned(),
        })
    }
}
