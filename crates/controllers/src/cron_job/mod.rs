//! The CronJob controller: starts jobs when their time comes.
//!
//! A schedule without a time zone is read in UTC. Each CronJob has one timer, for its next time.

mod decide;
mod schedule;

use crate::context::Context;
use crate::owner::controller_key;
use crate::pods::message_of;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_controller};
use client::{Event, Informer, ObjectKey, Outcome, Severity};
use decide::Plan;
use futures::future::BoxFuture;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, PostParams};
use std::sync::Arc;

const KIND: &str = "CronJob";
const WORKERS: usize = 5;

struct Shell {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    jobs_by_controller: Index<Job>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let crons = context.informer::<CronJob>();
    let jobs = context.informer::<Job>();
    let queue = context.queue::<ObjectKey>("cronjob");
    let adds = queue.clone();
    crons.subscribe(move |event| {
        if let Event::Updated { old, new } = event
            && old.spec == new.spec
            && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        {
            return;
        }
        adds.add(ObjectKey::of(&**event.object()));
    });
    let adds = queue.clone();
    jobs.subscribe(move |event| {
        controller_key(&event.object().metadata, KIND)
            .into_iter()
            .for_each(|key| adds.add(key));
    });
    let shell = Arc::new(Shell {
        jobs_by_controller: jobs.index("controller", by_controller),
        crons,
        jobs,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.crons.synced().await;
        ready.jobs.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(cron) = self.crons.get(key) else {
            return Ok(Outcome::Done);
        };
        let mut jobs = self
            .jobs_by_controller
            .get(cron.metadata.uid.as_deref().unwrap_or(""));
        jobs.retain(|j| j.metadata.deletion_timestamp.is_none());
        let plan = decide::plan(&cron, &cron.spec, &jobs, self.context.now());
        self.carry_out(&cron, plan).await
    }

    async fn carry_out(&self, cron: &Arc<CronJob>, plan: Plan) -> Result<Outcome, kube::Error> {
        let namespace = cron.metadata.namespace.as_deref().unwrap_or("");
        let api = Api::<Job>::namespaced(self.context.client.clone(), namespace);
        let recorder = &self.context.recorder;
        let about = reference(&**cron);
        for said in plan.said {
            let severity = if said.warning {
                Severity::Warning
            } else {
                Severity::Normal
            };
            recorder.event(&about, severity, said.reason, said.message);
        }
        let mut status = plan.status;
        for job in plan.delete {
            let key = ObjectKey::of(&*job);
            match api.delete(&key.name, &DeleteParams::background()).await {
                Err(error) if !error.is_not_found() => {
                    let message = format!("Deleted job: {}", message_of(&error));
                    recorder.warning(&about, "FailedDelete", message);
                    return Err(error);
                }
                _ => {
                    let uid = job.metadata.uid.as_deref().unwrap_or("");
                    self.jobs.deleting(&key, uid, self.context.now());
                    if let Some(active) = &mut status.active {
                        active.retain(|r| r.uid != job.metadata.uid);
                    }
                    recorder.normal(&about, "SuccessfulDelete", format!("Deleted job {}", key.name));
                }
            }
        }
        if let Some((due, job)) = plan.create {
            match api.create(&PostParams::default(), &job).await {
                Ok(made) => {
                    let name = made.metadata.name.as_deref().unwrap_or("");
                    recorder.normal(&about, "SuccessfulCreate", format!("Created job {name}"));
                    status
                        .active
                        .get_or_insert_default()
                        .push(decide::reference(&made));
                    status.last_schedule_time = Some(Time(due));
                    self.jobs.written(made);
                }
                // Started before, and forgotten by a crash before the status was written.
                Err(error) if error.is_already_exists() => status.last_schedule_time = Some(Time(due)),
                Err(error) if error.is_namespace_terminating() => return Ok(Outcome::Done),
                Err(error) => {
                    let message = format!("Error creating job: {}", message_of(&error));
                    recorder.warning(&about, "FailedCreate", message);
                    return Err(error);
                }
            }
        }
        self.write_status(cron, status).await?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::After))
    }

    async fn write_status(&self, cron: &CronJob, mut status: CronJobStatus) -> Result<(), kube::Error> {
        status.active = status.active.filter(|a| !a.is_empty());
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let key = ObjectKey::of(cron);
        let api = Api::<CronJob>::namespaced(self.context.client.clone(), &key.namespace);
        let mut cron = cron.clone();
        cron.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &cron).await {
            Ok(written) => {
                self.crons.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
