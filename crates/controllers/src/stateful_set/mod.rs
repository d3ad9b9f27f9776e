//! The StatefulSet controller: pods with a number, a name and storage of their own.

mod decide;
mod identity;

use crate::context::Context;
use crate::history::{History, template_of};
use crate::owner::{claim, controller_key, controller_of, settle};
use crate::pods::{self, message_of};
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_controller, by_namespace};
use client::labels::Matcher;
use client::{Event, Informer, ObjectKey, Outcome, Queue, Severity};
use decide::{Action, Revision, View};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use std::sync::Arc;

const KIND: &str = "StatefulSet";
const WORKERS: usize = 8;

struct Shell {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    history: History,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let sets = context.informer::<StatefulSet>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("statefulset");
    let adds = queue.clone();
    sets.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = sets.index("namespace", by_namespace);
    let adds = queue.clone();
    pods.subscribe(move |event| enqueue_for_pod(event, &of_namespace, &adds));
    let shell = Arc::new(Shell {
        pods_by_controller: pods.index("controller", by_controller),
        claims: context.informer(),
        history: History::new(&context),
        sets,
        pods,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.sets.synced().await;
        ready.pods.synced().await;
        ready.claims.synced().await;
        ready.history.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn enqueue_for_pod(event: &Event<Pod>, sets: &Index<StatefulSet>, queue: &Queue<ObjectKey>) {
    let pod = event.object();
    if let Event::Updated { old, new } = event
        && controller_of(&old.metadata) != controller_of(&new.metadata)
        && let Some(former) = controller_key(&old.metadata, KIND)
    {
        queue.add(former);
    }
    if controller_of(&pod.metadata).is_some() {
        if let Some(key) = controller_key(&pod.metadata, KIND) {
            queue.add(key);
        }
        return;
    }
    if matches!(event, Event::Deleted(_)) || pod.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
        return;
    }
    for set in sets.get(pod.metadata.namespace.as_deref().unwrap_or("")) {
        let selector = Matcher::of(set.spec.as_ref().map(|s| &s.selector));
        if identity::ordinal(&set, pod).is_some() && selector.matches(pod.metadata.labels.as_ref()) {
            queue.add(ObjectKey::of(&*set));
        }
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = &set.spec else {
            return Ok(Outcome::Done);
        };
        let selector = Matcher::of(Some(&spec.selector));
        let uid = set.metadata.uid.as_deref().unwrap_or("");
        let member = |pod: &Arc<Pod>| identity::ordinal(&set, pod).is_some();
        let orphans = self.pods_by_controller.get(&format!("{}/", key.namespace));
        let claims = claim(
            &set.metadata,
            &selector,
            self.pods_by_controller.get(uid),
            orphans.into_iter().filter(member),
        );
        let mut pods = settle(&self.context.client, &*set, &self.pods, claims, &[]).await?;

        let revisions = self.history.list(&*set, &selector).await?;
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let update = self
            .history
            .current(&*set, &spec.template, &revisions, &mut collisions)
            .await?;
        let named = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = revisions
            .iter()
            .find(|r| r.metadata.name.as_deref() == named)
            .unwrap_or(&update);
        let current_template = template_of(current).unwrap_or_else(|| spec.template.clone());
        let view = View {
            set: &set,
            spec,
            current: Revision {
                name: current.metadata.name.as_deref().unwrap_or(""),
                template: &current_template,
            },
            update: Revision {
                name: update.metadata.name.as_deref().unwrap_or(""),
                template: &spec.template,
            },
            now: self.context.now(),
        };
        let mut failure = self.own_claims(&set, spec, &pods).await.err();
        if failure.is_none() {
            let actions = view.actions(&pods);
            let acted = futures::future::join_all(actions.iter().map(|a| self.act(&set, spec, a))).await;
            failure = acted.into_iter().find_map(Result::err);
            if !actions.is_empty() {
                let mine = self.pods_by_controller.get(uid).into_iter();
                pods = mine
                    .filter(|p| member(p) && selector.matches(p.metadata.labels.as_ref()))
                    .collect();
            }
        }
        let (status, next) = view.status(&pods, collisions);
        let mut live: Vec<&str> = vec![view.current.name, view.update.name];
        live.extend(pods.iter().map(|p| identity::revision(p)));
        self.write_status(&set, status).await?;
        self.history
            .truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10))
            .await?;
        match failure {
            Some(error) if !error.is_namespace_terminating() => Err(error),
            _ => Ok(next.map_or(Outcome::Done, Outcome::After)),
        }
    }

    async fn act(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        action: &Action,
    ) -> Result<(), kube::Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or("");
        let api = Api::<Pod>::namespaced(self.context.client.clone(), namespace);
        match action {
            Action::Create(pod) => {
                let made = match self.ensure_claims(set, spec, pod).await {
                    Ok(true) => api.create(&PostParams::default(), pod).await,
                    // A claim of an earlier life is still going: the pod waits for its own.
                    Ok(false) => return Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = &made
                    && (error.is_already_exists() || error.is_namespace_terminating())
                {
                    return Ok(());
                }
                self.say(set, pod, "create", made.as_ref().err());
                self.pods.written(made?);
            }
            Action::EnsureClaims(pod) => {
                self.ensure_claims(set, spec, pod).await?;
            }
            Action::Delete(pod) => {
                let key = ObjectKey::of(&**pod);
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: pod.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                let deleted = api.delete(&key.name, &params).await;
                if let Err(error) = &deleted
                    && (error.is_not_found() || error.is_conflict())
                {
                    return Ok(());
                }
                self.say(set, pod, "delete", deleted.as_ref().err());
                deleted?;
                let uid = pod.metadata.uid.as_deref().unwrap_or("");
                self.pods.deleting(&key, uid, self.context.now());
            }
            Action::Repair(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or("");
                let written = api.replace(name, &PostParams::default(), pod).await;
                self.say(set, pod, "update", written.as_ref().err());
                self.pods.written(written?);
            }
        }
        Ok(())
    }

    fn say(&self, set: &StatefulSet, pod: &Pod, verb: &str, error: Option<&kube::Error>) {
        let pod = pod.metadata.name.as_deref().unwrap_or("");
        let name = set.metadata.name.as_deref().unwrap_or("");
        let (severity, reason, end) = match (verb, error) {
            ("create", None) => (Severity::Normal, "SuccessfulCreate", "successful".to_owned()),
            ("delete", None) => (Severity::Normal, "SuccessfulDelete", "successful".to_owned()),
            (_, None) => (Severity::Normal, "SuccessfulUpdate", "successful".to_owned()),
            (verb, Some(error)) => {
                let reason = match verb {
                    "create" => "FailedCreate",
                    "delete" => "FailedDelete",
                    _ => "FailedUpdate",
                };
                (
                    Severity::Warning,
                    reason,
                    format!("failed error: {}", message_of(error)),
                )
            }
        };
        let message = format!("{verb} Pod {pod} in StatefulSet {name} {end}");
        self.context
            .recorder
            .event(&reference(set), severity, reason, message);
    }

    /// Makes the claims of a pod that are missing; `false` while one of that name is on its way out.
    async fn ensure_claims(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        pod: &Pod,
    ) -> Result<bool, kube::Error> {
        let Some(ordinal) = identity::ordinal(set, pod) else {
            return Ok(true);
        };
        let namespace = set.metadata.namespace.as_deref().unwrap_or("");
        let name = set.metadata.name.as_deref().unwrap_or("");
        let pod_name = pod.metadata.name.as_deref().unwrap_or("");
        let mut all = true;
        for (_, claim) in identity::claims(set, spec, ordinal) {
            let key = ObjectKey::of(&claim);
            if let Some(known) = self.claims.get(&key) {
                all &= known.metadata.deletion_timestamp.is_none();
                continue;
            }
            let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
            match api.create(&PostParams::default(), &claim).await {
                Ok(made) => {
                    let message = format!(
                        "create Claim {} Pod {pod_name} in StatefulSet {name} success",
                        key.name
                    );
                    self.context
                        .recorder
                        .normal(&reference(set), "SuccessfulCreate", message);
                    self.claims.written(made);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let message = format!(
                        "create Claim {} for Pod {pod_name} in StatefulSet {name} failed error: {}",
                        key.name,
                        message_of(&error)
                    );
                    self.context
                        .recorder
                        .warning(&reference(set), "FailedCreate", message);
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// Claims belong to whom the retention policy says.
    async fn own_claims(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        pods: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        if spec.volume_claim_templates.as_ref().is_none_or(|t| t.is_empty()) {
            return Ok(());
        }
        for pod in pods.iter().filter(|p| !pods::is_terminating(p)) {
            let Some(ordinal) = identity::ordinal(set, pod) else {
                continue;
            };
            let condemned = !identity::is_wanted(spec, ordinal);
            for (_, claim) in identity::claims(set, spec, ordinal) {
                let key = ObjectKey::of(&claim);
                let Some(known) = self.claims.get(&key) else {
                    continue;
                };
                let Some(owners) = identity::claim_owners(set, spec, pod, condemned, &known) else {
                    continue;
                };
                let mut copy = (*known).clone();
                copy.metadata.owner_references = Some(owners);
                let api =
                    Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
                self.claims
                    .written(api.replace(&key.name, &PostParams::default(), &copy).await?);
            }
        }
        Ok(())
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), kube::Error> {
        let number = |n: Option<i32>| n.unwrap_or(0);
        let same = set.status.as_ref().is_some_and(|old| {
            old.observed_generation == status.observed_generation
                && old.replicas == status.replicas
                && number(old.ready_replicas) == number(status.ready_replicas)
                && number(old.available_replicas) == number(status.available_replicas)
                && number(old.current_replicas) == number(status.current_replicas)
                && number(old.updated_replicas) == number(status.updated_replicas)
                && old.current_revision == status.current_revision
                && old.update_revision == status.update_revision
                && number(old.collision_count) == number(status.collision_count)
        });
        if same {
            return Ok(());
        }
        let key = ObjectKey::of(set);
        let mut set = set.clone();
        set.status = Some(status);
        let api = Api::<StatefulSet>::namespaced(self.context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &set).await {
            Ok(written) => {
                self.sets.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
