//! The DaemonSet controller: one pod on every node that fits.
//!
//! The pods are bound by the scheduler, which their affinity to one node leads there. Pods that failed are replaced,
//! more slowly the more often they do.

mod decide;

use crate::context::Context;
use crate::history::{History, REVISION_LABEL};
use crate::owner::{claim, controller_key, controller_of, controller_ref, settle};
use crate::pods::{PodControl, from_template};
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_controller, by_namespace};
use client::labels::Matcher;
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use decide::View;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const KIND: &str = "DaemonSet";
const WORKERS: usize = 4;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(15 * 60);

struct Shell {
    context: Context,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    history: History,
    /// By set and node: how often pods failed there in a row, and when the last one was deleted.
    failures: Mutex<HashMap<(String, String), (u32, Timestamp)>>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let sets = context.informer::<DaemonSet>();
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("daemonset");
    let adds = queue.clone();
    sets.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = sets.index("namespace", by_namespace);
    let adds = queue.clone();
    pods.subscribe(move |event| enqueue_for_pod(event, &of_namespace, &adds));
    let (adds, all) = (queue.clone(), sets.clone());
    nodes.subscribe(move |event| {
        let relevant = match event {
            Event::Updated { old, new } => {
                let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone());
                old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
            }
            Event::Added(_) | Event::Deleted(_) => true,
        };
        if relevant {
            all.list().iter().for_each(|s| adds.add(ObjectKey::of(&**s)));
        }
    });
    let shell = Arc::new(Shell {
        pods_by_controller: pods.index("controller", by_controller),
        history: History::new(&context),
        sets,
        nodes,
        pods,
        context: context.clone(),
        failures: Mutex::default(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.sets.synced().await;
        ready.nodes.synced().await;
        ready.pods.synced().await;
        ready.history.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn enqueue_for_pod(event: &Event<Pod>, sets: &Index<DaemonSet>, queue: &Queue<ObjectKey>) {
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
        if selector.matches(pod.metadata.labels.as_ref()) {
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
        if spec.selector == LabelSelector::default() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.context
                .recorder
                .warning(&reference(&*set), "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let selector = Matcher::of(Some(&spec.selector));
        let revisions = self.history.list(&*set, &selector).await?;
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let current = self
            .history
            .current(&*set, &spec.template, &revisions, &mut collisions)
            .await?;
        let hash = current
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(REVISION_LABEL))
            .cloned()
            .unwrap_or_default();

        let uid = set.metadata.uid.as_deref().unwrap_or("");
        let orphans = self.pods_by_controller.get(&format!("{}/", key.namespace));
        let claims = claim(
            &set.metadata,
            &selector,
            self.pods_by_controller.get(uid),
            orphans,
        );
        let mut pods = settle(&self.context.client, &*set, &self.pods, claims, &[]).await?;
        let nodes = self.nodes.list();
        let now = self.context.now();
        let mut again = None;
        for step in [View::manage, View::update] {
            let view = View::new(&set, spec, &hash, &nodes, &pods, now);
            let plan = step(&view);
            let wait = self.carry_out(&set, &hash, plan, now).await?;
            again = again.into_iter().chain(wait).min();
            let mine = self.pods_by_controller.get(uid);
            pods = mine
                .into_iter()
                .filter(|p| selector.matches(p.metadata.labels.as_ref()))
                .collect();
        }
        let in_use: Vec<String> = pods
            .iter()
            .filter_map(|p| p.metadata.labels.as_ref()?.get(REVISION_LABEL).cloned())
            .chain([hash.clone()])
            .collect();
        let live: Vec<&str> = revisions
            .iter()
            .filter(|r| {
                r.metadata
                    .labels
                    .as_ref()
                    .and_then(|l| l.get(REVISION_LABEL))
                    .is_some_and(|h| in_use.contains(h))
            })
            .filter_map(|r| r.metadata.name.as_deref())
            .collect();
        self.history
            .truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10))
            .await?;
        let (status, next) = View::new(&set, spec, &hash, &nodes, &pods, now).status(collisions);
        self.write_status(&set, status).await?;
        let again = again.into_iter().chain(next).min();
        Ok(again.map_or(Outcome::Done, Outcome::After))
    }

    /// Carries a plan out; how long to wait for pods whose deletion is put off.
    async fn carry_out(
        &self,
        set: &Arc<DaemonSet>,
        hash: &str,
        plan: decide::Plan,
        now: Timestamp,
    ) -> Result<Option<Duration>, kube::Error> {
        let control = PodControl::new(&self.context, &self.pods, &**set);
        let about = reference(&**set);
        let mut delete = plan.delete;
        let mut wait: Option<Duration> = None;
        for pod in plan.failed {
            let (key, node) = (ObjectKey::of(&*pod), crate::pods::node_name(&pod).to_owned());
            if let Some(left) = self.put_off(set, &node, now) {
                wait = Some(wait.map_or(left, |w| w.min(left)));
                continue;
            }
            let message = format!("Found failed daemon pod {key} on node {node}, will try to kill it");
            self.context.recorder.warning(&about, "FailedDaemonPod", message);
            delete.push(pod);
        }
        for pod in plan.succeeded {
            let (key, node) = (ObjectKey::of(&*pod), crate::pods::node_name(&pod).to_owned());
            let message = format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
            self.context
                .recorder
                .normal(&about, "SucceededDaemonPod", message);
            delete.push(pod);
        }
        let Some(spec) = &set.spec else { return Ok(wait) };
        let namespace = set.metadata.namespace.as_deref().unwrap_or("");
        let name = set.metadata.name.as_deref().unwrap_or("");
        let make = |at: usize| {
            let template = decide::template_for(set, spec, hash, &plan.create[at]);
            from_template(&template, namespace, name, controller_ref(&**set))
        };
        let (_, error) = control.create_batch(plan.create.len(), make).await;
        control.delete_all(&delete).await?;
        match error {
            Some(error) if !error.is_namespace_terminating() => Err(error),
            _ => Ok(wait),
        }
    }

    /// Whether a failed pod of the node has to stay for now, and for how long.
    fn put_off(&self, set: &DaemonSet, node: &str, now: Timestamp) -> Option<Duration> {
        let key = (set.metadata.uid.clone().unwrap_or_default(), node.to_owned());
        let mut failures = self.failures.lock();
        let wait = |count: u32| FIRST_BACKOFF.saturating_mul(1 << count.min(10)).min(LAST_BACKOFF);
        failures.retain(|_, (count, at)| {
            now.duration_since(*at)
                < SignedDuration::try_from(wait(*count) * 2).unwrap_or(SignedDuration::MAX)
        });
        match failures.get_mut(&key) {
            None => {
                failures.insert(key, (0, now));
                None
            }
            Some((count, at)) => {
                let since = Duration::try_from(now.duration_since(*at)).unwrap_or(Duration::ZERO);
                let left = wait(*count).saturating_sub(since);
                if left.is_zero() {
                    *count += 1;
                    *at = now;
                    return None;
                }
                Some(left)
            }
        }
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), kube::Error> {
        let number = |n: Option<i32>| n.unwrap_or(0);
        let same = set.status.as_ref().is_some_and(|old| {
            old.observed_generation == status.observed_generation
                && old.desired_number_scheduled == status.desired_number_scheduled
                && old.current_number_scheduled == status.current_number_scheduled
                && old.number_misscheduled == status.number_misscheduled
                && old.number_ready == status.number_ready
                && number(old.updated_number_scheduled) == number(status.updated_number_scheduled)
                && number(old.number_available) == number(status.number_available)
                && number(old.number_unavailable) == number(status.number_unavailable)
                && old.collision_count == status.collision_count
        });
        if same {
            return Ok(());
        }
        let key = ObjectKey::of(set);
        let mut set = set.clone();
        set.status = Some(status);
        let api = Api::<DaemonSet>::namespaced(self.context.client.clone(), &key.namespace);
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
