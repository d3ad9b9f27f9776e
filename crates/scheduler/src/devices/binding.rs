//! What has to be written before a pod that uses claims is bound: their allocations, and the pod among their users.
//! Devices that have to be prepared first are waited for (KEP-5007).
//!
//! **Invariant:** what was decided for a claim is in [`Pending`] until the informer shows it or the attempt is given up,
//! so that no device is given away twice.

use super::claims;
use crate::framework::PreBind;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::{Informer, ObjectKey, Recorder, Severity};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams, PostParams};
use machinery::clock::Clock;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Keeps an allocated claim until it is deallocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// So often a write is tried when others write at the same time.
const TRIES: usize = 5;

/// Allocations that were decided and are not written yet, by their claims' uids.
pub(crate) type Pending = Mutex<HashMap<String, AllocationResult>>;

/// What is needed to write.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: kube::Client,
    pub(crate) claims: Informer<ResourceClaim>,
    /// Told of every change of a claim.
    pub(crate) changed: Arc<Notify>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A pod's claims on their way to be used by it.
pub(crate) struct Binding {
    writer: Writer,
    pod: Arc<Pod>,
    node: String,
    /// The claims, and what was decided for those that are not allocated.
    claims: Mutex<Vec<Arc<ResourceClaim>>>,
    decided: HashMap<String, AllocationResult>,
}

impl Binding {
    /// `decided` by the uids of the claims.
    pub(crate) fn new(
        writer: Writer,
        pod: Arc<Pod>,
        node: &str,
        claims: Vec<Arc<ResourceClaim>>,
        decided: HashMap<String, AllocationResult>,
    ) -> Self {
        let pending = decided
            .iter()
            .map(|(uid, allocation)| (uid.clone(), allocation.clone()));
        writer.pending.lock().extend(pending);
        Self {
            writer,
            pod,
            node: node.to_owned(),
            claims: Mutex::new(claims),
            decided,
        }
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    /// Writes the allocation, if one was decided, and the pod among the users.
    async fn write(&self, claim: &ResourceClaim) -> Result<ResourceClaim, String> {
        let key = ObjectKey::of(claim);
        let api = Api::<ResourceClaim>::namespaced(self.writer.client.clone(), &key.namespace);
        let decided = self.decided.get(claims::uid(claim));
        let mut current = claim.clone();
        let mut tries = 1;
        loop {
            match self.write_once(&api, &key, current, decided).await? {
                Ok(written) => return Ok(written),
                Err(conflict) if tries == TRIES => return Err(conflict),
                Err(_) => tries += 1,
            }
            current = api
                .get(&key.name)
                .await
                .map_err(|error| format!("get updated claim {key} after conflict: {error}"))?;
        }
    }

    /// The inner error is a conflict: it may be tried again.
    async fn write_once(
        &self,
        api: &Api<ResourceClaim>,
        key: &ObjectKey,
        mut claim: ResourceClaim,
        decided: Option<&AllocationResult>,
    ) -> Result<Result<ResourceClaim, String>, String> {
        let again = |what: &str, error: kube::Error| {
            let message = format!("{what} claim {key}: {error}");
            if error.is_conflict() {
                Ok(Err(message))
            } else {
                Err(message)
            }
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("claim {key} got deleted in the meantime"));
        }
        if let Some(allocation) = decided {
            if claims::is_allocated(&claim) {
                return Err(format!("claim {key} got allocated elsewhere in the meantime"));
            }
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
                claim = match api.replace(&key.name, &PostParams::default(), &claim).await {
                    Ok(written) => written,
                    Err(error) => return again("add finalizer to", error),
                };
            }
            claim.status.get_or_insert_default().allocation = Some(allocation.clone());
        }
        let status = claim.status.get_or_insert_default();
        let Some(allocation) = &mut status.allocation else {
            return Err(format!("claim {key} got deallocated elsewhere in the meantime"));
        };
        allocation
            .allocation_timestamp
            .get_or_insert_with(|| Time(self.writer.clock.now()));
        status
            .reserved_for
            .get_or_insert_default()
            .push(ResourceClaimConsumerReference {
                api_group: None,
                name: self.pod.metadata.name.clone().unwrap_or_default(),
                resource: "pods".to_owned(),
                uid: self.uid().to_owned(),
            });
        match api
            .replace_status(&key.name, &PostParams::default(), &claim)
            .await
        {
            Ok(written) => Ok(Ok(written)),
            Err(error) if decided.is_some() => again("add allocation and reservation to", error),
            Err(error) => again("add reservation to", error),
        }
    }

    /// Waits until the devices are prepared that have to be.
    async fn prepared(&self) -> Result<(), String> {
        let claims = self.claims.lock().clone();
        if claims.iter().all(|c| claims::conditional(c).next().is_none()) {
            return Ok(());
        }
        let message = format!("waiting for binding conditions for device on node {}", self.node);
        self.writer.recorder.event_with_action(
            &reference(&*self.pod),
            Severity::Normal,
            "BindingConditionsPending",
            "Scheduling",
            message,
        );
        let by = claims.iter().filter_map(|c| claims::prepared_by(c)).min();
        let left = by.map_or(Duration::ZERO, |by| {
            Duration::try_from(by.duration_since(self.writer.clock.now())).unwrap_or_default()
        });
        let ready = async {
            loop {
                let changed = self.writer.changed.notified();
                if self.all_ready()? {
                    return Ok(());
                }
                changed.await;
            }
        };
        match tokio::time::timeout(left, ready).await {
            Ok(done) => done,
            Err(_) => Err("device binding timeout: context deadline exceeded".to_owned()),
        }
    }

    fn all_ready(&self) -> Result<bool, String> {
        let mut known = self.claims.lock();
        for claim in known.iter_mut() {
            let key = ObjectKey::of(&**claim);
            let Some(current) = self.writer.claims.get(&key) else {
                return Err(format!("could not find ResourceClaim \"{key}\""));
            };
            *claim = current;
            if !claims::is_ready(claim)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl PreBind for Binding {
    fn pre_bind(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let claims = self.claims.lock().clone();
            for (at, claim) in claims.iter().enumerate() {
                if claims::is_reserved(claim, self.uid()) {
                    continue;
                }
                let written = self.write(claim).await?;
                self.claims.lock()[at] = Arc::new(written.clone());
                self.writer.claims.written(written);
                self.writer.pending.lock().remove(claims::uid(claim));
            }
            self.prepared().await
        })
    }

    fn unreserve(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let claims = self.claims.lock().clone();
            for claim in claims {
                if !claims::is_allocated(&claim) || !claims::is_reserved(&claim, self.uid()) {
                    continue;
                }
                let key = ObjectKey::of(&*claim);
                let api = Api::<ResourceClaim>::namespaced(self.writer.client.clone(), &key.namespace);
                let patch = json!({"metadata": {"uid": claim.metadata.uid},
                    "status": {"reservedFor": [{"$patch": "delete", "uid": self.uid()}]}});
                let done = api
                    .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                    .await;
                match done {
                    Ok(written) => self.writer.claims.written(written),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => tracing::warn!(claim = %key, %error, "reservation not taken back"),
                }
            }
        })
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let mut pending = self.writer.pending.lock();
        for (uid, allocation) in &self.decided {
            // After it was written, the next attempt may have decided anew.
            if pending.get(uid) == Some(allocation) {
                pending.remove(uid);
            }
        }
    }
}
