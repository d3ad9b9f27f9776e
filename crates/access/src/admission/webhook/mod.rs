//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: others are asked over HTTPS.
//!
//! Mutating webhooks are asked one after the other, each seeing what the one before made of the object; validating
//! ones all at once. A webhook that does not answer costs the request its timeout; what then happens is its failure
//! policy's choice.
//!
//! **Invariant:** what an endpoint sends is bounded in size and time, and is believed only as an answer to the review
//! it was sent.

mod configuration;
pub mod endpoint;
pub(super) mod review;

use super::matching::{Hit, is_exempt};
use super::policy::inputs::{Inputs, answered};
use super::{Attributes, Operation, Plugin, Reinvocation, Target};
use crate::Objects;
use crate::authorization::Authorizer;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use configuration::Hook;
use endpoint::{Call, Https};
use expressions::Questions;
use futures::future::join_all;
use machinery::Value;
use machinery::patch::json::JsonPatch;
use machinery::status::ApiError;
use review::Answer;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const GROUP: &str = "admissionregistration.k8s.io";

/// Why a webhook did not say yes.
enum Failure {
    /// It said no, or must not be asked: whatever its failure policy.
    Refused(Box<ApiError>),
    /// It did not answer, or not as it must.
    Call(String),
}

/// What both plugins are made of.
struct Webhooks {
    resource: &'static str,
    mutating: bool,
    call: Box<dyn Call>,
    objects: OnceLock<Arc<dyn Objects>>,
    authorizer: OnceLock<Arc<dyn Authorizer>>,
    hooks: ArcSwapOption<(u64, Vec<Hook>)>,
}

impl Webhooks {
    fn new(resource: &'static str, mutating: bool) -> Self {
        Self {
            resource,
            mutating,
            call: Box::<Https>::default(),
            objects: OnceLock::new(),
            authorizer: OnceLock::new(),
            hooks: ArcSwapOption::empty(),
        }
    }

    /// The webhooks of all configurations, in the order of the configurations' names.
    async fn hooks(&self, objects: &dyn Objects) -> Result<Arc<(u64, Vec<Hook>)>, ApiError> {
        let version = objects.version(GROUP, self.resource);
        if let Some(known) = self.hooks.load_full().filter(|known| known.0 == version) {
            return Ok(known);
        }
        let list = objects.list(GROUP, self.resource, "").await?;
        let known = Arc::new((version, configuration::read(&list)));
        self.hooks.store(Some(Arc::clone(&known)));
        Ok(known)
    }

    /// Asks one webhook.
    async fn ask(
        &self,
        hook: &Hook,
        hit: &Hit,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<Answer, Failure> {
        if attributes.dry_run && !hook.dry_run {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Refused(Box::new(ApiError::bad_request(why))));
        }
        let invalid = |why: String| Failure::Call(format!("received invalid webhook response: {why}"));
        let review = review::request(hook, hit, attributes, object)
            .map_err(|why| Failure::Call(format!("could not create admission objects: {why}")))?;
        let timeout = Duration::from_secs(hook.timeout_seconds);
        let query = format!("timeout={}s", hook.timeout_seconds);
        let asked = self.call.post(&hook.endpoint, objects, &query, review.body);
        let url = hook.endpoint.url(&query);
        let said = match tokio::time::timeout(timeout, asked).await {
            Ok(said) => said.map_err(|error| error.to_string()),
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        let (code, body) =
            said.map_err(|why| Failure::Call(format!("failed to call webhook: Post {url:?}: {why}")))?;
        if !(200..300).contains(&code) {
            return Err(Failure::Call(format!(
                "failed to call webhook: {}",
                review::http_failure(code, &body)
            )));
        }
        let answer = review::answer(&body, &review.version, &review.uid, self.mutating).map_err(invalid)?;
        for (key, value) in &answer.annotations {
            attributes
                .notes
                .annotate(format!("{}/{key}", hook.name), value.as_str());
        }
        for warning in &answer.warnings {
            attributes.notes.warn(warning.as_str());
        }
        match answer.refusal {
            Some(refusal) => Err(Failure::Refused(Box::new(review::denied(&hook.name, &refusal)))),
            None => Ok(answer),
        }
    }

    /// What a failure means for the request: nothing, or its end.
    fn judge(
        &self,
        hook: &Hook,
        place: &str,
        attributes: &Attributes<'_>,
        failure: Failure,
    ) -> Result<(), ApiError> {
        match failure {
            Failure::Refused(error) => Err(*error),
            Failure::Call(why) if hook.ignores_failure => {
                tracing::warn!(webhook = hook.name, %why, "failed calling webhook, failing open");
                let kind = if self.mutating { "mutation" } else { "validating" };
                let key = format!("failed-open.{kind}.webhook.admission.k8s.io/{place}");
                attributes.notes.annotate(key, hook.name.as_str());
                Ok(())
            }
            Failure::Call(why) => {
                tracing::warn!(webhook = hook.name, %why, "failed calling webhook, failing closed");
                Err(ApiError::internal(format!(
                    "failed calling webhook {:?}: {why}",
                    hook.name
                )))
            }
        }
    }

    /// Whether the webhook's own conditions want it asked.
    async fn wants(
        &self,
        hook: &Hook,
        hit: &Hit,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        questions: &Arc<Questions>,
    ) -> Result<bool, ApiError> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let inputs = Inputs::new(attributes, object, hit, questions)?;
        let authorizer = self.authorizer.get().map(|authorizer| &**authorizer);
        let holds = answered(questions, attributes, authorizer, || {
            hook.conditions.hold(&inputs)
        });
        match holds.await {
            Ok(holds) => Ok(holds),
            Err(why) if hook.ignores_failure => {
                tracing::warn!(webhook = hook.name, why, "match conditions failed, failing open");
                Ok(false)
            }
            Err(why) => Err(attributes.forbidden(object, why)),
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.authorizer.get_or_init(|| authorizer);
    }
}

pub(super) struct MutatingAdmissionWebhook(Webhooks);

impl Default for MutatingAdmissionWebhook {
    fn default() -> Self {
        Self(Webhooks::new("mutatingwebhookconfigurations", true))
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation, _: &Target<'_>) -> bool {
        true
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        let Some(objects) = self.0.objects.get().filter(|_| !is_exempt(attributes)) else {
            return Ok(());
        };
        let hooks = self.0.hooks(&**objects).await?;
        if hooks.1.is_empty() {
            return Ok(());
        }
        let alone = Reinvocation::default();
        let reinvocation = attributes.reinvocation.unwrap_or(&alone);
        let questions = Arc::default();
        let mut turns = reinvocation.begin(self.name(), object.as_deref());
        for (index, hook) in hooks.1.iter().enumerate() {
            let Some(hit) = hook.hit(attributes, object.as_deref(), &**objects).await? else {
                continue;
            };
            let wants = self
                .0
                .wants(hook, &hit, attributes, object.as_deref(), &questions);
            if !wants.await? {
                continue;
            }
            if !turns.may_ask(&hook.id) {
                continue;
            }
            let round = usize::from(reinvocation.is_again());
            let place = format!("round_{round}_index_{index}");
            let said = self
                .0
                .ask(hook, &hit, attributes, object.as_deref(), &**objects)
                .await;
            let patched = match said {
                Ok(answer) => self.patch(hook, &hit, &place, attributes, object.as_deref_mut(), answer),
                Err(failure) => Err(failure),
            };
            let changed = match patched {
                Ok(changed) => changed,
                Err(failure) => {
                    self.0.judge(hook, &place, attributes, failure)?;
                    false
                }
            };
            let note = serde_json::json!({
                "configuration": hook.configuration, "webhook": hook.name, "mutated": changed,
            });
            attributes.notes.annotate(
                format!("mutation.webhook.admission.k8s.io/{place}"),
                note.to_string(),
            );
            turns.asked(&hook.id, hook.reinvoked, changed);
        }
        turns.end(object.as_deref());
        Ok(())
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.0.bind(objects);
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.0.bind_authorizer(authorizer);
    }
}

impl MutatingAdmissionWebhook {
    /// Whether the answer changed the object.
    fn patch(
        &self,
        hook: &Hook,
        hit: &Hit,
        place: &str,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        answer: Answer,
    ) -> Result<bool, Failure> {
        let Some(patch) = answer.patch else {
            return Ok(false);
        };
        let internal = |why: String| Failure::Refused(Box::new(ApiError::internal(why)));
        let undecodable =
            |why: String| Failure::Call(format!("received undecodable patch in webhook response: {why}"));
        let document = machinery::codec::json::decode_any(&patch).map_err(|e| undecodable(e.to_string()))?;
        let text = document.value.clone();
        if text.is_empty() {
            return Ok(false);
        }
        let parsed = JsonPatch::from_value(document.value).map_err(|e| undecodable(e.to_string()))?;
        let Some(object) = object else {
            return Err(internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            )));
        };
        let shown = attributes
            .view(object, hit)
            .map_err(|error| Failure::Refused(Box::new(error)))?;
        let patched = parsed
            .apply(&shown)
            .map_err(|error| internal(error.to_string()))?;
        let accepted = match attributes.versions {
            Some(versions) => versions
                .accept(patched, &hit.kind_group, &hit.kind_version)
                .map_err(|error| Failure::Refused(Box::new(error)))?,
            None => patched,
        };
        let changed = !accepted.semantic_eq(object);
        *object = accepted;
        let note = serde_json::json!({
            "configuration": hook.configuration,
            "webhook": hook.name,
            "patch": serde_json::from_slice::<serde_json::Value>(&machinery::codec::json::to_vec(&text))
                .unwrap_or_default(),
            "patchType": "JSONPatch",
        });
        attributes.notes.annotate(
            format!("patch.webhook.admission.k8s.io/{place}"),
            note.to_string(),
        );
        Ok(changed)
    }
}

pub(super) struct ValidatingAdmissionWebhook(Webhooks);

impl Default for ValidatingAdmissionWebhook {
    fn default() -> Self {
        Self(Webhooks::new("validatingwebhookconfigurations", false))
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation, _: &Target<'_>) -> bool {
        true
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let Some(objects) = self.0.objects.get().filter(|_| !is_exempt(attributes)) else {
            return Ok(());
        };
        let hooks = self.0.hooks(&**objects).await?;
        let questions = Arc::default();
        let mut concerned = Vec::new();
        for hook in &hooks.1 {
            if let Some(hit) = hook.hit(attributes, object, &**objects).await?
                && self.0.wants(hook, &hit, attributes, object, &questions).await?
            {
                concerned.push((hook, hit));
            }
        }
        let asked = concerned
            .iter()
            .enumerate()
            .map(|(index, (hook, hit))| async move {
                match self.0.ask(hook, hit, attributes, object, &**objects).await {
                    Ok(_) => Ok(()),
                    Err(failure) => {
                        let place = format!("round_0_index_{index}");
                        self.0.judge(hook, &place, attributes, failure)
                    }
                }
            });
        join_all(asked).await.into_iter().collect()
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.0.bind(objects);
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.0.bind_authorizer(authorizer);
    }
}

#[cfg(test)]
mod tests;
