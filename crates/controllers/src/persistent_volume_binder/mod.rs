//! The persistent volume binder: brings claims and volumes together, and says of each how it stands.
//!
//! A claim and a volume name each other; binding writes volume first, claim second, so that whoever is interrupted can
//! go on from what is there. Volumes are made and deleted by external provisioners: this controller only tells them.
//!
//! Not here: recycling, and deleting volumes that no external provisioner made; such a volume becomes `Failed`.
//! Follows upstream's `pkg/controller/volume/persistentvolume`.

mod claims;
mod volumes;

use crate::context::Context;
use client::informer::{Index, by_namespace};
use client::storage::{claim_ref, volume_name};
use client::{Event, Informer, ObjectKey, Queue};
use compact_str::CompactString;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// A claim that waits says so again after this time, as upstream's resync has it.
const SAY_AGAIN: Duration = Duration::from_secs(15);

struct Shell {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods_by_namespace: Index<Pod>,
    pods: Informer<Pod>,
    claim_queue: Queue<ObjectKey>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

/// Claims that may still get a volume other than by name.
fn by_openness(claim: &PersistentVolumeClaim, values: &mut Vec<CompactString>) {
    if volume_name(claim).is_none() {
        values.push(CompactString::const_new("open"));
    }
}

fn by_volume(claim: &PersistentVolumeClaim, values: &mut Vec<CompactString>) {
    values.extend(volume_name(claim).map(CompactString::from));
}

async fn run(context: Context) {
    let claims = context.informer::<PersistentVolumeClaim>();
    let volumes = context.informer::<PersistentVolume>();
    let classes = context.informer::<StorageClass>();
    let pods = context.informer::<Pod>();
    let claim_queue = context.queue::<ObjectKey>("claims");
    let volume_queue = context.queue::<ObjectKey>("volumes");
    let (adds, of_volumes) = (claim_queue.clone(), volume_queue.clone());
    claims.subscribe(move |event| {
        let claim = event.object();
        adds.add(ObjectKey::of(&**claim));
        if let Some(volume) = volume_name(claim) {
            of_volumes.add(ObjectKey::cluster(volume));
        }
    });
    let (adds, of_claims) = (volume_queue.clone(), claim_queue.clone());
    let (open, named) = (
        claims.index("open", by_openness),
        claims.index("volume", by_volume),
    );
    volumes.subscribe(move |event| {
        let volume = event.object();
        adds.add(ObjectKey::of(&**volume));
        match claim_ref(volume) {
            Some(claim) => of_claims.add(ObjectKey::new(
                claim.namespace.as_deref().unwrap_or(""),
                claim.name.as_deref().unwrap_or(""),
            )),
            // It may be what an open claim waits for.
            None => open
                .get("open")
                .iter()
                .for_each(|c| of_claims.add(ObjectKey::of(&**c))),
        }
        for claim in named.get(volume.metadata.name.as_deref().unwrap_or("")) {
            of_claims.add(ObjectKey::of(&*claim));
        }
    });
    let (adds, open) = (claim_queue.clone(), claims.index("open", by_openness));
    classes.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            open.get("open")
                .iter()
                .for_each(|c| adds.add(ObjectKey::of(&**c)));
        }
    });
    let shell = Arc::new(Shell {
        pods_by_namespace: pods.index("namespace", by_namespace),
        claims,
        volumes,
        classes,
        pods,
        claim_queue: claim_queue.clone(),
        context: context.clone(),
    });
    let synced = |shell: Arc<Shell>| async move {
        shell.claims.synced().await;
        shell.volumes.synced().await;
        shell.classes.synced().await;
        shell.pods.synced().await;
    };
    let (of_claims, of_volumes) = (Arc::clone(&shell), Arc::clone(&shell));
    let claims = context.work(&claim_queue, WORKERS, synced(Arc::clone(&shell)), move |key| {
        let shell = Arc::clone(&of_claims);
        async move { shell.reconcile_claim(&key).await }
    });
    let volumes = context.work(&volume_queue, WORKERS, synced(shell), move |key| {
        let shell = Arc::clone(&of_volumes);
        async move { shell.reconcile_volume(&key).await }
    });
    tokio::join!(claims, volumes);
}
