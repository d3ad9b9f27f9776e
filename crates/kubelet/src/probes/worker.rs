//! The tasks that probe one pod's containers.
//!
//! A task sleeps until its next probe is due or the pod's status changes; on hold it waits for the latter alone.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus, Probe};
use machinery::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::machine::{Machine, Step, View};
use super::results::{ProbeKind, Results};
use super::run::{self, Target};
use crate::events::Events;
use crate::pod::{PodExt, container_status, is_sidecar, is_terminal, should_restart};
use crate::runtime::client::Runtime;
use crate::status::containers::{bare_id, terminated};

/// What probes need of the node.
#[derive(Clone)]
pub struct ProbeContext {
    pub runtime: Runtime,
    pub events: Events,
    pub clock: Arc<dyn Clock>,
    pub kubelet_started: Timestamp,
}

/// The pod as its worker last saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
}

/// One pod's probes.
pub struct Prober {
    context: ProbeContext,
    pub results: Arc<Results>,
    seen: watch::Sender<Option<Seen>>,
    wake: Arc<dyn Fn() + Send + Sync>,
    tasks: HashMap<(String, ProbeKind), CancellationToken>,
}

impl Prober {
    /// `wake` is called when a result is news.
    pub fn new(context: ProbeContext, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            context,
            results: Arc::default(),
            seen: watch::Sender::new(None),
            wake,
            tasks: HashMap::new(),
        }
    }

    /// Starts what the spec asks for and is not there yet.
    pub fn start(&mut self, pod: &Pod) {
        let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
        for container in pod.containers().iter().chain(sidecars) {
            for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
                let key = (container.name.clone(), kind);
                let Some(spec) = spec_of(container, kind) else {
                    continue;
                };
                if self.tasks.contains_key(&key) {
                    continue;
                }
                let stop = CancellationToken::new();
                self.tasks.insert(key, stop.clone());
                let task = Task {
                    context: self.context.clone(),
                    results: self.results.clone(),
                    wake: self.wake.clone(),
                    machine: Machine::new(kind, spec, is_sidecar(container), self.context.kubelet_started),
                    kind,
                    name: container.name.clone(),
                };
                let seen = self.seen.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = task.run(seen) => {}
                    }
                });
            }
        }
    }

    /// Tells the tasks how the pod is now.
    pub fn observe(&self, pod: &Arc<Pod>, status: &PodStatus) {
        self.seen.send_replace(Some(Seen {
            pod: pod.clone(),
            status: Arc::new(status.clone()),
        }));
    }

    /// A pod that ends is not killed for being unhealthy, but still shows whether it is ready.
    pub fn stop_liveness_and_startup(&mut self) {
        self.stop_where(|kind| kind != ProbeKind::Readiness);
    }

    pub fn stop(&mut self) {
        self.stop_where(|_| true);
    }

    fn stop_where(&mut self, chosen: impl Fn(ProbeKind) -> bool) {
        self.tasks.retain(|(_, kind), stop| {
            let ends = chosen(*kind);
            if ends {
                stop.cancel();
            }
            !ends
        });
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Task {
    context: ProbeContext,
    results: Arc<Results>,
    wake: Arc<dyn Fn() + Send + Sync>,
    machine: Machine,
    kind: ProbeKind,
    name: String,
}

impl Task {
    async fn run(mut self, mut seen: watch::Receiver<Option<Seen>>) {
        let mut known = (String::new(), false);
        loop {
            let now = self.context.clock.now();
            let current = seen.borrow_and_update().clone();
            let Some((current, container)) = current.and_then(|s| {
                let container = s.pod.find_container(&self.name)?.1.into_owned();
                Some((s, container))
            }) else {
                if seen.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let view = view(&current, &container);
            // Something about the container changed: readiness is asked for at once.
            let state = (view.container_id.clone(), view.started);
            if self.kind == ProbeKind::Readiness && state != known {
                self.machine.hurry();
            }
            known = state;
            let before = self.machine.container_id().to_owned();
            let (publish, step) = self.machine.look(&view, now);
            if !before.is_empty() && before != self.machine.container_id() {
                self.results.remove(self.kind, &before);
            }
            self.publish(publish);
            match step {
                Step::Stop => return,
                Step::Hold => {
                    if seen.changed().await.is_err() {
                        return;
                    }
                }
                Step::At(due) => {
                    tokio::select! {
                        () = tokio::time::sleep(Machine::wait(due, now)) => {}
                        changed = seen.changed() => if changed.is_err() { return },
                    }
                }
                Step::Probe => self.probe(&current, &container, &view.container_id).await,
            }
        }
    }

    async fn probe(&mut self, seen: &Seen, container: &Container, id: &str) {
        let Some(spec) = spec_of(container, self.kind) else {
            return;
        };
        let target = Target {
            pod: &seen.pod,
            container,
            container_id: id,
            pod_ip: seen.status.pod_ip.as_deref().unwrap_or_default(),
        };
        let outcome = run::probe(
            &self.context.runtime,
            &self.context.events,
            self.kind,
            spec,
            &target,
        )
        .await;
        let now = self.context.clock.now();
        let publish = match outcome {
            Some(outcome) => self.machine.done(outcome, now),
            None => {
                self.machine.failed_to_run(now);
                None
            }
        };
        self.publish(publish);
    }

    fn publish(&self, publish: Option<super::machine::Publish>) {
        if let Some(publish) = publish
            && self
                .results
                .set(self.kind, &publish.container_id, publish.outcome)
        {
            (self.wake)();
        }
    }
}

fn spec_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

fn view(seen: &Seen, container: &Container) -> View {
    let find = |list: &Option<Vec<ContainerStatus>>| {
        container_status(list.as_deref().unwrap_or_default(), &container.name)
            .filter(|s| s.container_id.as_ref().is_some_and(|id| !id.is_empty()))
            .cloned()
    };
    let found = find(&seen.status.container_statuses).or_else(|| find(&seen.status.init_container_statuses));
    let ended = is_terminal(seen.status.phase.as_deref().unwrap_or_default());
    let Some(found) = found else {
        return View {
            ended,
            deleting: seen.pod.is_deleting(),
            container_id: String::new(),
            running_since: None,
            over: false,
            started: false,
        };
    };
    let running = found.state.as_ref().and_then(|s| s.running.as_ref());
    View {
        ended,
        deleting: seen.pod.is_deleting(),
        container_id: bare_id(found.container_id.as_deref().unwrap_or_default()).to_owned(),
        running_since: running.map(|r| r.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)),
        over: terminated(&found)
            .is_some_and(|end| !should_restart(container, seen.pod.restart_policy(), end.exit_code)),
        started: found.started == Some(true),
    }
}
