//! The worker of one pod: waits for something to happen, looks at the whole pod, does what is due.
//!
//! **Invariant:** while a worker is busy it still hears; what ends the pod interrupts starting (between calls to
//! the runtime), and a shorter grace period interrupts killing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus as ApiStatus};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::start::Refusal;
use super::{kill, orphans};
use crate::backoff::{plus, since};
use crate::error::Result;
use crate::node::context::NodeContext;
use crate::pod::{PodExt, is_terminal};
use crate::probes::worker::Prober;
use crate::runtime::status::{ContainerStatus, PodStatus, State as ContainerState};
use crate::runtime::termination_message;
use crate::status::generate::{self, Inputs};
use crate::status::manager::Stage;
use crate::volumes::manager::{self as volumes, PodVolumes};

/// What a worker is told.
#[derive(Clone, Debug)]
pub enum Command {
    /// The object is like this now.
    Pod(Arc<Pod>),
    /// Something about the pod may have changed.
    Look,
    /// The kubelet ends the pod.
    End(End),
    /// The object is gone.
    Gone,
}

#[derive(Clone, Debug)]
pub struct End {
    pub reason: String,
    pub message: String,
    pub grace: Option<i64>,
    /// The node needs it, not the pod's own doing: shown as `DisruptionTarget`.
    pub disruption: bool,
}

/// Where a pod is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Terminating,
    Terminated,
    Finished,
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Now,
    At(Timestamp),
    /// When something happens.
    Idle,
}

impl Next {
    /// The earlier of both.
    pub fn or(self, other: Option<Timestamp>) -> Self {
        match (self, other) {
            (Self::Idle, Some(at)) => Self::At(at),
            (Self::At(a), Some(b)) => Self::At(a.min(b)),
            (next, _) => next,
        }
    }
}

pub struct PodWorker {
    pub(super) node: Arc<NodeContext>,
    pub(super) pod: Arc<Pod>,
    pub(super) state: State,
    pub(super) volumes: PodVolumes,
    pub(super) prober: Prober,
    /// Why containers could not be started, by name.
    pub(super) reasons: HashMap<String, (String, String)>,
    /// Starts that wait for their time: image and refusal, by container name.
    pub(super) held: HashMap<String, (String, Refusal)>,
    /// References were told for this version of the object.
    pub(super) referred: Option<String>,
    pub(super) errors: u32,
    /// The kubelet's own verdict: reason and message.
    failed: Option<(String, String)>,
    disrupted: bool,
    grace: Option<i64>,
    gone: bool,
    /// Exited containers whose messages are complete.
    ended: HashMap<String, ContainerStatus>,
    seen: watch::Sender<Arc<PodStatus>>,
}

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(10);

impl PodWorker {
    pub fn new(
        node: Arc<NodeContext>,
        pod: Arc<Pod>,
        prober: Prober,
        seen: watch::Sender<Arc<PodStatus>>,
    ) -> Self {
        Self {
            node,
            pod,
            state: State::Running,
            volumes: PodVolumes::default(),
            prober,
            reasons: HashMap::new(),
            held: HashMap::new(),
            referred: None,
            errors: 0,
            failed: None,
            disrupted: false,
            grace: None,
            gone: false,
            ended: HashMap::new(),
            seen,
        }
    }

    /// A pod that was refused: it never runs, and shows why.
    pub fn refuse(&mut self, reason: &str, message: &str) {
        self.state = State::Finished;
        let status = ApiStatus {
            phase: Some("Failed".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            qos_class: Some(crate::qos::class(&self.pod).as_str().to_owned()),
            observed_generation: self.pod.generation(),
            conditions: self.pod.status().conditions.clone(),
            ..ApiStatus::default()
        };
        self.node.status.set(&self.pod, status, Stage::Finished);
    }

    /// Runs until the pod is gone without a trace.
    pub async fn run(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        // A pod may come here on its way out.
        self.apply(Command::Look);
        let mut next = if self.state == State::Finished {
            Next::Idle
        } else {
            Next::Now
        };
        loop {
            let mut pending = Vec::new();
            match next {
                Next::Now => {}
                Next::At(at) => {
                    let wait = since(at, self.node.clock.now());
                    tokio::select! {
                        command = commands.recv() => match command {
                            Some(command) => pending.push(command),
                            // The kubelet is stopping; the pod lives on.
                            None => return,
                        },
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Next::Idle => match commands.recv().await {
                    Some(command) => pending.push(command),
                    None => return,
                },
            }
            if commands.is_closed() && commands.is_empty() {
                return;
            }
            while let Ok(command) = commands.try_recv() {
                pending.push(command);
            }
            pending.into_iter().for_each(|command| self.apply(command));
            if self.state == State::Finished {
                if self.gone && self.vanish().await {
                    return;
                }
                next = if self.gone {
                    Next::At(self.retry_at())
                } else {
                    Next::Idle
                };
                continue;
            }
            next = self.step(commands).await;
        }
    }

    /// Takes a command in.
    pub(super) fn apply(&mut self, command: Command) {
        match command {
            Command::Look => {}
            Command::Pod(pod) => self.pod = pod,
            Command::End(end) => {
                if self.failed.is_none() {
                    self.failed = Some((end.reason, end.message));
                    self.disrupted = end.disruption;
                }
                self.grace = match (self.grace, end.grace) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            Command::Gone => self.gone = true,
        }
        let ends =
            self.pod.is_deleting() || self.gone || self.failed.is_some() || is_terminal(self.pod.phase());
        if ends && self.state == State::Running {
            self.state = State::Terminating;
        }
    }

    /// One look, with an ear open.
    async fn step(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Next {
        let mut pending = Vec::new();
        let grace = self.effective_grace();
        let running = self.state == State::Running;
        let terminating = self.state == State::Terminating;
        let ending = CancellationToken::new();
        let mut next = {
            let look = self.look(&ending);
            tokio::pin!(look);
            loop {
                tokio::select! {
                    next = &mut look => break next,
                    Some(command) = commands.recv() => {
                        if running && ends(&command) {
                            ending.cancel();
                        }
                        let shorter = terminating && shortens(&command, grace);
                        pending.push(command);
                        if shorter {
                            break Next::Now;
                        }
                    }
                }
            }
        };
        if !pending.is_empty() {
            next = Next::Now;
        }
        pending.into_iter().for_each(|command| self.apply(command));
        next
    }

    async fn look(&mut self, ending: &CancellationToken) -> Next {
        let result = match self.state {
            State::Running => self.sync(ending).await,
            State::Terminating => self.terminate().await,
            State::Terminated => self.clean_up().await,
            State::Finished => Ok(Next::Idle),
        };
        match result {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(pod = self.pod.describe(), state = ?self.state, error = error.full(), "cannot sync a pod, will retry");
                Next::At(self.retry_at())
            }
        }
    }

    pub(super) fn retry_at(&mut self) -> Timestamp {
        let delay = (RETRY_FIRST * 2u32.saturating_pow(self.errors.min(8))).min(RETRY_MOST);
        self.errors += 1;
        plus(self.node.clock.now(), delay)
    }

    /// Asks the runtime, completes messages, tells who follows.
    pub(super) async fn refresh(&mut self) -> Result<PodStatus> {
        let pod = &self.pod;
        let mut status = self
            .node
            .runtime
            .pod_status(pod.uid(), pod.name(), pod.namespace())
            .await?;
        let present: Vec<String> = status.containers.iter().map(|c| c.id.clone()).collect();
        self.ended.retain(|id, _| present.contains(id));
        for container in status
            .containers
            .iter_mut()
            .filter(|c| c.state == ContainerState::Exited)
        {
            match self.ended.get(&container.id) {
                Some(known) => *container = known.clone(),
                None => {
                    termination_message::complete(container);
                    self.ended.insert(container.id.clone(), container.clone());
                }
            }
        }
        self.seen.send_replace(Arc::new(status.clone()));
        Ok(status)
    }

    /// The status as things are.
    pub(super) fn generate(&self, runtime: &PodStatus, terminal: bool) -> ApiStatus {
        let old = self
            .node
            .status
            .get(self.pod.uid())
            .unwrap_or_else(|| self.pod.status().clone());
        let failed = self
            .failed
            .as_ref()
            .map(|(reason, message)| (reason.as_str(), message.as_str()));
        let mut status = generate::generate(&Inputs {
            pod: &self.pod,
            runtime,
            runtime_name: self.node.runtime.name(),
            probes: &self.prober.results.snapshot(),
            old: &old,
            reasons: &self.reasons,
            host_ips: self.node.host_ips(),
            failed,
            disrupted: self.disrupted,
            terminal,
            kubelet_started: self.node.started,
            actuated: &self.node.allocations.actuated(self.pod.uid()),
            resizes: self.node.allocations.conditions(self.pod.uid()),
        });
        if self.state != State::Running && status.pod_ip.is_none() {
            // The network went first; what the pod had is still what it had.
            status.pod_ip = old.pod_ip;
            status.pod_ips = old.pod_ips;
        }
        status
    }

    pub(super) fn publish(&self, status: &ApiStatus, stage: Stage) {
        self.node.status.set(&self.pod, status.clone(), stage);
        self.prober.observe(&self.pod, status);
    }

    /// When the pod's deadline is, and whether it is past.
    pub(super) fn deadline(&mut self) -> Option<Timestamp> {
        let seconds = u64::try_from(self.pod.spec().active_deadline_seconds?).ok()?;
        let known = self.node.status.get(self.pod.uid()).and_then(|s| s.start_time);
        let start = known.or_else(|| self.pod.status().start_time.clone())?;
        let deadline = plus(start.0, Duration::from_secs(seconds));
        if self.node.clock.now() >= deadline && self.failed.is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.node
                .events
                .pod(&self.pod)
                .normal("DeadlineExceeded", message);
            self.failed = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
        }
        Some(deadline)
    }

    fn effective_grace(&self) -> i64 {
        let grace = self
            .grace
            .unwrap_or_else(|| kill::grace(&self.pod, None, super::actions::KillReason::Unknown));
        grace.max(1)
    }

    async fn terminate(&mut self) -> Result<Next> {
        self.prober.stop_liveness_and_startup();
        let before = self.refresh().await?;
        let status = self.generate(&before, false);
        self.publish(&status, Stage::MayRun);
        if let Err(error) = kill::pod(&self.node, &self.pod, &before, self.grace).await {
            self.node
                .events
                .pod(&self.pod)
                .warning("FailedKillPod", format!("error killing pod: {}", error.full()));
            return Err(error);
        }
        self.prober.stop();
        let after = self.refresh().await?;
        if after.running().next().is_some() {
            return Ok(Next::At(self.retry_at()));
        }
        let status = self.generate(&after, true);
        self.publish(&status, Stage::Stopped);
        self.errors = 0;
        self.state = State::Terminated;
        Ok(Next::Now)
    }

    async fn clean_up(&mut self) -> Result<Next> {
        let evicted = |(reason, _): &(String, String)| reason == crate::eviction::REASON;
        if self.failed.as_ref().is_some_and(evicted) {
            // What it wrote goes with it: that is what it was evicted for.
            for found in self.refresh().await?.containers {
                self.node.runtime.remove_container(&found.id).await?;
            }
        }
        let (node, uid) = (self.node.clone(), self.pod.uid().to_owned());
        volumes::take_down(&node, &uid).await?;
        orphans::blocking(move || node.cgroups.as_ref().map_or(Ok(()), |groups| groups.remove(&uid))).await?;
        self.forget();
        self.node.status.finish(&self.pod);
        self.errors = 0;
        self.state = State::Finished;
        Ok(Next::Now)
    }

    fn forget(&self) {
        let uid = self.pod.uid();
        self.node.config_maps.refer(uid, &Default::default());
        self.node.secrets.refer(uid, &Default::default());
        self.node.tokens.forget(uid);
        self.node.allocations.forget(uid);
        self.node.devices.release(uid);
        self.node.images.forget(&self.pod);
        for (_, container) in self.pod.all_containers() {
            self.node
                .crashes
                .forget(&(uid.to_owned(), container.name.clone()));
        }
    }

    /// Removes the last traces; whether all went.
    async fn vanish(&mut self) -> bool {
        self.forget();
        let pod = &self.pod;
        match orphans::remove(&self.node, pod.uid(), pod.name(), pod.namespace()).await {
            Ok(()) => {
                self.node.status.forget(pod.uid());
                true
            }
            Err(error) => {
                tracing::warn!(
                    pod = pod.describe(),
                    error = error.full(),
                    "cannot remove what is left of a pod"
                );
                false
            }
        }
    }
}

fn ends(command: &Command) -> bool {
    match command {
        Command::Pod(pod) => pod.is_deleting() || is_terminal(pod.phase()),
        Command::End(_) | Command::Gone => true,
        Command::Look => false,
    }
}

/// Whether a command gives less time than the kill in progress.
fn shortens(command: &Command, grace: i64) -> bool {
    match command {
        Command::Pod(pod) => pod
            .metadata
            .deletion_grace_period_seconds
            .is_some_and(|g| g.max(1) < grace),
        Command::End(end) => end.grace.is_some_and(|g| g.max(1) < grace),
        Command::Look | Command::Gone => false,
    }
}
