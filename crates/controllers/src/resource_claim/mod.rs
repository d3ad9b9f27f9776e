//! The resource claim controller: makes the claims that pods want made of templates, lets pods whose node was chosen by
//! somebody else use theirs, and takes back what is used no more.
//!
//! ```text
//! pod   ─► template ─► claim, its name in the pod's status; reservation when the pod has a node
//! claim ─► users that are gone ─► fewer reservations ─► none: deallocated, deleted if it was generated
//! ```
//!
//! **Invariant:** a user that is not in the cache is asked about at the server before its reservation goes: the scheduler
//! may know the pod before this does.

mod decide;

use crate::context::Context;
use crate::pods::message_of;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_controller};
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use compact_str::{CompactString, format_compact};
use decide::Named;
use futures::future::BoxFuture;
use hashbrown::HashSet;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;

const WORKERS: usize = 50;
const MANAGER: &str = "ResourceClaimController";

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Look {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

struct Shell {
    context: Context,
    pods: Informer<Pod>,
    pods_by_claim: Index<Pod>,
    pods_by_template: Index<Pod>,
    claims: Informer<ResourceClaim>,
    claims_by_owner: Index<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let pods = context.informer::<Pod>();
    let claims = context.informer::<ResourceClaim>();
    let shell = Arc::new(Shell {
        pods_by_claim: pods.index("resource-claim", |pod, values| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
            values.extend(decide::claims_of(pod).map(|name| format_compact!("{namespace}/{name}")));
        }),
        pods_by_template: pods.index("resource-claim-template", by_template),
        pods,
        claims_by_owner: claims.index("controller", by_controller),
        claims,
        templates: context.informer(),
        context: context.clone(),
    });
    let queue = context.queue::<Look>("resource_claim");
    subscribe(&shell, &queue);
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.pods.synced().await;
        ready.claims.synced().await;
        ready.templates.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |look| {
            let shell = Arc::clone(&shell);
            async move {
                match look {
                    Look::Pod(key) => shell.reconcile_pod(&key).await,
                    Look::Claim(key) => shell.reconcile_claim(&key).await,
                }
            }
        })
        .await;
}

fn by_template(pod: &Pod, values: &mut Vec<CompactString>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let names = decide::entries(pod)
        .iter()
        .filter_map(|e| e.resource_claim_template_name.as_ref());
    values.extend(names.map(|name| format_compact!("{namespace}/{name}")));
}

fn subscribe(shell: &Arc<Shell>, queue: &Queue<Look>) {
    let adds = queue.clone();
    shell.pods.subscribe(move |event| {
        let pod = event.object();
        let mut claims = decide::claims_of(pod).peekable();
        if claims.peek().is_none() && decide::entries(pod).is_empty() {
            return;
        }
        let gone = matches!(event, Event::Deleted(_));
        if gone || decide::is_done(pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
            claims.for_each(|name| adds.add(Look::Claim(ObjectKey::new(namespace, &name))));
        }
        if !gone && !crate::pods::is_terminating(pod) {
            adds.add(Look::Pod(ObjectKey::of(&**pod)));
        }
    });
    let (adds, users) = (queue.clone(), shell.pods_by_claim.clone());
    shell.claims.subscribe(move |event| {
        let key = ObjectKey::of(&**event.object());
        for pod in users.get(&key.to_string()) {
            adds.add(Look::Pod(ObjectKey::of(&*pod)));
        }
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Look::Claim(key));
        }
    });
    let (adds, users) = (queue.clone(), shell.pods_by_template.clone());
    shell.templates.subscribe(move |event| {
        let key = ObjectKey::of(&**event.object());
        for pod in users.get(&key.to_string()) {
            adds.add(Look::Pod(ObjectKey::of(&*pod)));
        }
    });
}

impl Shell {
    fn api(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    async fn reconcile_pod(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key).filter(|p| !crate::pods::is_terminating(p)) else {
            return Ok(Outcome::Done);
        };
        if decide::is_done(&pod) {
            return Ok(Outcome::Done);
        }
        let mut generated = Vec::new();
        let mut retry = false;
        for entry in decide::entries(&pod) {
            match self.generate(&pod, entry).await {
                Ok(Some(name)) => generated.push(json!({"name": entry.name, "resourceClaimName": name})),
                Ok(None) => {}
                Err(why) => {
                    let message = format!("PodResourceClaim {}: {why}", entry.name);
                    self.context
                        .recorder
                        .warning(&reference(&*pod), "FailedResourceClaimCreation", message);
                    retry = true;
                }
            }
        }
        if !generated.is_empty() {
            self.remember(&pod, generated).await?;
        }
        if !crate::pods::node_name(&pod).is_empty() {
            self.reserve(&pod).await?;
        }
        Ok(if retry { Outcome::Retry } else { Outcome::Done })
    }

    /// Makes the claim of an entry that has none; its name, if the pod's status does not say it.
    async fn generate(&self, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<String>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let Some(template) = &entry.resource_claim_template_name else {
            return Ok(None);
        };
        match decide::named(pod, entry) {
            Named::Own(_) | Named::None => return Ok(None),
            Named::Generated(name) => {
                let known = self.claims.find(namespace, &name);
                if known.is_some_and(|claim| decide::is_for(&claim, pod)) {
                    return Ok(None);
                }
            }
            Named::NotYet => {}
        }
        let owned = self
            .claims_by_owner
            .get(pod.metadata.uid.as_deref().unwrap_or(""));
        if let Some(orphan) = decide::orphan(owned.iter().map(|c| &**c), entry) {
            return Ok(orphan.metadata.name.clone());
        }
        let found = self.templates.find(namespace, template);
        let found = found.ok_or_else(|| {
            format!(
                "resource claim template \"{template}\": resourceclaimtemplate.resource.k8s.io \"{template}\" not found"
            )
        })?;
        let claim = decide::generate(pod, entry, &found);
        match self.api(namespace).create(&PostParams::default(), &claim).await {
            Ok(created) => {
                let name = created.metadata.name.clone();
                self.claims.written(created);
                Ok(name)
            }
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => Err(format!("create ResourceClaim : {}", message_of(&error))),
        }
    }

    async fn remember(&self, pod: &Pod, generated: Vec<serde_json::Value>) -> Result<(), kube::Error> {
        let key = ObjectKey::of(pod);
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        // What is applied is all there is: what was remembered before is said again.
        let mut all = generated;
        for known in pod
            .status
            .iter()
            .flat_map(|s| s.resource_claim_statuses.iter().flatten())
        {
            if !all.iter().any(|new| new["name"] == known.name.as_str()) {
                all.push(json!(known));
            }
        }
        let patch = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.name.as_str(), "uid": pod.metadata.uid},
            "status": {"resourceClaimStatuses": all},
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&key.name, &params, &Patch::Apply(patch)).await {
            Ok(written) => {
                self.pods.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A pod that got its node from somebody else than the scheduler still has to be among the users of its claims.
    async fn reserve(&self, pod: &Pod) -> Result<(), kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        for entry in decide::entries(pod) {
            let (name, owned) = match decide::named(pod, entry) {
                Named::Own(name) => (name, false),
                Named::Generated(name) => (name, true),
                Named::None | Named::NotYet => continue,
            };
            let Some(claim) = self.claims.find(namespace, &name) else {
                continue;
            };
            if owned && !decide::is_for(&claim, pod) {
                continue;
            }
            if let Some(reserved) = decide::reserved(&claim, pod) {
                self.write_status(namespace, &name, &reserved).await?;
            }
        }
        Ok(())
    }

    /// With the resource version: what the scheduler wrote meanwhile must not be undone.
    async fn write_status(
        &self,
        namespace: &str,
        name: &str,
        claim: &ResourceClaim,
    ) -> Result<Option<ResourceClaim>, kube::Error> {
        let api = self.api(namespace);
        match api.replace_status(name, &PostParams::default(), claim).await {
            Ok(written) => {
                self.claims.written(written.clone());
                Ok(Some(written))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn reconcile_claim(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let gone = self.gone_users(&claim).await?;
        let release = decide::release(&claim, |user| !gone.contains(&user.uid));
        let mut current = (*claim).clone();
        if let Some(changed) = &release.status {
            match self.write_status(&key.namespace, &key.name, changed).await? {
                Some(written) => current = written,
                None => return Ok(Outcome::Done),
            }
        }
        if release.unprotect {
            current.metadata.finalizers = current.metadata.finalizers.map(|mut finalizers| {
                finalizers.retain(|f| f != decide::FINALIZER);
                finalizers
            });
            let api = self.api(&key.namespace);
            match api.replace(&key.name, &PostParams::default(), &current).await {
                Ok(written) if written.metadata.deletion_timestamp.is_none() => self.claims.written(written),
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(Outcome::Done),
                Err(error) => return Err(error),
            }
        }
        if release.unused && claim.metadata.deletion_timestamp.is_none() && self.is_abandoned(&claim) {
            match self
                .api(&key.namespace)
                .delete(&key.name, &DeleteParams::default())
                .await
            {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }

    /// The uids of the pods among a claim's users that use it no more.
    async fn gone_users(&self, claim: &ResourceClaim) -> Result<HashSet<String>, kube::Error> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
        let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref());
        let mut gone = HashSet::new();
        for user in users.into_iter().flatten() {
            let is_pod = user.api_group.as_deref().unwrap_or("").is_empty() && user.resource == "pods";
            if !is_pod {
                continue;
            }
            let uses = match self.pods.find(namespace, &user.name) {
                Some(pod) => pod.metadata.uid.as_ref() == Some(&user.uid) && !decide::is_done(&pod),
                None => {
                    let api = Api::<Pod>::namespaced(self.context.client.clone(), namespace);
                    let pod = api.get_opt(&user.name).await?;
                    pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&user.uid))
                }
            };
            if !uses {
                gone.insert(user.uid.clone());
            }
        }
        Ok(gone)
    }

    /// Whether the claim was generated for a pod that will not use it. A pod that is not known is the garbage
    /// collector's business.
    fn is_abandoned(&self, claim: &ResourceClaim) -> bool {
        let Some(owner) = crate::owner::controller_of(&claim.metadata) else {
            return false;
        };
        if owner.kind != "Pod" || owner.api_version != "v1" {
            return false;
        }
        let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
        let pod = self.pods.find(namespace, &owner.name);
        pod.is_some_and(|pod| pod.metadata.uid.as_ref() != Some(&owner.uid) || decide::is_done(&pod))
    }
}
