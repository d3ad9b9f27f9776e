//! A look at a running pod, and what follows from it.
//!
//! Thin: deciding is [`super::actions`]. Follows the order of upstream's `SyncPod`: status, network, groups,
//! volumes, credentials, probes, then kill, sandbox, ephemeral, init and regular containers.

use std::collections::BTreeMap;
use std::time::Duration;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodStatus as ApiStatus};
use tokio_util::sync::CancellationToken;

use super::actions::{self, Actions};
use super::resize::Resized;
use super::start::{self, Refusal, Stage as StartStage};
use super::worker::{Command, End, Next, PodWorker, State};
use super::{kill, orphans};
use crate::backoff::plus;
use crate::downward::PodFacts;
use crate::error::{Error, Result};
use crate::pod::{PodExt, condition, is_sidecar, is_terminal};
use crate::runtime::status::{PodStatus, State as ContainerState};
use crate::status::manager::Stage;
use crate::volumes::manager as volumes;

/// A container whose start failed for no reason with a time of its own.
const RETRY_START: Duration = Duration::from_secs(10);
/// Reason of a pod whose devices cannot be had.
const UNEXPECTED: &str = "UnexpectedAdmissionError";
const NETWORK_NOT_READY: &str = "network is not ready";

impl PodWorker {
    pub(super) async fn sync(&mut self, ending: &CancellationToken) -> Result<Next> {
        let runtime = self.refresh().await?;
        self.note_resize(&runtime);
        let deadline = self.deadline();
        let status = self.generate(&runtime, false);
        self.publish(&status, Stage::MayRun);
        if is_terminal(status.phase.as_deref().unwrap_or_default()) {
            self.state = State::Terminating;
            return Ok(Next::Now);
        }
        let deadline = deadline.filter(|at| *at > self.node.clock.now());
        orphans::collect_dead(&self.node, &self.pod, &runtime).await;
        if let Some(retry_at) = self.blocked(&runtime) {
            return Ok(Next::At(retry_at).or(deadline));
        }
        self.prepare(&status).await?;
        if ending.is_cancelled() {
            return Ok(Next::Now);
        }
        let node = self.node.clone();
        let pod = self.pod.clone();
        let ips = api_ips(&status);
        let facts = PodFacts {
            pod: &pod,
            pod_ips: &ips,
            host_ips: node.host_ips(),
            allocatable: node.allocatable(),
        };
        let mut stale_until = None;
        let failures = self.volumes.set_up(&node, &facts).await;
        if !failures.is_empty() {
            for failure in &failures {
                let text = failure.error.full();
                node.events.pod(&pod).warning(
                    "FailedMount",
                    format!(
                        "MountVolume.SetUp failed for volume {:?} : {text}",
                        failure.volume
                    ),
                );
            }
            // A volume that is there stays as it was until it can be brought up to date.
            let retry_at = self.retry_at();
            if failures.iter().any(|f| self.volumes.path(&f.volume).is_none()) {
                return Ok(Next::At(retry_at).or(deadline));
            }
            stale_until = Some(retry_at);
        }
        if let Err(problem) = node.devices.allocate(&pod).await
            && runtime.containers.is_empty()
        {
            let message = format!("Allocate failed due to {problem}, which is unexpected");
            node.events.pod(&pod).warning(UNEXPECTED, message.clone());
            self.apply(Command::End(End {
                reason: UNEXPECTED.to_owned(),
                message: format!("Pod was rejected: {message}"),
                grace: None,
                disruption: false,
            }));
            return Ok(Next::Now);
        }
        self.prober.start(&pod);
        let restart_all = condition(&status, "AllContainersRestarting").is_some_and(|c| c.status == "True");
        let actuated = node.allocations.actuated(pod.uid());
        let actions = actions::compute(
            &pod,
            &runtime,
            &self.prober.results.snapshot(),
            restart_all,
            &actuated,
        );
        let next = self.carry_out(actions, runtime, ending).await?;
        if stale_until.is_none() {
            self.errors = 0;
        }
        Ok(next.or(deadline).or(self.volumes.refresh_at()).or(stale_until))
    }

    /// When to ask again, if the network cannot take the pod now. A pod that has its network needs no other.
    fn blocked(&mut self, runtime: &PodStatus) -> Option<Timestamp> {
        if self.pod.host_network() || runtime.active_sandbox().is_some() {
            return None;
        }
        let network = self.node.state.read().network_error.clone()?;
        self.node
            .events
            .pod(&self.pod)
            .warning("NetworkNotReady", format!("{NETWORK_NOT_READY}: {network}"));
        Some(self.retry_at())
    }

    /// Groups, directories, references.
    async fn prepare(&mut self, _: &ApiStatus) -> Result<()> {
        let (node, pod) = (self.node.clone(), self.pod.clone());
        let events = node.events.pod(&pod);
        if let Some(groups) = &node.cgroups {
            groups.ensure(&pod).inspect_err(|error| {
                let text = format!("unable to ensure pod container exists: {}", error.full());
                events.warning("FailedCreatePodContainer", text);
            })?;
        }
        let dir = node.paths.volumes(pod.uid());
        std::fs::create_dir_all(&dir)
            .map_err(Error::file("create", &dir))
            .inspect_err(|error| {
                events.warning(
                    "Failed",
                    format!("error making pod data directories: {}", error.full()),
                );
            })?;
        if self.referred != pod.metadata.resource_version || self.referred.is_none() {
            let references = volumes::references(&pod);
            node.config_maps.refer(pod.uid(), &references.config_maps);
            node.secrets.refer(pod.uid(), &references.secrets);
            self.referred = pod.metadata.resource_version.clone();
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        actions: Actions,
        runtime: PodStatus,
        ending: &CancellationToken,
    ) -> Result<Next> {
        let (node, pod) = (self.node.clone(), self.pod.clone());
        if actions.create_sandbox && actions.sandbox_id.is_some() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            node.events.pod(&pod).normal("SandboxChanged", message);
        }
        if actions.kill_pod {
            if runtime.is_running() {
                kill::pod(&node, &pod, &runtime, None).await?;
            }
            if !actions.create_sandbox {
                return Ok(if runtime.is_running() {
                    Next::Now
                } else {
                    Next::Idle
                });
            }
            // They did their work for another sandbox.
            let names: Vec<&str> = pod.init_containers().iter().map(|c| c.name.as_str()).collect();
            for found in runtime
                .containers
                .iter()
                .filter(|c| names.contains(&c.name.as_str()))
            {
                orphans::remove_container(&node, &found.id, &found.log_path).await?;
            }
        }
        let ip = runtime.ips.first().cloned().unwrap_or_default();
        for wanted in &actions.to_kill {
            let victim = kill::Victim {
                id: &wanted.id,
                name: &wanted.name,
                message: &wanted.message,
                reason: wanted.reason,
                grace: None,
            };
            tokio::select! {
                killed = kill::container(&node, &pod, &ip, &victim, None) => killed?,
                () = ending.cancelled() => return Ok(Next::Now),
            }
        }
        for reset in &actions.to_reset {
            if reset.kill {
                let victim = kill::Victim {
                    id: &reset.id,
                    name: &reset.name,
                    message: "killing",
                    reason: actions::KillReason::RestartAllContainers,
                    grace: Some(0),
                };
                kill::container(&node, &pod, &ip, &victim, None).await?;
            }
            node.runtime.remove_container(&reset.id).await?;
        }
        if !actions.to_reset.is_empty() || ending.is_cancelled() {
            return Ok(Next::Now);
        }
        if actions.create_sandbox {
            return self.create_sandbox(actions.attempt).await;
        }
        let resized = self.resize(&actions, &runtime).await;
        let next = self.start_containers(&actions, &runtime, ending).await?;
        Ok(match resized {
            Resized::Nothing => next,
            Resized::Done => Next::Now,
            Resized::RetryAt(at) => next.or(Some(at)),
        })
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<Next> {
        if let Err(error) = start::sandbox(&self.node, &self.pod, attempt).await {
            let text = format!("Failed to create pod sandbox: {}", error.full());
            self.node
                .events
                .pod(&self.pod)
                .warning("FailedCreatePodSandBox", text);
            return Err(error);
        }
        // Looking again shows the addresses before any container starts.
        Ok(Next::Now)
    }

    async fn start_containers(
        &mut self,
        actions: &Actions,
        runtime: &PodStatus,
        ending: &CancellationToken,
    ) -> Result<Next> {
        let (node, pod) = (self.node.clone(), self.pod.clone());
        if actions.ephemeral_to_start.is_empty()
            && actions.init_to_start.is_empty()
            && actions.to_start.is_empty()
        {
            return Ok(if actions.to_kill.is_empty() {
                Next::Idle
            } else {
                Next::Now
            });
        }
        let Some(sandbox_id) = actions.sandbox_id.as_deref() else {
            return Ok(Next::Now);
        };
        let sandbox = start::sandbox_config(&node, &pod, actions.attempt)?;
        let keyring = start::keyring(&node, &pod).await;
        let image_volumes = self.image_volumes(&sandbox, &keyring).await;
        let volumes = std::mem::take(&mut self.volumes);
        let stage = StartStage {
            node: &node,
            pod: &pod,
            status: runtime,
            sandbox_id,
            sandbox: &sandbox,
            volumes: &volumes,
            keyring: &keyring,
            image_volumes: &image_volumes,
        };
        let mut outcome = Outcome::default();
        self.start_all(&stage, actions, ending, &mut outcome).await;
        self.volumes = volumes;
        Ok(if outcome.progress {
            Next::Now
        } else {
            Next::Idle.or(outcome.retry_at)
        })
    }

    async fn start_all(
        &mut self,
        stage: &StartStage<'_>,
        actions: &Actions,
        ending: &CancellationToken,
        outcome: &mut Outcome,
    ) {
        let pod = self.pod.clone();
        for index in &actions.ephemeral_to_start {
            let (container, target) = start::ephemeral(&pod.ephemeral_containers()[*index]);
            self.start_one(stage, &container, target.as_deref(), ending, outcome)
                .await;
        }
        for index in &actions.init_to_start {
            let container = &pod.init_containers()[*index];
            let started = self.start_one(stage, container, None, ending, outcome).await;
            if !started && !is_sidecar(container) {
                return;
            }
        }
        for index in &actions.to_start {
            self.start_one(stage, &pod.containers()[*index], None, ending, outcome)
                .await;
        }
    }

    async fn start_one(
        &mut self,
        stage: &StartStage<'_>,
        container: &Container,
        target: Option<&str>,
        ending: &CancellationToken,
        outcome: &mut Outcome,
    ) -> bool {
        if ending.is_cancelled() {
            return false;
        }
        let result = match self
            .held(container)
            .map_or_else(|| self.crash_back_off(stage, container), Err)
        {
            Err(refusal) => Err(refusal),
            Ok(()) => tokio::select! {
                result = stage.container(container, target) => result,
                () = ending.cancelled() => return false,
            },
        };
        match result {
            Ok(()) => {
                self.reasons.remove(&container.name);
                self.held.remove(&container.name);
                outcome.progress = true;
                true
            }
            Err(refusal) => {
                let now = self.node.clock.now();
                let image = container.image.clone().unwrap_or_default();
                self.held.insert(container.name.clone(), (image, refusal.clone()));
                let retry_at = refusal.retry_at.unwrap_or_else(|| plus(now, RETRY_START));
                outcome.retry_at = Some(outcome.retry_at.map_or(retry_at, |at| at.min(retry_at)));
                let reason = (refusal.reason.to_owned(), refusal.message);
                let news = self.reasons.get(&container.name) != Some(&reason);
                outcome.progress |= news;
                self.reasons.insert(container.name.clone(), reason);
                false
            }
        }
    }

    /// The refusal that still holds: waiting is said once, not at every look.
    fn held(&self, container: &Container) -> Option<Refusal> {
        let (image, refusal) = self.held.get(&container.name)?;
        let waits = matches!(refusal.reason, "CrashLoopBackOff" | "ImagePullBackOff");
        let holds = refusal.retry_at.is_some_and(|at| self.node.clock.now() < at);
        (waits && holds && Some(image) == container.image.as_ref()).then(|| refusal.clone())
    }

    /// A container that ended a short while ago waits.
    fn crash_back_off(&self, stage: &StartStage<'_>, container: &Container) -> Result<(), Refusal> {
        let ended = stage
            .status
            .containers
            .iter()
            .find(|c| c.name == container.name && c.state == ContainerState::Exited);
        let Some(ended) = ended else { return Ok(()) };
        let key = (self.pod.uid().to_owned(), container.name.clone());
        let now = self.node.clock.now();
        let crashes = &self.node.crashes;
        let Some(retry_at) = crashes.waiting_since(&key, ended.finished_at, now) else {
            crashes.next(key, ended.finished_at, now);
            return Ok(());
        };
        let describe = self.pod.describe();
        let message = format!(
            "Back-off restarting failed container {} in pod {describe}",
            container.name
        );
        self.node
            .events
            .container(&self.pod, container)
            .warning("BackOff", message);
        let delay = go_seconds(crashes.delay(&key));
        Err(Refusal {
            reason: "CrashLoopBackOff",
            message: format!(
                "back-off {delay} restarting failed container={} pod={describe}",
                container.name
            ),
            retry_at: Some(retry_at),
        })
    }

    /// Pulls what `image` volumes name.
    async fn image_volumes(
        &self,
        sandbox: &v1::PodSandboxConfig,
        keyring: &Result<crate::images::credentials::Keyring, String>,
    ) -> BTreeMap<String, Result<v1::ImageSpec, Refusal>> {
        let mut found = BTreeMap::new();
        for volume in self.pod.spec().volumes.iter().flatten() {
            let Some(image) = &volume.image else { continue };
            let as_container = Container {
                name: volume.name.clone(),
                image: image.reference.clone(),
                image_pull_policy: image.pull_policy.clone(),
                ..Container::default()
            };
            let result = self
                .node
                .images
                .ensure(&self.pod, &as_container, keyring, sandbox)
                .await;
            let result = result
                .map(|present| v1::ImageSpec {
                    image: present.image_ref,
                    user_specified_image: image.reference.clone().unwrap_or_default(),
                    ..v1::ImageSpec::default()
                })
                .map_err(|e| Refusal {
                    reason: e.reason,
                    message: e.message,
                    retry_at: e.retry_at,
                });
            found.insert(volume.name.clone(), result);
        }
        found
    }
}

#[derive(Default)]
struct Outcome {
    progress: bool,
    retry_at: Option<Timestamp>,
}

fn api_ips(status: &ApiStatus) -> Vec<String> {
    status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
}

/// `10s`, `1m20s`, `5m0s`: as Go prints whole seconds.
fn go_seconds(delay: Duration) -> String {
    let seconds = delay.as_secs();
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}
