//! The volume protection controller: a volume that is being deleted goes only when it is bound to no claim.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, PostParams};

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let volumes = context.informer::<PersistentVolume>();
    let queue = context.queue::<ObjectKey>("pvprotection");
    let adds = queue.clone();
    volumes.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) && wanted(event.object()).is_some() {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let all = volumes.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |key| {
            let (context, volumes) = (shell.clone(), volumes.clone());
            async move { reconcile(&context, &volumes, &key).await }
        })
        .await;
}

/// The finalizers a volume should have; `None` if it has them.
fn wanted(volume: &PersistentVolume) -> Option<Vec<String>> {
    let mut finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|f| f == FINALIZER);
    let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    match (volume.metadata.deletion_timestamp.is_some(), has) {
        (true, true) if !bound => finalizers.retain(|f| f != FINALIZER),
        (false, false) => finalizers.push(FINALIZER.to_owned()),
        _ => return None,
    }
    Some(finalizers)
}

async fn reconcile(
    context: &Context,
    volumes: &Informer<PersistentVolume>,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(volume) = volumes.get(key) else {
        return Ok(Outcome::Done);
    };
    let Some(finalizers) = wanted(&volume) else {
        return Ok(Outcome::Done);
    };
    let mut changed = (*volume).clone();
    changed.metadata.finalizers = Some(finalizers);
    let api = Api::<PersistentVolume>::all(context.client.clone());
    match api.replace(&key.name, &PostParams::default(), &changed).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finalizers_come_and_go() {
        let check = |leaving: bool, has: bool, phase: &str, expected: Option<usize>| {
            let deleted = leaving.then_some("2026-01-01T00:00:00Z");
            let finalizers = if has { vec![FINALIZER] } else { vec![] };
            let volume = json!({"metadata": {"deletionTimestamp": deleted, "finalizers": finalizers}, "status": {"phase": phase}});
            let volume = serde_json::from_value(volume).expect("volume");
            assert_eq!(wanted(&volume).map(|f| f.len()), expected);
        };
        check(false, false, "Available", Some(1));
        check(false, true, "Bound", None);
        check(true, true, "Bound", None);
        check(true, true, "Released", Some(0));
        check(true, false, "Released", None);
    }
}
