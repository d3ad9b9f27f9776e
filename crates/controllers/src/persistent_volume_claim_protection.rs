//! The claim protection controller: a claim that is being deleted goes only when no pod that has a node uses it any
//! more, and says since when nobody has used it.
//!
//! **Invariant:** before protection ends the server itself is asked for pods.

use crate::context::Context;
use crate::pods;
use client::error::ApiErrorExt as _;
use client::informer::{Index, by_namespace};
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams, PostParams};
use std::sync::Arc;

pub(crate) const FINALIZER: &str = "kubernetes.io/pvc-protection";
const WORKERS: usize = 5;

struct Shell {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

/// The names of the claims a pod uses; whether each was made for it alone.
fn claims_of(pod: &Pod) -> impl Iterator<Item = (String, bool)> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    volumes.into_iter().flatten().filter_map(move |volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some((source.claim_name.clone(), false)),
            (None, Some(_)) => Some((format!("{pod_name}-{}", volume.name), true)),
            _ => None,
        }
    })
}

fn is_finalized(claim: &PersistentVolumeClaim) -> bool {
    let finalizers = claim.metadata.finalizers.as_ref();
    finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

/// Whether the pod keeps the claim from going: it has a node, and what is the claim's own pod's ends with it.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.metadata.name.as_deref().unwrap_or("");
    let owners = claim.metadata.owner_references.as_ref();
    let owned = || owners.is_some_and(|o| o.iter().any(|o| Some(&o.uid) == pod.metadata.uid.as_ref()));
    !pods::node_name(pod).is_empty()
        && claims_of(pod)
            .any(|(used, ephemeral)| used == name && (!ephemeral || (!pods::is_finished(pod) && owned())))
}

async fn run(context: Context) {
    let claims = context.informer::<PersistentVolumeClaim>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("pvcprotection");
    let adds = queue.clone();
    claims.subscribe(move |event| {
        let claim = event.object();
        let leaving = claim.metadata.deletion_timestamp.is_some();
        if !matches!(event, Event::Deleted(_)) && leaving == is_finalized(claim) {
            adds.add(ObjectKey::of(&**claim));
        }
    });
    let adds = queue.clone();
    pods.subscribe(move |event| {
        let pod = event.object();
        if matches!(event, Event::Deleted(_)) || pods::is_finished(pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
            claims_of(pod).for_each(|(name, _)| adds.add(ObjectKey::new(namespace, &name)));
        }
    });
    let shell = Arc::new(Shell {
        pods_by_namespace: pods.index("namespace", by_namespace),
        claims,
        pods,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.claims.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let leaving = claim.metadata.deletion_timestamp.is_some();
        if leaving != is_finalized(&claim) || (leaving && self.is_used(key, &claim).await?) {
            return Ok(Outcome::Done);
        }
        let mut changed = (*claim).clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        if leaving {
            finalizers.retain(|f| f != FINALIZER);
        } else {
            finalizers.push(FINALIZER.to_owned());
        }
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
        match api.replace(&key.name, &PostParams::default(), &changed).await {
            Ok(written) if leaving => {
                let uid = written.metadata.uid.clone().unwrap_or_default();
                if written.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
                    self.claims.gone(key, &uid);
                }
            }
            Ok(written) => self.claims.written(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(Outcome::Done)
    }

    async fn is_used(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<bool, kube::Error> {
        if self
            .pods_by_namespace
            .get(&key.namespace)
            .iter()
            .any(|p| uses(p, claim))
        {
            return Ok(true);
        }
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await?;
        Ok(pods.items.iter().any(|p| uses(p, claim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_uses_a_claim() {
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "p-v", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
        )
        .expect("claim");
        let check = |volume: Value, node: &str, phase: &str, expected: bool| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"},
                "spec": {"nodeName": node, "containers": [], "volumes": [volume]}, "status": {"phase": phase}}))
            .expect("pod");
            assert_eq!(uses(&pod, &claim), expected, "{volume} {node} {phase}");
        };
        let named = json!({"name": "x", "persistentVolumeClaim": {"claimName": "p-v"}});
        let own = json!({"name": "v", "ephemeral": {}});
        check(named.clone(), "n", "Running", true);
        check(named.clone(), "", "Pending", false);
        check(named, "n", "Succeeded", true);
        check(own.clone(), "n", "Running", true);
        check(own, "n", "Succeeded", false);
        check(
            json!({"name": "x", "persistentVolumeClaim": {"claimName": "other"}}),
            "n",
            "Running",
            false,
        );
    }
}
