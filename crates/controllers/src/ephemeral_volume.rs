//! The ephemeral volume controller: makes the claim of each generic ephemeral volume of a pod, owned by the pod.

use crate::context::Context;
use crate::owner::controller_ref;
use crate::pods::message_of;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use std::sync::Arc;

const WORKERS: usize = 5;

struct Shell {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    volumes.into_iter().flatten().filter(|v| {
        v.ephemeral
            .as_ref()
            .is_some_and(|e| e.volume_claim_template.is_some())
    })
}

async fn run(context: Context) {
    let pods = context.informer::<Pod>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let queue = context.queue::<ObjectKey>("ephemeral_volume");
    let adds = queue.clone();
    pods.subscribe(move |event| {
        let pod = event.object();
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if !matches!(event, Event::Deleted(_)) && !leaving && ephemeral(pod).next().is_some() {
            adds.add(ObjectKey::of(&**pod));
        }
    });
    let adds = queue.clone();
    claims.subscribe(move |event| {
        if let Event::Deleted(claim) = event
            && let Some(pod) = crate::owner::controller_key(&claim.metadata, "Pod")
        {
            adds.add(pod);
        }
    });
    let shell = Arc::new(Shell {
        pods,
        claims,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.pods.synced().await;
        ready.claims.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn claim(pod: &Pod, name: &str, volume: &Volume) -> PersistentVolumeClaim {
    let template = volume.ephemeral.as_ref();
    let template = template
        .and_then(|e| e.volume_claim_template.clone())
        .unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Outcome::Done);
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
        let mut retry = false;
        for volume in ephemeral(&pod) {
            let name = format!("{}-{}", key.name, volume.name);
            if let Some(known) = self.claims.find(&key.namespace, &name) {
                if !crate::owner::is_controlled_by(&known.metadata, pod.metadata.uid.as_deref()) {
                    let message = format!(
                        "PVC {}/{name} was not created for pod {key} (pod is not owner)",
                        key.namespace
                    );
                    self.fail(&pod, message);
                    retry = true;
                }
                continue;
            }
            match api
                .create(&PostParams::default(), &claim(&pod, &name, volume))
                .await
            {
                Ok(created) => self.claims.written(created),
                Err(error) if error.is_already_exists() => retry = true,
                Err(error) if error.is_namespace_terminating() => return Ok(Outcome::Done),
                Err(error) => {
                    self.fail(&pod, format!("create PVC {name}: {}", message_of(&error)));
                    return Err(error);
                }
            }
        }
        Ok(if retry { Outcome::Retry } else { Outcome::Done })
    }

    fn fail(&self, pod: &Pod, why: String) {
        let message = format!("ephemeral volume: {why}");
        self.context
            .recorder
            .warning(&reference(pod), "FailedBinding", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_its_pods() {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let volumes = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "w", "emptyDir": {}}]);
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}}),
        )
        .expect("pod");
        let all: Vec<&Volume> = ephemeral(&pod).collect();
        assert_eq!(all.len(), 1);
        let claim = claim(&pod, "p-v", all[0]);
        assert_eq!(claim.metadata.labels.expect("labels")["a"], "b");
        assert_eq!(claim.metadata.owner_references.expect("owners")[0].uid, "u");
    }
}
