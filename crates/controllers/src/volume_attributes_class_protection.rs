//! The volume attributes class protection controller: a class that is being deleted goes only when no claim asks for it
//! and no volume has it.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Api, PostParams};
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/vac-protection";

struct Shell {
    context: Context,
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

/// Every class a claim asks for, has, or is changing to.
fn of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &String> {
    let status = claim.status.as_ref();
    let asked = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_attributes_class_name.as_ref());
    let has = status.and_then(|s| s.current_volume_attributes_class_name.as_ref());
    let next = status
        .and_then(|s| s.modify_volume_status.as_ref())
        .and_then(|m| m.target_volume_attributes_class_name.as_ref());
    [asked, has, next].into_iter().flatten()
}

fn of_volume(volume: &PersistentVolume) -> Option<&String> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_ref()
}

async fn run(context: Context) {
    let classes = context.informer::<VolumeAttributesClass>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let volumes = context.informer::<PersistentVolume>();
    let queue = context.queue::<ObjectKey>("vacprotection");
    let adds = queue.clone();
    classes.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let adds = queue.clone();
    claims.subscribe(move |event| match event {
        Event::Added(_) => {}
        Event::Updated { old: former, .. } | Event::Deleted(former) => {
            of_claim(former).for_each(|name| adds.add(ObjectKey::cluster(name)));
        }
    });
    let adds = queue.clone();
    volumes.subscribe(move |event| match event {
        Event::Added(_) => {}
        Event::Updated { old: former, .. } | Event::Deleted(former) => {
            of_volume(former)
                .into_iter()
                .for_each(|name| adds.add(ObjectKey::cluster(name)));
        }
    });
    let shell = Arc::new(Shell {
        classes,
        claims,
        volumes,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.classes.synced().await;
        ready.claims.synced().await;
        ready.volumes.synced().await;
    };
    context
        .work(&queue, 1, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

/// The finalizers a class should have; `None` if it has them.
fn wanted(class: &VolumeAttributesClass, used: impl FnOnce() -> bool) -> Option<Vec<String>> {
    let mut finalizers = class.metadata.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|f| f == FINALIZER);
    match (class.metadata.deletion_timestamp.is_some(), has) {
        (true, true) if !used() => finalizers.retain(|f| f != FINALIZER),
        (false, false) => finalizers.push(FINALIZER.to_owned()),
        _ => return None,
    }
    Some(finalizers)
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(class) = self.classes.get(key) else {
            return Ok(Outcome::Done);
        };
        let name = key.name.as_str();
        let used = || {
            let volumes = self.volumes.list();
            let claims = self.claims.list();
            volumes.iter().any(|v| of_volume(v).is_some_and(|n| n == name))
                || claims.iter().any(|c| of_claim(c).any(|n| n == name))
        };
        let Some(finalizers) = wanted(&class, used) else {
            return Ok(Outcome::Done);
        };
        let mut changed = (*class).clone();
        changed.metadata.finalizers = Some(finalizers);
        let api = Api::<VolumeAttributesClass>::all(self.context.client.clone());
        match api.replace(name, &PostParams::default(), &changed).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_in_use_stays() {
        let check = |leaving: bool, has: bool, used: bool, expected: Option<usize>| {
            let deleted = leaving.then_some("2026-01-01T00:00:00Z");
            let finalizers = if has { vec![FINALIZER] } else { vec![] };
            let class = json!({"metadata": {"deletionTimestamp": deleted, "finalizers": finalizers}, "driverName": "d"});
            let class = serde_json::from_value(class).expect("class");
            assert_eq!(wanted(&class, || used).map(|f| f.len()), expected);
        };
        check(false, false, false, Some(1));
        check(true, true, true, None);
        check(true, true, false, Some(0));
        check(true, false, false, None);
    }
}
