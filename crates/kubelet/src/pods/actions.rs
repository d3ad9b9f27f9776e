//! What to do next for a pod: a pure function from its spec, the runtime's snapshot and the probes' results to
//! a list of actions.
//!
//! Follows upstream's `computePodActions`: a sandbox first; init containers one at a time in order, sidecars
//! among them staying; regular containers once all before them are done; a container whose liveness or startup
//! probe failed, or whose image changed, is killed and started again; a pod in which nothing can run any more
//! is killed. **Invariant:** whoever carries actions out asks again afterwards; nothing here waits.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::allocation::amounts::Amounts;
use crate::pod::{NEVER, ON_FAILURE, PodExt, is_sidecar, matching_rule};
use crate::probes::results::{Outcome, Snapshot};
use crate::runtime::labels;
use crate::runtime::status::{ContainerStatus, PodStatus, State};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Stop everything of the pod; with `create_sandbox`, to begin again.
    pub kill_pod: bool,
    pub create_sandbox: bool,
    pub sandbox_id: Option<String>,
    pub attempt: u32,
    /// Indices into the spec's lists, in the order of starting.
    pub init_to_start: Vec<usize>,
    pub to_start: Vec<usize>,
    pub ephemeral_to_start: Vec<usize>,
    pub to_kill: Vec<Kill>,
    /// Containers to remove because all restart in place.
    pub to_reset: Vec<Reset>,
    /// Containers whose resources change while they run, decreases first.
    pub to_update: Vec<Update>,
    /// A container is to start anew with other resources, so the pod's group changes too.
    pub resize_pod: bool,
}

/// A running container and the resources it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub id: String,
    pub name: String,
    pub from: Amounts,
    pub to: Amounts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    /// The text of the `Killing` event.
    pub message: String,
    pub reason: KillReason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    pub id: String,
    pub name: String,
    pub kill: bool,
}

/// Why a container is killed; decides its grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    StartupProbe,
    LivenessProbe,
    FailedPostStartHook,
    RestartAllContainers,
    Changed,
    Unknown,
}

/// Decides. `restart_all`: a rule of some container asked for all to restart in place.
/// `actuated`: the resources the runtime was last told, by container.
pub fn compute(
    pod: &Pod,
    status: &PodStatus,
    probes: &Snapshot,
    restart_all: bool,
    actuated: &HashMap<String, Amounts>,
) -> Actions {
    let need = status.sandbox_changed(pod);
    let mut actions = Actions {
        kill_pod: need.create,
        create_sandbox: need.create,
        sandbox_id: need.id,
        attempt: need.attempt,
        ..Actions::default()
    };
    if restart_all {
        reset_all(pod, status, &mut actions);
        return actions;
    }
    if need.create {
        fresh_sandbox(pod, status, &mut actions);
        return actions;
    }
    actions.ephemeral_to_start = (0..pod.ephemeral_containers().len())
        .filter(|i| status.container(&pod.ephemeral_containers()[*i].name).is_none())
        .collect();
    let initialized = init_containers(pod, status, probes, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let kept = regular_containers(pod, status, probes, &mut actions);
    resizes(pod, status, actuated, &mut actions);
    if kept == 0 && actions.to_start.is_empty() {
        actions.kill_pod = true;
        actions.init_to_start.clear();
    }
    actions
}

fn fresh_sandbox(pod: &Pod, status: &PodStatus, actions: &mut Actions) {
    if pod.restart_policy() == NEVER && actions.attempt != 0 && !status.containers.is_empty() {
        actions.create_sandbox = false;
        return;
    }
    let succeeded = |c: &Container| {
        status
            .container(&c.name)
            .is_some_and(|s| s.state == State::Exited && s.exit_code == 0)
    };
    let to_start: Vec<usize> = pod
        .containers()
        .iter()
        .enumerate()
        .filter(|(_, c)| {
            let policy = c.restart_policy.as_deref().unwrap_or(pod.restart_policy());
            !(policy == ON_FAILURE && succeeded(c))
        })
        .map(|(i, _)| i)
        .collect();
    if to_start.is_empty() && status.has_regular_container(pod) {
        actions.create_sandbox = false;
    } else if pod.init_containers().is_empty() {
        actions.to_start = to_start;
    } else {
        actions.init_to_start = vec![0];
    }
}

fn reset_all(pod: &Pod, status: &PodStatus, actions: &mut Actions) {
    let mut sources = [Vec::new(), Vec::new()];
    let mut targets = [Vec::new(), Vec::new()];
    for (slot, containers) in [pod.containers(), pod.init_containers()].into_iter().enumerate() {
        for container in containers {
            for found in status.containers.iter().filter(|s| s.name == container.name) {
                let exited = found.state == State::Exited;
                let reset = Reset {
                    id: found.id.clone(),
                    name: found.name.clone(),
                    kill: !exited,
                };
                let source = exited
                    && matching_rule(container, found.exit_code)
                        .is_some_and(|rule| rule.action == "RestartAllContainers");
                if source {
                    sources[slot].push(reset)
                } else {
                    targets[slot].push(reset)
                }
            }
        }
    }
    // Whoever asked goes last, so that a crash in between still shows who asked.
    actions.to_reset = targets.into_iter().chain(sources).flatten().collect();
}

/// Returns whether the pod is through with its init containers.
fn init_containers(pod: &Pod, status: &PodStatus, probes: &Snapshot, actions: &mut Actions) -> bool {
    let containers = pod.init_containers();
    if containers.is_empty() {
        return true;
    }
    let mut initialized = pod
        .containers()
        .iter()
        .filter_map(|c| status.container(&c.name))
        .any(|s| matches!(s.state, State::Created | State::Running));
    let mut passed = initialized;
    let last = containers.len() - 1;
    // From the last one back: what stands furthest says how far the pod had come.
    for (i, container) in containers.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(found) = status.container(&container.name) else {
            if passed && sidecar {
                actions.init_to_start.push(i);
            }
            continue;
        };
        if passed && !sidecar {
            continue;
        }
        match found.state {
            State::Created => actions.init_to_start.push(i),
            State::Running if sidecar => {
                running_sidecar(
                    container,
                    i,
                    found,
                    probes,
                    passed,
                    i == last,
                    &mut initialized,
                    actions,
                );
            }
            State::Running => {}
            State::Exited if sidecar => actions.init_to_start.push(i),
            State::Exited if failed(found) => {
                if !status.should_be_restarted(pod, container) {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                    return false;
                }
                actions.init_to_start.push(i);
            }
            State::Exited if i == last => initialized = true,
            State::Exited => actions.init_to_start.push(i + 1),
            State::Unknown => {
                let policy = container
                    .restart_policy
                    .as_deref()
                    .unwrap_or(pod.restart_policy());
                if !sidecar && policy == NEVER {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                    return false;
                }
                actions.to_kill.push(kill(
                    found,
                    unknown_message("Init container", found),
                    KillReason::Unknown,
                ));
                actions.init_to_start.push(i);
            }
        }
        passed = true;
    }
    if !passed {
        actions.init_to_start.push(0);
    }
    actions.init_to_start.reverse();
    initialized
}

#[allow(clippy::too_many_arguments)]
fn running_sidecar(
    container: &Container,
    index: usize,
    found: &ContainerStatus,
    probes: &Snapshot,
    passed: bool,
    is_last: bool,
    initialized: &mut bool,
    actions: &mut Actions,
) {
    let name = &container.name;
    if container.startup_probe.is_some() {
        match probes.startup(&found.id) {
            Some(Outcome::Success) => {}
            Some(Outcome::Failure) => {
                let message = format!("Init container {name} failed startup probe");
                actions
                    .to_kill
                    .push(kill(found, message, KillReason::StartupProbe));
                actions.init_to_start.push(index);
                return;
            }
            Some(Outcome::Unknown) | None => return,
        }
    }
    if is_last {
        *initialized = true;
    } else if !passed {
        actions.init_to_start.push(index + 1);
    }
    if found.info.hash != labels::hash(container) {
        let message = format!("Init container {name} definition changed");
        actions.to_kill.push(kill(found, message, KillReason::Changed));
        actions.init_to_start.push(index);
    } else if container.liveness_probe.is_some() && probes.liveness(&found.id) == Some(Outcome::Failure) {
        let message = format!("Init container {name} failed liveness probe");
        actions
            .to_kill
            .push(kill(found, message, KillReason::LivenessProbe));
        actions.init_to_start.push(index);
    }
}

/// Returns how many containers stay as they are.
fn regular_containers(pod: &Pod, status: &PodStatus, probes: &Snapshot, actions: &mut Actions) -> usize {
    let mut kept = 0;
    for (i, container) in pod.containers().iter().enumerate() {
        let name = &container.name;
        let found = match status.container(name) {
            Some(found) if found.state == State::Running => found,
            other => {
                if status.should_be_restarted(pod, container) {
                    actions.to_start.push(i);
                    if let Some(found) = other.filter(|s| s.state == State::Unknown) {
                        actions.to_kill.push(kill(
                            found,
                            unknown_message("Container", found),
                            KillReason::Unknown,
                        ));
                    }
                }
                continue;
            }
        };
        let policy = container
            .restart_policy
            .as_deref()
            .unwrap_or(pod.restart_policy());
        let mut restart = policy != NEVER;
        let (mut message, reason) = if found.info.hash != labels::hash(container) {
            restart = true;
            (
                format!("Container {name} definition changed"),
                KillReason::Changed,
            )
        } else if probes.liveness(&found.id) == Some(Outcome::Failure) {
            (
                format!("Container {name} failed liveness probe"),
                KillReason::LivenessProbe,
            )
        } else if probes.startup(&found.id) == Some(Outcome::Failure) {
            (
                format!("Container {name} failed startup probe"),
                KillReason::StartupProbe,
            )
        } else {
            kept += 1;
            continue;
        };
        if restart {
            message.push_str(", will be restarted");
            actions.to_start.push(i);
        }
        actions.to_kill.push(kill(found, message, reason));
    }
    kept
}

/// Running containers that stay, and have other resources than they were given.
fn resizes(pod: &Pod, status: &PodStatus, actuated: &HashMap<String, Amounts>, actions: &mut Actions) {
    let init = pod.init_containers().iter().map(|c| (c, true));
    let all = init.chain(pod.containers().iter().map(|c| (c, false)));
    let mut position = [0usize; 2];
    for (container, is_init) in all {
        let index = position[usize::from(is_init)];
        position[usize::from(is_init)] += 1;
        let Some(found) = status
            .container(&container.name)
            .filter(|s| s.state == State::Running)
        else {
            continue;
        };
        let to = Amounts::of(pod, container);
        let Some(from) = actuated.get(&container.name).copied().filter(|from| *from != to) else {
            continue;
        };
        if actions.to_kill.iter().any(|k| k.id == found.id) {
            // It starts anew anyway.
            actions.resize_pod = true;
        } else if from.needs_restart(&to, container) {
            let message = format!("Container {} resize requires restart", container.name);
            actions.to_kill.push(kill(found, message, KillReason::Unknown));
            let starts = if is_init {
                &mut actions.init_to_start
            } else {
                &mut actions.to_start
            };
            starts.push(index);
            actions.resize_pod = true;
        } else {
            actions.to_update.push(Update {
                id: found.id.clone(),
                name: container.name.clone(),
                from,
                to,
            });
        }
    }
    actions.to_update.sort_by_key(|u| u.from.grows(&u.to));
}

fn kill(found: &ContainerStatus, message: String, reason: KillReason) -> Kill {
    Kill {
        id: found.id.clone(),
        name: found.name.clone(),
        message,
        reason,
    }
}

fn unknown_message(what: &str, found: &ContainerStatus) -> String {
    format!(
        "{what} is in {:?} state, try killing it before restart",
        found.state.as_str()
    )
}

/// Whether an init container that is over did not do its work.
fn failed(found: &ContainerStatus) -> bool {
    found.reason == "OOMKilled" || found.exit_code != 0
}

/// Whether a rule asks for all containers to restart, by what the runtime or the last written status shows.
pub fn should_restart_all(
    pod: &Pod,
    status: &PodStatus,
    written: &k8s_openapi::api::core::v1::PodStatus,
) -> bool {
    if !crate::pod::all_containers_could_restart(pod.spec()) {
        return false;
    }
    if crate::pod::condition(written, "AllContainersRestarting").is_some_and(|c| c.status == "True") {
        return true;
    }
    let asks = |container: &Container, code: i32| {
        matching_rule(container, code).is_some_and(|rule| rule.action == "RestartAllContainers")
    };
    pod.init_containers()
        .iter()
        .chain(pod.containers())
        .any(|container| {
            status
                .container(&container.name)
                .is_some_and(|s| s.state == State::Exited && asks(container, s.exit_code))
        })
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
