//! The Deployment controller: rolls a template out over replica sets, keeps their history, scales them.

mod annotations;
mod decide;
mod status;
#[cfg(test)]
mod tests;
mod view;

use crate::context::Context;
use crate::owner::{claim, controller_key, controller_of, settle};
use crate::pods::{self, message_of};
use annotations::REVISION;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_controller, by_namespace};
use client::labels::Matcher;
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use decide::Plan;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, DeleteParams, PostParams};
use std::sync::Arc;

const KIND: &str = "Deployment";
const WORKERS: usize = 16;

struct Shell {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    sets_by_controller: Index<ReplicaSet>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let deployments = context.informer::<Deployment>();
    let sets = context.informer::<ReplicaSet>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("deployment");
    let adds = queue.clone();
    deployments.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = deployments.index("namespace", by_namespace);
    let adds = queue.clone();
    sets.subscribe(move |event| enqueue_for_set(event, &of_namespace, &adds));
    let (adds, by_key) = (queue.clone(), sets.clone());
    pods.subscribe(move |event| {
        // Recreate waits for the last old pod to go.
        if let Event::Deleted(pod) = event
            && let Some(set) = controller_key(&pod.metadata, "ReplicaSet").and_then(|key| by_key.get(&key))
            && let Some(key) = controller_key(&set.metadata, KIND)
        {
            adds.add(key);
        }
    });
    let shell = Arc::new(Shell {
        sets_by_controller: sets.index("controller", by_controller),
        pods_by_controller: pods.index("controller", by_controller),
        deployments,
        sets,
        pods,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.deployments.synced().await;
        ready.sets.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn enqueue_for_set(event: &Event<ReplicaSet>, deployments: &Index<Deployment>, queue: &Queue<ObjectKey>) {
    let set = event.object();
    if let Event::Updated { old, new } = event
        && controller_of(&old.metadata) != controller_of(&new.metadata)
        && let Some(former) = controller_key(&old.metadata, KIND)
    {
        queue.add(former);
    }
    if controller_of(&set.metadata).is_some() {
        if let Some(key) = controller_key(&set.metadata, KIND) {
            queue.add(key);
        }
        return;
    }
    if matches!(event, Event::Deleted(_)) {
        return;
    }
    for deployment in deployments.get(set.metadata.namespace.as_deref().unwrap_or("")) {
        let selector = Matcher::of(deployment.spec.as_ref().map(|s| &s.selector));
        if !selector.is_everything() && selector.matches(set.metadata.labels.as_ref()) {
            queue.add(ObjectKey::of(&*deployment));
        }
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(deployment) = self.deployments.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = &deployment.spec else {
            return Ok(Outcome::Done);
        };
        if spec.selector == LabelSelector::default() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.context
                .recorder
                .warning(&reference(&*deployment), "SelectingAll", message);
            let mut status = deployment.status.clone().unwrap_or_default();
            if status.observed_generation < deployment.metadata.generation {
                status.observed_generation = deployment.metadata.generation;
                self.write_status(&deployment, status).await?;
            }
            return Ok(Outcome::Done);
        }
        let uid = deployment.metadata.uid.as_deref().unwrap_or("");
        let claims = claim(
            &deployment.metadata,
            &Matcher::of(Some(&spec.selector)),
            self.sets_by_controller.get(uid),
            self.sets_by_controller.get(&format!("{}/", key.namespace)),
        );
        let sets = settle(&self.context.client, &*deployment, &self.sets, claims, &[]).await?;
        let all = sets.clone();
        let old_pods_run = |new: Option<&ReplicaSet>| {
            let others = all
                .iter()
                .filter(|s| new.is_none_or(|n| n.metadata.uid != s.metadata.uid));
            let mut uids = others.filter_map(|s| s.metadata.uid.as_deref());
            uids.any(|uid| {
                self.pods_by_controller
                    .get(uid)
                    .iter()
                    .any(|p| !pods::is_finished(p))
            })
        };
        let plan = decide::decide(&deployment, spec, sets, old_pods_run, self.context.now());
        self.carry_out(&deployment, plan).await
    }

    async fn carry_out(&self, deployment: &Arc<Deployment>, plan: Plan) -> Result<Outcome, kube::Error> {
        let key = ObjectKey::of(&**deployment);
        let api = Api::<ReplicaSet>::namespaced(self.context.client.clone(), &key.namespace);
        let about = reference(&**deployment);
        if let Some(set) = plan.create {
            return self.create(deployment, &set).await;
        }
        for update in plan.updates {
            let name = update.set.metadata.name.clone().unwrap_or_default();
            let written = api.replace(&name, &PostParams::default(), &update.set).await?;
            self.sets.written(written);
            if let Some(message) = update.message {
                self.context.recorder.normal(&about, "ScalingReplicaSet", message);
            }
        }
        for set in plan.deletes {
            let name = set.metadata.name.clone().unwrap_or_default();
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {
                    let uid = set.metadata.uid.clone().unwrap_or_default();
                    self.sets
                        .deleting(&ObjectKey::of(&*set), &uid, self.context.now());
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let mut current = Arc::clone(deployment);
        if let Some(revision) = plan.revision {
            current = self.note_revision(&current, &revision).await?;
        }
        if let Some(status) = plan.status
            && status::differs(deployment.status.as_ref(), &status)
        {
            self.write_status(&current, status).await?;
        }
        Ok(plan.again.map_or(Outcome::Done, Outcome::After))
    }

    async fn create(&self, deployment: &Arc<Deployment>, set: &ReplicaSet) -> Result<Outcome, kube::Error> {
        let key = ObjectKey::of(&**deployment);
        let name = set.metadata.name.clone().unwrap_or_default();
        let api = Api::<ReplicaSet>::namespaced(self.context.client.clone(), &key.namespace);
        let about = reference(&**deployment);
        let Some(spec) = &deployment.spec else {
            return Ok(Outcome::Done);
        };
        let error = match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                let size = view::replicas(&created);
                if size > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    self.context.recorder.normal(&about, "ScalingReplicaSet", message);
                }
                self.sets.written(created);
                let revision = set
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|a| a.get(REVISION))
                    .cloned();
                let current = self
                    .note_revision(deployment, revision.as_deref().unwrap_or("1"))
                    .await?;
                if let Some(status) = decide::after_create(&current, spec, Ok(&name), self.context.now()) {
                    self.write_status(&current, status).await?;
                }
                return Ok(Outcome::Done);
            }
            Err(error) => error,
        };
        if error.is_namespace_terminating() {
            return Ok(Outcome::Done);
        }
        if error.is_already_exists() {
            let existing = api.get(&name).await?;
            let ours = controller_of(&existing.metadata)
                .is_some_and(|o| Some(&o.uid) == deployment.metadata.uid.as_ref());
            if ours && view::is_of_template(&existing, &spec.template) {
                // The informer is behind; it will bring it.
                self.sets.written(existing);
                return Ok(Outcome::Retry);
            }
            let mut status = deployment.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.write_status(deployment, status).await?;
            return Ok(Outcome::Retry);
        }
        let message = format!(
            "Failed to create new replica set {name:?}: {}",
            message_of(&error)
        );
        self.context
            .recorder
            .warning(&about, "ReplicaSetCreateError", message.clone());
        if let Some(status) = decide::after_create(deployment, spec, Err(message), self.context.now())
            && status::differs(deployment.status.as_ref(), &status)
        {
            self.write_status(deployment, status).await?;
        }
        Err(error)
    }

    async fn note_revision(
        &self,
        deployment: &Arc<Deployment>,
        revision: &str,
    ) -> Result<Arc<Deployment>, kube::Error> {
        let known = deployment
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(REVISION));
        if known.is_some_and(|k| k == revision) {
            return Ok(Arc::clone(deployment));
        }
        let key = ObjectKey::of(&**deployment);
        let api = Api::<Deployment>::namespaced(self.context.client.clone(), &key.namespace);
        let mut noted = (**deployment).clone();
        let annotations = noted.metadata.annotations.get_or_insert_default();
        annotations.insert(REVISION.to_owned(), revision.to_owned());
        // Through the status: an annotation written to the object itself would count as a new generation.
        let written = api
            .replace_status(&key.name, &PostParams::default(), &noted)
            .await?;
        self.deployments.written(written.clone());
        Ok(Arc::new(written))
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), kube::Error> {
        let key = ObjectKey::of(deployment);
        let api = Api::<Deployment>::namespaced(self.context.client.clone(), &key.namespace);
        let mut deployment = deployment.clone();
        deployment.status = Some(status);
        match api
            .replace_status(&key.name, &PostParams::default(), &deployment)
            .await
        {
            Ok(written) => {
                self.deployments.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
