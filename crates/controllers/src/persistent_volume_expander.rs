//! The volume expander: a bound claim that asks for more than it has is left to an external resizer, and says so.
//!
//! Volume types that the controller itself could expand are all migrated to CSI, as upstream.

use crate::context::Context;
use client::events::reference;
use client::storage::{annotation, claim_ref, requested, volume_name};
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use machinery::quantity::Quantity;

const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let claims = context.informer::<PersistentVolumeClaim>();
    let volumes = context.informer::<PersistentVolume>();
    let queue = context.queue::<ObjectKey>("volume_expand");
    let adds = queue.clone();
    claims.subscribe(move |event| {
        if let Event::Updated { old, new } = event
            && (requested(new) > requested(old) || requested(new) > held(new))
            && is_bound(new)
        {
            adds.add(ObjectKey::of(&**new));
        }
    });
    let (c, v) = (claims.clone(), volumes.clone());
    let synced = async move {
        c.synced().await;
        v.synced().await;
    };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |key| {
            let (context, claims, volumes) = (shell.clone(), claims.clone(), volumes.clone());
            async move { Ok(reconcile(&context, &claims, &volumes, &key)) }
        })
        .await;
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

fn held(claim: &PersistentVolumeClaim) -> Quantity {
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    let size = capacity.and_then(|c| c.get("storage"));
    size.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

fn wants_more(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let bound = claim_ref(volume).is_some_and(|r| r.uid == claim.metadata.uid);
    bound && (requested(claim) > held(claim) || annotation(&volume.metadata, PRE_RESIZE).is_some())
}

fn reconcile(
    context: &Context,
    claims: &Informer<PersistentVolumeClaim>,
    volumes: &Informer<PersistentVolume>,
    key: &ObjectKey,
) -> Outcome {
    let Some(claim) = claims.get(key) else {
        return Outcome::Done;
    };
    let volume = volume_name(&claim).and_then(|name| volumes.find("", name));
    if volume.is_some_and(|v| wants_more(&claim, &v)) {
        let message = "waiting for an external controller to expand this PVC";
        context
            .recorder
            .normal(&reference(&*claim), "ExternalExpanding", message);
    }
    Outcome::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn growth_is_noticed() {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "u"}}});
        let volume: PersistentVolume = serde_json::from_value(volume).expect("volume");
        for (wants, has, expected) in [("2Gi", "1Gi", true), ("1Gi", "1Gi", false)] {
            let claim = json!({"metadata": {"uid": "u"}, "spec": {"resources": {"requests": {"storage": wants}}},
                "status": {"phase": "Bound", "capacity": {"storage": has}}});
            let claim = serde_json::from_value(claim).expect("claim");
            assert_eq!(wants_more(&claim, &volume), expected);
        }
    }
}
