//! The ReplicaSet controller: keeps as many pods as asked for. ReplicationControllers are served by the same code
//! ([`crate::replication`]), seen as ReplicaSets.
//!
//! There are no expectations as upstream has them: what was written is in the informer at once.

pub(crate) mod decide;

use crate::context::Context;
use crate::owner::{claim, controller_key, controller_of, controller_ref, settle};
use crate::pods::{self, PodControl, from_template, message_of};
use client::error::ApiErrorExt as _;
use client::informer::{Index, Object, by_controller, by_namespace};
use client::labels::Matcher;
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use decide::Change;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, PostParams};
use std::sync::Arc;

/// A kind that keeps a number of pods, as this controller sees it.
pub(crate) trait Set:
    Object + serde::Serialize + kube::Resource<Scope = NamespaceResourceScope>
{
    const KIND: &'static str;
    const QUEUE: &'static str;

    /// The same as a ReplicaSet.
    fn view(&self) -> ReplicaSet;
    fn set_status(&mut self, status: ReplicaSetStatus);

    /// Whether the status says how many pods are on their way out.
    fn counts_terminating() -> bool {
        true
    }
}

impl Set for ReplicaSet {
    const KIND: &'static str = "ReplicaSet";
    const QUEUE: &'static str = "replicaset";

    fn view(&self) -> ReplicaSet {
        self.clone()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run::<ReplicaSet>(context))
}

/// So many sets are worked on at a time.
const WORKERS: usize = 16;

struct Shell<K> {
    context: Context,
    sets: Informer<K>,
    sets_by_controller: Index<K>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
}

pub(crate) async fn run<K: Set>(context: Context) {
    let sets = context.informer::<K>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>(K::QUEUE);
    let adds = queue.clone();
    sets.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = sets.index("namespace", by_namespace);
    let adds = queue.clone();
    pods.subscribe(move |event| enqueue_for::<K>(event, &of_namespace, &adds));
    let shell = Arc::new(Shell {
        sets_by_controller: sets.index("controller", by_controller),
        pods_by_controller: pods.index("controller", by_controller),
        sets,
        pods,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
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

/// A pod's event concerns its controller, its former one, and for an orphan every set that might adopt it.
fn enqueue_for<K: Set>(event: &Event<Pod>, sets: &Index<K>, queue: &Queue<ObjectKey>) {
    let pod = event.object();
    if let Event::Updated { old, new } = event
        && controller_of(&old.metadata) != controller_of(&new.metadata)
        && let Some(former) = controller_key(&old.metadata, K::KIND)
    {
        queue.add(former);
    }
    if controller_of(&pod.metadata).is_some() {
        if let Some(key) = controller_key(&pod.metadata, K::KIND) {
            queue.add(key);
        }
        return;
    }
    let relevant = match event {
        Event::Added(_) => true,
        Event::Updated { old, new } => {
            old.metadata.labels != new.metadata.labels || controller_of(&old.metadata).is_some()
        }
        Event::Deleted(_) => false,
    };
    if !relevant || pod.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
        return;
    }
    for set in sets.get(pod.metadata.namespace.as_deref().unwrap_or("")) {
        let selector = set.view().spec.map(|s| s.selector);
        if Matcher::of(selector.as_ref()).matches(pod.metadata.labels.as_ref()) {
            queue.add(ObjectKey::of(&*set));
        }
    }
}

impl<K: Set> Shell<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(owner) = self.sets.get(key) else {
            return Ok(Outcome::Done);
        };
        let set = owner.view();
        let Some(spec) = &set.spec else {
            return Ok(Outcome::Done);
        };
        let selector = Matcher::of(Some(&spec.selector));
        let uid = set.metadata.uid.as_deref().unwrap_or("");
        let owned = self.pods_by_controller.get(uid);
        let (terminating, owned): (Vec<_>, Vec<_>) = owned.into_iter().partition(|p| pods::is_terminating(p));
        let running = |pods: Vec<Arc<Pod>>| pods.into_iter().filter(|p| pods::is_active(p));
        let orphans = self.pods_by_controller.get(&format!("{}/", key.namespace));
        let claims = claim(&set.metadata, &selector, running(owned), running(orphans));
        let mut active = settle(&self.context.client, &*owner, &self.pods, claims, &[]).await?;

        let mut failure = None;
        let mut error = None;
        if set.metadata.deletion_timestamp.is_none() {
            let change = self.change(&set, &active);
            error = self.carry_out(&*owner, &set, &change).await;
            if let Some(error) = &error {
                let reason = if matches!(change, Change::Create(_)) {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                };
                failure = Some((reason, message_of(error)));
            }
            if change != Change::Nothing {
                let now = self.pods_by_controller.get(uid);
                let mine = |p: &Arc<Pod>| pods::is_active(p) && selector.matches(p.metadata.labels.as_ref());
                active = now.into_iter().filter(mine).collect();
            }
        }
        let terminating = terminating.iter().filter(|p| !pods::is_finished(p)).count();
        let terminating = K::counts_terminating().then_some(terminating);
        let (status, next) = decide::status(&set, &active, terminating, failure, self.context.now());
        if decide::differs(set.status.as_ref(), &status) {
            self.write_status(&owner, status).await?;
        }
        match (error, next) {
            (Some(error), _) if !error.is_namespace_terminating() => Err(error),
            (_, Some(next)) => Ok(Outcome::After(next)),
            _ => Ok(Outcome::Done),
        }
    }

    fn change(&self, set: &ReplicaSet, active: &[Arc<Pod>]) -> Change {
        let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let siblings = match controller_of(&set.metadata) {
            Some(owner) if active.len() > usize::try_from(replicas).unwrap_or(0) => {
                let sets = self.sets_by_controller.get(&owner.uid);
                let uids = sets.iter().filter_map(|s| s.meta().uid.clone());
                uids.flat_map(|uid| self.pods_by_controller.get(&uid)).collect()
            }
            _ => active.to_vec(),
        };
        decide::change(replicas, active, &siblings, self.context.now())
    }

    async fn carry_out(&self, owner: &K, set: &ReplicaSet, change: &Change) -> Option<kube::Error> {
        let control = PodControl::new(&self.context, &self.pods, owner);
        match change {
            Change::Nothing => None,
            Change::Create(count) => {
                let template = set.spec.as_ref()?.template.clone().unwrap_or_default();
                let namespace = set.metadata.namespace.as_deref().unwrap_or("");
                let name = set.metadata.name.as_deref().unwrap_or("");
                let reference: OwnerReference = controller_ref(owner);
                let pod = from_template(&template, namespace, name, reference);
                control.create_batch(*count, |_| pod.clone()).await.1
            }
            Change::Delete(pods) => control.delete_all(pods).await.err(),
        }
    }

    async fn write_status(&self, owner: &K, status: ReplicaSetStatus) -> Result<(), kube::Error> {
        let mut owner = owner.clone();
        let key = ObjectKey::of(&owner);
        owner.set_status(status);
        let api = Api::<K>::namespaced(self.context.client.clone(), &key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), &owner)
            .await
        {
            Ok(written) => {
                self.sets.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
