//! Keeps the newest status of every pod and brings it to the API server.
//!
//! One writer task a pod, alive only while there is something to write; versions say whether there is.
//! **Invariants:** writes of one pod are never reordered; a pod's object is deleted only after its final status
//! is written, its containers are gone and its volumes are unmounted ([`Stage::Finished`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use machinery::clock::Clock;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::containers::{ended, last_terminated, terminated};
use super::patch;
use crate::pod::{PodExt, is_terminal};
use crate::pods::mirror::Mirrors;

/// How far the pod's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Something of it runs, or may.
    MayRun,
    /// No container of it will run again.
    Stopped,
    /// Its volumes and cgroups are gone too.
    Finished,
}

pub struct StatusManager {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    mirrors: Arc<Mirrors>,
    entries: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    /// The newest copy of the object that has been seen.
    pod: Arc<Pod>,
    status: PodStatus,
    stage: Stage,
    version: u64,
    sent: u64,
    writing: bool,
}

/// What a writer has to do.
struct Job {
    pod: Arc<Pod>,
    status: PodStatus,
    stage: Stage,
    version: u64,
}

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);

impl StatusManager {
    pub fn new(
        client: kube::Client,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
        mirrors: Arc<Mirrors>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            clock,
            tasks,
            mirrors,
            entries: Mutex::default(),
        })
    }

    /// The newest status the kubelet has decided.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.entries.lock().get(uid).map(|e| e.status.clone())
    }

    /// Takes a decided status; returns whether it differs from the one before.
    pub fn set(self: &Arc<Self>, pod: &Arc<Pod>, mut status: PodStatus, stage: Stage) -> bool {
        let mut entries = self.entries.lock();
        let uid = pod.uid().to_owned();
        let old = entries
            .get(&uid)
            .map_or_else(|| pod.status().clone(), |e| e.status.clone());
        patch::normalize(pod, &mut status, &old, self.clock.now());
        let entry = entries.entry(uid.clone()).or_insert_with(|| Entry {
            pod: pod.clone(),
            status: old.clone(),
            stage: Stage::MayRun,
            version: 0,
            sent: 0,
            writing: false,
        });
        if newer(pod, &entry.pod) {
            entry.pod = pod.clone();
        }
        // What has ended does not begin again.
        let stage = stage.max(entry.stage);
        if entry.version > 0 && entry.status == status && entry.stage == stage {
            return false;
        }
        entry.status = status;
        entry.stage = stage;
        entry.version += 1;
        self.start_writer(&uid, entry);
        true
    }

    /// The pod's worker is through: containers whose end nobody saw are marked, and the phase becomes final.
    pub fn finish(self: &Arc<Self>, pod: &Arc<Pod>) {
        let mut status = self.get(pod.uid()).unwrap_or_else(|| pod.status().clone());
        if has_initialized(pod, &status) {
            mark_lost(status.container_statuses.iter_mut().flatten());
        }
        let statuses = status.init_container_statuses.as_deref_mut().unwrap_or_default();
        let known = initialized(statuses);
        mark_lost(statuses[..known].iter_mut());
        if !pod.is_static() && !is_terminal(status.phase.as_deref().unwrap_or_default()) {
            status.phase = Some("Failed".to_owned());
        }
        self.set(pod, status, Stage::Finished);
    }

    /// The API server shows the pod like this now.
    pub fn observe(self: &Arc<Self>, pod: &Arc<Pod>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(pod.uid()) else {
            return;
        };
        if newer(pod, &entry.pod) {
            entry.pod = pod.clone();
        }
        if entry.version > entry.sent {
            return;
        }
        let merged = patch::merge(pod, pod.status(), &entry.status, entry.stage == Stage::MayRun);
        let differs = patch::patch(pod.uid(), pod.status(), &merged).is_some();
        if differs || (pod.is_deleting() && entry.stage == Stage::Finished) {
            entry.version += 1;
            let uid = pod.uid().to_owned();
            self.start_writer(&uid, entry);
        }
    }

    /// The mirror of a static pod is there, or shows something: what it should show is written again.
    pub fn observe_mirror(self: &Arc<Self>, uid: &str) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return };
        let Some(mirror) = self.mirrors.of(&entry.pod) else {
            return;
        };
        let may_run = entry.stage == Stage::MayRun;
        let wanted = patch::merge(&mirror, mirror.status(), &entry.status, may_run);
        if patch::patch(mirror.uid(), mirror.status(), &wanted).is_some() {
            entry.version += 1;
            self.start_writer(uid, entry);
        }
    }

    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    fn start_writer(self: &Arc<Self>, uid: &str, entry: &mut Entry) {
        if entry.writing {
            return;
        }
        entry.writing = true;
        let manager = self.clone();
        let uid = uid.to_owned();
        self.tasks.spawn(async move { manager.write_all(&uid).await });
    }

    async fn write_all(self: Arc<Self>, uid: &str) {
        let mut delay = RETRY_FIRST;
        while let Some(job) = self.next_job(uid) {
            match self.write(uid, &job).await {
                Ok(()) => {
                    delay = RETRY_FIRST;
                    if let Some(entry) = self.entries.lock().get_mut(uid) {
                        entry.sent = entry.sent.max(job.version);
                    }
                }
                Err(error) => {
                    tracing::warn!(pod = job.pod.describe(), %error, "cannot write a pod's status, will retry");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MOST);
                }
            }
        }
    }

    fn next_job(&self, uid: &str) -> Option<Job> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(uid)?;
        if entry.sent >= entry.version {
            entry.writing = false;
            return None;
        }
        Some(Job {
            pod: entry.pod.clone(),
            status: entry.status.clone(),
            stage: entry.stage,
            version: entry.version,
        })
    }

    async fn write(&self, uid: &str, job: &Job) -> Result<(), kube::Error> {
        if job.pod.is_static() {
            return self.write_mirror(job).await;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), job.pod.namespace());
        let written = job.pod.status();
        let merged = patch::merge(&job.pod, written, &job.status, job.stage == Stage::MayRun);
        let mut pod = job.pod.clone();
        if let Some(change) = patch::patch(uid, written, &merged) {
            let answer = api
                .patch_status(job.pod.name(), &PatchParams::default(), &Patch::Strategic(change))
                .await;
            match answer {
                Ok(answer) => {
                    pod = Arc::new(answer);
                    if let Some(entry) = self.entries.lock().get_mut(uid)
                        && newer(&pod, &entry.pod)
                    {
                        entry.pod = pod.clone();
                    }
                }
                Err(error) if gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let deletable = pod.is_deleting() && is_terminal(pod.phase()) && job.stage == Stage::Finished;
        if deletable {
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(uid.to_owned()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(pod.name(), &parameters).await {
                Ok(_) => {}
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl StatusManager {
    /// A static pod's status stands in its mirror; without one there is nothing to write to yet.
    async fn write_mirror(&self, job: &Job) -> Result<(), kube::Error> {
        let Some(mirror) = self.mirrors.of(&job.pod) else {
            return Ok(());
        };
        let merged = patch::merge(&mirror, mirror.status(), &job.status, job.stage == Stage::MayRun);
        let Some(change) = patch::patch(mirror.uid(), mirror.status(), &merged) else {
            return Ok(());
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), mirror.namespace());
        match api
            .patch_status(mirror.name(), &PatchParams::default(), &Patch::Strategic(change))
            .await
        {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The object is not there any more, or is another one of the same name.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409 && !status.message.contains("modified"))
}

fn newer(a: &Pod, b: &Pod) -> bool {
    let version = |pod: &Pod| {
        pod.metadata
            .resource_version
            .as_deref()
            .and_then(|v| v.parse::<u64>().ok())
    };
    match (version(a), version(b)) {
        (Some(a), Some(b)) => a > b,
        _ => true,
    }
}

fn mark_lost<'a>(statuses: impl Iterator<Item = &'a mut ContainerStatus>) {
    for status in statuses.filter(|s| terminated(s).is_none()) {
        let message = "The container could not be located when the pod was terminated";
        status.state = Some(ended("ContainerStatusUnknown", message.to_owned(), 137));
    }
}

fn has_initialized(pod: &Pod, status: &PodStatus) -> bool {
    if pod.init_containers().is_empty() {
        return true;
    }
    let moved = |s: &ContainerStatus| {
        last_terminated(s).is_some() || s.state.as_ref().is_none_or(|state| state.waiting.is_none())
    };
    if status.container_statuses.iter().flatten().any(moved) {
        return true;
    }
    status
        .init_container_statuses
        .iter()
        .flatten()
        .next_back()
        .is_some_and(|s| {
            s.started == Some(true)
                || [terminated(s), last_terminated(s)]
                    .into_iter()
                    .flatten()
                    .any(|t| t.exit_code == 0)
        })
}

/// How many init containers, from the first, have ever run; at least one.
fn initialized(statuses: &[ContainerStatus]) -> usize {
    statuses
        .iter()
        .rposition(|s| {
            last_terminated(s).is_some() || s.state.as_ref().is_none_or(|state| state.waiting.is_none())
        })
        .map_or(statuses.len().min(1), |i| i + 1)
}
