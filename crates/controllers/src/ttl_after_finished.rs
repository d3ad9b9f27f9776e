//! The TTL-after-finished controller: deletes a Job, and what belongs to it, so many seconds after it ended.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};
use std::time::Duration;

const WORKERS: usize = 5;

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let jobs = context.informer::<Job>();
    let queue = context.queue::<ObjectKey>("ttl_jobs_to_delete");
    let adds = queue.clone();
    jobs.subscribe(move |event| {
        let job = event.object();
        if !matches!(event, Event::Deleted(_)) && expires(job).is_some() {
            adds.add(ObjectKey::of(&**job));
        }
    });
    let all = jobs.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, WORKERS, synced, move |key| {
            let (context, jobs) = (shell.clone(), jobs.clone());
            async move { reconcile(&context, &jobs, &key).await }
        })
        .await;
}

/// When the job is to go; `None` while it runs or if it is to stay.
fn expires(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let at = ended.last_transition_time.as_ref()?.0;
    at.checked_add(SignedDuration::from_secs(i64::from(ttl))).ok()
}

async fn reconcile(context: &Context, jobs: &Informer<Job>, key: &ObjectKey) -> Result<Outcome, kube::Error> {
    let Some(at) = jobs.get(key).and_then(|job| expires(&job)) else {
        return Ok(Outcome::Done);
    };
    if let Some(left) = until(at, context.now()) {
        return Ok(Outcome::After(left));
    }
    // It may have been given more time since: the server is asked before what cannot be undone.
    let api = Api::<Job>::namespaced(context.client.clone(), &key.namespace);
    let Some(fresh) = api.get_opt(&key.name).await? else {
        return Ok(Outcome::Done);
    };
    let Some(at) = expires(&fresh) else {
        return Ok(Outcome::Done);
    };
    if let Some(left) = until(at, context.now()) {
        return Ok(Outcome::After(left));
    }
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions {
            uid: fresh.metadata.uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

fn until(at: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(at.duration_since(now))
        .ok()
        .filter(|left| !left.is_zero())
}
