//! What a decision leads to: binding, conditions, evictions. Runs in tasks of its own, many at a time, never
//! inside a cycle.

use crate::pod_info::PodInfo;
use crate::preemption::Plan;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::{Recorder, Severity};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use machinery::clock::Clock;
use serde_json::json;
use std::sync::Arc;

/// The scheduler's hands.
#[derive(Clone)]
pub(crate) struct Hands {
    pub(crate) client: kube::Client,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Arc<dyn Clock>,
}

/// An event's note holds this much.
const NOTE: usize = 1024;

impl Hands {
    /// DefaultBinder: tells the API where the pod goes.
    pub(crate) async fn bind(&self, info: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let meta = &info.pod.metadata;
        let binding = Binding {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &info.key.namespace);
        let _: serde_json::Value = api
            .create_subresource("binding", &info.key.name, &PostParams::default(), &binding)
            .await?;
        let message = format!("Successfully assigned {} to {node}", info.key);
        self.recorder.event_with_action(
            &reference(&*info.pod),
            Severity::Normal,
            "Scheduled",
            "Binding",
            message,
        );
        Ok(())
    }

    /// Says on the pod and in an event why it is not scheduled. `nominated` is its promised node: `Some("")` takes
    /// a promise back.
    pub(crate) async fn report_failure(
        &self,
        info: &PodInfo,
        reason: &str,
        message: &str,
        nominated: Option<&str>,
    ) {
        let mut note = message.to_owned();
        if note.len() > NOTE {
            let cut = (0..=NOTE - 4)
                .rev()
                .find(|at| note.is_char_boundary(*at))
                .unwrap_or(0);
            note.truncate(cut);
            note.push_str(" ...");
        }
        self.recorder.event_with_action(
            &reference(&*info.pod),
            Severity::Warning,
            "FailedScheduling",
            "Scheduling",
            note,
        );
        let status = info.pod.status.as_ref();
        let known = status
            .and_then(|s| s.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled");
        let same = known.is_some_and(|c| {
            c.status == "False"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
        });
        let promised = status
            .and_then(|s| s.nominated_node_name.as_deref())
            .unwrap_or("");
        let promise_changed = nominated.is_some_and(|n| n != promised);
        if same && !promise_changed {
            return;
        }
        let since = match known {
            Some(c) if c.status == "False" => c.last_transition_time.clone(),
            _ => None,
        };
        let mut patch = json!({"metadata": {"uid": info.uid()}, "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": since.unwrap_or_else(|| Time(self.clock.now())),
            "observedGeneration": info.pod.metadata.generation,
        }]}});
        if promise_changed {
            patch["status"]["nominatedNodeName"] = json!(nominated.filter(|n| !n.is_empty()));
        }
        self.patch_status(info, &patch).await;
    }

    /// Makes room: marks and deletes the victims.
    pub(crate) async fn evict(&self, preemptor: &PodInfo, plan: &Plan) {
        for victim in &plan.victims {
            if victim.is_terminating() {
                continue;
            }
            let patch = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": "default-scheduler: preempting to accommodate a higher priority pod",
                "lastTransitionTime": Time(self.clock.now()), "observedGeneration": victim.pod.metadata.generation,
            }]}});
            self.patch_status(victim, &patch).await;
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(victim.uid().to_owned()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let api = Api::<Pod>::namespaced(self.client.clone(), &victim.key.namespace);
            match api.delete(&victim.key.name, &params).await {
                Ok(_) => {
                    let message = format!("Preempted by pod {} on node {}", preemptor.uid(), plan.node);
                    self.recorder.event_with_action(
                        &reference(&*victim.pod),
                        Severity::Normal,
                        "Preempted",
                        "Preempting",
                        message,
                    );
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::warn!(pod = %victim.key, %error, "preemption failed"),
            }
        }
    }

    async fn patch_status(&self, info: &PodInfo, patch: &serde_json::Value) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &info.key.namespace);
        let patched = api
            .patch_status(&info.key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        match patched {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!(pod = %info.key, %error, "pod status not updated"),
        }
    }
}
