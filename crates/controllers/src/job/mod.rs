//! The Job controller: runs pods until enough of them succeed, or too many fail.
//!
//! Each pod carries a finalizer until it is counted ([`decide`] says how), so that none is lost and none is counted
//! twice, whoever deletes it and whenever this restarts.
//!
//! Upstream gathers pod events for a second before it looks; here they are looked at at once.

mod backoff;
mod decide;
mod indexes;
mod policy;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::owner::{claim, controller_key, controller_of, controller_ref, is_controlled_by, settle};
use crate::pods::{PodControl, from_template};
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_controller};
use client::labels::Matcher;
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use decide::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, NewPod, Plan};
use futures::future::BoxFuture;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;

const KIND: &str = "Job";
const WORKERS: usize = 16;
const OURSELVES: &str = "kubernetes.io/job-controller";
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

/// A job to look at, or a pod whose job is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Look {
    Job(ObjectKey),
    Orphan(ObjectKey),
}

struct Shell {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let jobs = context.informer::<Job>();
    let pods = context.informer::<Pod>();
    let pods_by_controller = pods.index("controller", by_controller);
    let queue = context.queue::<Look>("job");
    let (adds, of_job) = (queue.clone(), pods_by_controller.clone());
    jobs.subscribe(move |event| {
        let job = event.object();
        if matches!(event, Event::Deleted(_)) {
            let left = of_job.get(job.metadata.uid.as_deref().unwrap_or(""));
            left.iter()
                .for_each(|p| adds.add(Look::Orphan(ObjectKey::of(&**p))));
        }
        adds.add(Look::Job(ObjectKey::of(&**job)));
    });
    let (adds, all) = (queue.clone(), jobs.clone());
    pods.subscribe(move |event| enqueue_for_pod(event, &all, &adds));
    let shell = Arc::new(Shell {
        jobs,
        pods,
        pods_by_controller,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.jobs.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |look| {
            let shell = Arc::clone(&shell);
            async move {
                match look {
                    Look::Job(key) => shell.reconcile(&key).await,
                    Look::Orphan(key) => shell.release(&key).await,
                }
            }
        })
        .await;
}

fn enqueue_for_pod(event: &Event<Pod>, jobs: &Informer<Job>, queue: &Queue<Look>) {
    let pod = event.object();
    if let Event::Updated { old, new } = event
        && controller_of(&old.metadata) != controller_of(&new.metadata)
        && let Some(former) = controller_key(&old.metadata, KIND)
    {
        queue.add(Look::Job(former));
    }
    match controller_key(&pod.metadata, KIND) {
        Some(key) => {
            let known = jobs.get(&key);
            let gone = jobs.has_synced()
                && known.is_none_or(|j| !is_controlled_by(&pod.metadata, j.metadata.uid.as_deref()));
            if gone && decide::is_tracked(pod) && !matches!(event, Event::Deleted(_)) {
                queue.add(Look::Orphan(ObjectKey::of(&**pod)));
            }
            queue.add(Look::Job(key));
        }
        None if controller_of(&pod.metadata).is_none() && !matches!(event, Event::Deleted(_)) => {
            let labels = pod.metadata.labels.as_ref();
            // Only pods a job once had can be one's: the label names it.
            let name = labels.and_then(|l| {
                l.get("batch.kubernetes.io/job-name")
                    .or_else(|| l.get("job-name"))
            });
            if let Some(name) = name {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
                queue.add(Look::Job(ObjectKey::new(namespace, name)));
            }
            if decide::is_tracked(pod) {
                queue.add(Look::Orphan(ObjectKey::of(&**pod)));
            }
        }
        None => {}
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(job) = self.jobs.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = &job.spec else {
            return Ok(Outcome::Done);
        };
        if spec.managed_by.as_deref().is_some_and(|m| m != OURSELVES) {
            return Ok(Outcome::Done);
        }
        let uid = job.metadata.uid.as_deref().unwrap_or("");
        if decide::is_over(&job) {
            // Pods that were adopted, or whose finalizer could not be taken then.
            let left = self
                .pods_by_controller
                .get(uid)
                .into_iter()
                .filter(|p| decide::is_tracked(p));
            for pod in left.filter(|p| !crate::pods::is_active(p)) {
                self.untrack(&pod).await?;
            }
            return Ok(Outcome::Done);
        }
        let claims = claim(
            &job.metadata,
            &Matcher::of(spec.selector.as_ref()),
            self.pods_by_controller.get(uid),
            self.pods_by_controller.get(&format!("{}/", key.namespace)),
        );
        let pods = settle(&self.context.client, &*job, &self.pods, claims, &[FINALIZER]).await?;
        let plan = decide::plan(&job, spec, &pods, self.context.now());
        self.carry_out(&job, spec, plan).await
    }

    async fn carry_out(&self, job: &Arc<Job>, spec: &JobSpec, plan: Plan) -> Result<Outcome, kube::Error> {
        let Plan {
            change,
            mut status,
            untrack,
            events,
            again,
        } = plan;
        let control = PodControl::new(&self.context, &self.pods, &**job);
        if change.untrack_deleted {
            for pod in &change.delete {
                self.untrack(pod).await?;
            }
        }
        control.delete_all(&change.delete).await?;
        let mut failure = None;
        if !change.create.is_empty() {
            let make = |at: usize| new_pod(job, spec, &change.create[at]);
            failure = control.create_batch(change.create.len(), make).await.1;
        }
        let uid = job.metadata.uid.as_deref().unwrap_or("");
        decide::recount(&mut status, &self.pods_by_controller.get(uid));
        if differs(job.status.as_ref(), &status) {
            self.write_status(job, status).await?;
            let about = reference(&**job);
            for said in events {
                let severity = if said.warning {
                    client::Severity::Warning
                } else {
                    client::Severity::Normal
                };
                self.context
                    .recorder
                    .event(&about, severity, said.reason, said.message);
            }
        }
        for pod in &untrack {
            self.untrack(pod).await?;
        }
        match failure {
            Some(error) if !error.is_namespace_terminating() => Err(error),
            _ => Ok(again.map_or(Outcome::Done, Outcome::After)),
        }
    }

    async fn write_status(&self, job: &Job, status: JobStatus) -> Result<(), kube::Error> {
        let key = ObjectKey::of(job);
        let api = Api::<Job>::namespaced(self.context.client.clone(), &key.namespace);
        let mut job = job.clone();
        job.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &job).await {
            Ok(written) => {
                self.jobs.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the finalizer off a pod.
    async fn untrack(&self, pod: &Pod) -> Result<(), kube::Error> {
        if !decide::is_tracked(pod) {
            return Ok(());
        }
        let key = ObjectKey::of(pod);
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        match api
            .patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Ok(written) => {
                // A pod that only waited for this is gone; the watch says so.
                if written.metadata.deletion_timestamp.is_none() {
                    self.pods.written(written);
                }
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() || error.is_invalid() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets go of a pod whose job is no more.
    async fn release(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key).filter(|p| decide::is_tracked(p)) else {
            return Ok(Outcome::Done);
        };
        if let Some(owner) = controller_key(&pod.metadata, KIND) {
            let job = self.jobs.get(&owner);
            if job.is_some_and(|j| is_controlled_by(&pod.metadata, j.metadata.uid.as_deref())) {
                return Ok(Outcome::Done);
            }
        }
        self.untrack(&pod).await?;
        Ok(Outcome::Done)
    }
}

fn new_pod(job: &Job, spec: &JobSpec, new: &NewPod) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or("");
    let namespace = job.metadata.namespace.as_deref().unwrap_or("");
    let prefix = match new.index {
        Some(index) => format!("{name}-{index}"),
        None => name.to_owned(),
    };
    let mut pod = from_template(&spec.template, namespace, &prefix, controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = new.index else { return pod };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(INDEX_FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(INDEX_IGNORED.to_owned(), ignored.to_string());
        }
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let containers = spec
            .containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten());
        for container in containers {
            let env = container.env.get_or_insert_default();
            if env.iter().any(|e| e.name == INDEX_ENV) {
                continue;
            }
            env.push(EnvVar {
                name: INDEX_ENV.to_owned(),
                value: None,
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.labels['{INDEX}']"),
                    }),
                    ..EnvVarSource::default()
                }),
            });
        }
    }
    pod
}

/// Whether writing would change anything; an absent number is a zero, an absent list is empty.
fn differs(old: Option<&JobStatus>, new: &JobStatus) -> bool {
    let normal = |status: &JobStatus| {
        let mut status = status.clone();
        let zero = |n: &mut Option<i32>| *n = n.filter(|n| *n != 0);
        [&mut status.active, &mut status.succeeded, &mut status.failed]
            .into_iter()
            .for_each(zero);
        let list = status.uncounted_terminated_pods.get_or_insert_default();
        list.succeeded = list.succeeded.take().filter(|l| !l.is_empty());
        list.failed = list.failed.take().filter(|l| !l.is_empty());
        status.conditions = status.conditions.take().filter(|c| !c.is_empty());
        status.completed_indexes = status.completed_indexes.take().filter(|t| !t.is_empty());
        status
    };
    old.is_none_or(|old| normal(old) != normal(new))
}
