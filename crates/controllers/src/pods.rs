//! Questions about pods that several controllers ask, and how they make and unmake pods.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::{Informer, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Succeeded or failed: its containers never run again.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or("")
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|t| t.0)
}

/// Whether the pod has been ready for so long; if only ready, how long is missing.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let Some(since) = ready_since(pod) else {
        return Availability::NotReady;
    };
    let left = SignedDuration::from_secs(i64::from(min_ready_seconds)) - now.duration_since(since);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Availability::In(left),
        _ => Availability::Available,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    NotReady,
    In(Duration),
    Available,
}

/// A pod of a template. The server makes its name from `prefix`.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    prefix: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Makes and unmakes pods for one owner, with upstream's events, and shows the outcome in the informer at once.
pub(crate) struct PodControl<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pods: &'a Informer<Pod>,
    pub(crate) owner: ObjectReference,
}

impl<'a> PodControl<'a> {
    pub(crate) fn new<K: kube::Resource<DynamicType = ()>>(
        context: &'a Context,
        pods: &'a Informer<Pod>,
        owner: &K,
    ) -> Self {
        Self {
            context,
            pods,
            owner: reference(owner),
        }
    }

    fn api(&self) -> Api<Pod> {
        let namespace = self.owner.namespace.as_deref().unwrap_or("");
        Api::namespaced(self.context.client.clone(), namespace)
    }

    pub(crate) async fn create(&self, pod: &Pod) -> Result<Pod, kube::Error> {
        match self.api().create(&PostParams::default(), pod).await {
            Ok(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or("");
                self.context
                    .recorder
                    .normal(&self.owner, "SuccessfulCreate", format!("Created pod: {name}"));
                self.pods.written(pod.clone());
                Ok(pod)
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {}", message_of(&error));
                    self.context
                        .recorder
                        .warning(&self.owner, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    /// Deletes a pod; one that is gone already counts as deleted.
    pub(crate) async fn delete(&self, pod: &Pod) -> Result<(), kube::Error> {
        let key = ObjectKey::of(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api().delete(&key.name, &params).await {
            Ok(_) => {
                self.context.recorder.normal(
                    &self.owner,
                    "SuccessfulDelete",
                    format!("Deleted pod: {}", key.name),
                );
                self.pods.deleting(&key, &uid, self.context.now());
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", message_of(&error));
                self.context
                    .recorder
                    .warning(&self.owner, "FailedDelete", message);
                Err(error)
            }
        }
    }

    /// Makes `count` pods: one, then twice as many at a time, so that what fails for one does not fail a thousand
    /// times. Ends with the first batch that has an error. `pod` gives the pod of a number below `count`.
    pub(crate) async fn create_batch(
        &self,
        count: usize,
        pod: impl Fn(usize) -> Pod,
    ) -> (usize, Option<kube::Error>) {
        let mut created = 0;
        let mut batch = 1;
        while created < count {
            let until = (created + batch).min(count);
            let attempts: Vec<Pod> = (created..until).map(&pod).collect();
            let answers = futures::future::join_all(attempts.iter().map(|p| self.create(p))).await;
            let asked = until - created;
            let mut failure = None;
            for answer in answers {
                match answer {
                    Ok(_) => created += 1,
                    Err(error) => failure = Some(error),
                }
            }
            if failure.is_some() {
                return (created, failure);
            }
            batch = asked * 2;
        }
        (created, None)
    }

    /// Deletes pods side by side; the first error.
    pub(crate) async fn delete_all(&self, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let answers = futures::future::join_all(pods.iter().map(|p| self.delete(p))).await;
        answers.into_iter().collect()
    }
}

/// Why a pod is taken away that did nothing wrong.
pub(crate) struct Disruption {
    pub(crate) reason: &'static str,
    pub(crate) message: &'static str,
}

/// Writes into a pod's status why it goes, then deletes it. One that is gone already, or was replaced, is left alone.
pub(crate) async fn disrupt(
    context: &Context,
    pods: &Informer<Pod>,
    pod: &Pod,
    disruption: &Disruption,
) -> Result<(), kube::Error> {
    let key = ObjectKey::of(pod);
    let now = context.now();
    let api = Api::<Pod>::namespaced(context.client.clone(), &key.namespace);
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": disruption.reason, "message": disruption.message,
        "lastTransitionTime": Time(now), "observedGeneration": pod.metadata.generation,
    });
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Ok(_) => {
            pods.deleting(&key, pod.metadata.uid.as_deref().unwrap_or(""), now);
            Ok(())
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The server's own words, without the client's frame around them.
pub(crate) fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
