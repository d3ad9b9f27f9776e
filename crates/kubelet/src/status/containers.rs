//! `containerStatuses` from the runtime's snapshot, the reasons of failed starts and what was written before.
//!
//! Follows upstream's `convertToAPIContainerStatuses`, with its reasons and messages.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiStatus, ContainerUser, LinuxContainerUser, Pod, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::generate::Inputs;
use crate::allocation::amounts::Amounts;
use crate::pod::{PodExt, is_sidecar};
use crate::quantity::{ResourceList, binary_quantity, cpu_quantity, milli};
use crate::runtime::resources;
use crate::runtime::status::{ContainerStatus, PodStatus, State};

const CREATING: &str = "ContainerCreating";
const INITIALIZING: &str = "PodInitializing";
const UNKNOWN: &str = "ContainerStatusUnknown";
const RESTARTING_ALL: &str = "RestartingAllContainers";

/// The prefix of container ids in the API.
pub fn container_id(runtime: &str, id: &str) -> String {
    format!("{runtime}://{id}")
}

/// The id without its runtime.
pub fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

/// The statuses of one of the pod's lists, in the order the API shows them: init containers as in the spec, the
/// others by name.
pub fn statuses(
    inputs: &Inputs<'_>,
    containers: &[Container],
    previous: &[ApiStatus],
    init: bool,
    restarting_all: bool,
) -> Vec<ApiStatus> {
    let mut statuses = BTreeMap::new();
    for container in containers {
        let old = previous.iter().find(|s| s.name == container.name);
        statuses.insert(
            container.name.as_str(),
            first_status(inputs.pod, container, old, restarting_all, inputs.runtime),
        );
    }
    from_runtime(inputs, containers, previous, restarting_all, &mut statuses);
    for container in containers {
        // Just inserted for every container.
        let Some(status) = statuses.get_mut(container.name.as_str()) else {
            continue;
        };
        waiting_reason(inputs, container, init, status);
    }
    if init {
        containers
            .iter()
            .filter_map(|c| statuses.remove(c.name.as_str()))
            .collect()
    } else {
        statuses.into_values().collect()
    }
}

/// Before the runtime knows the container.
fn first_status(
    pod: &Pod,
    container: &Container,
    old: Option<&ApiStatus>,
    restarting_all: bool,
    runtime: &PodStatus,
) -> ApiStatus {
    let default_reason = if pod.init_containers().is_empty() {
        CREATING
    } else {
        INITIALIZING
    };
    let mut status = ApiStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default_reason, None)),
        last_state: Some(ContainerState::default()),
        volume_mounts: mount_statuses(container),
        ..ApiStatus::default()
    };
    let Some(old) = old else { return status };
    if terminated(old).is_some() {
        status = old.clone();
    } else {
        status.restart_count = old.restart_count;
        status.last_state = old.last_state.clone();
    }
    if runtime.container(&container.name).is_some() {
        return status;
    }
    let was_waiting = old.state.as_ref().is_some_and(|s| s.waiting.is_some());
    if restarting_all && !was_waiting {
        let message = "The container is removed because RestartAllContainers in place".to_owned();
        status.state = Some(waiting(RESTARTING_ALL, Some(message.clone())));
        status.last_state = Some(ended(RESTARTING_ALL, message, 137));
        status.restart_count = old.restart_count + 1;
    } else if old.state.as_ref().is_some_and(|s| s.running.is_some()) && last_terminated(&status).is_none() {
        // It ran, and the runtime has no memory of it.
        let message =
            "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(ended(UNKNOWN, message.to_owned(), 137));
        if !pod.is_deleting() {
            status.restart_count += 1;
        }
    }
    status
}

/// The newest container of a name gives the state, the one before it the last state.
fn from_runtime<'a>(
    inputs: &Inputs<'_>,
    containers: &'a [Container],
    previous: &[ApiStatus],
    restarting_all: bool,
    statuses: &mut BTreeMap<&'a str, ApiStatus>,
) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for found in &inputs.runtime.containers {
        let Some(container) = containers.iter().find(|c| c.name == found.name) else {
            continue;
        };
        let count = seen.entry(container.name.as_str()).or_default();
        *count += 1;
        if *count > 2 {
            continue;
        }
        let old = previous.iter().find(|s| s.name == found.name);
        let status = convert(inputs, container, found, old, restarting_all);
        if *count == 1 {
            statuses.insert(container.name.as_str(), status);
        } else if let Some(newest) = statuses.get_mut(container.name.as_str()) {
            newest.last_state = status.state;
        }
    }
}

fn convert(
    inputs: &Inputs<'_>,
    container: &Container,
    found: &ContainerStatus,
    old: Option<&ApiStatus>,
    restarting_all: bool,
) -> ApiStatus {
    let id = container_id(inputs.runtime_name, &found.id);
    let mut status = ApiStatus {
        name: found.name.clone(),
        restart_count: found.info.restart_count,
        image: found.image.clone(),
        image_id: found.image_ref.clone(),
        container_id: Some(id.clone()),
        last_state: Some(ContainerState::default()),
        volume_mounts: old
            .and_then(|o| o.volume_mounts.clone())
            .or_else(|| mount_statuses(container)),
        resources: shown_resources(container, found, inputs.actuated.get(&container.name)),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        user: found.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()).filter(|g| !g.is_empty()),
            }),
        }),
        ..ApiStatus::default()
    };
    let old_terminated = old.and_then(terminated);
    if let Some(old) = old {
        status.restart_count = status.restart_count.max(old.restart_count);
        if old.container_id.as_deref() != Some(id.as_str()) && old_terminated.is_some() {
            status.last_state = Some(ContainerState {
                terminated: old_terminated.cloned(),
                ..Default::default()
            });
        } else if let Some(last) = last_terminated(old) {
            status.last_state = Some(ContainerState {
                terminated: Some(last.clone()),
                ..Default::default()
            });
        }
    }
    let started_at = Some(Time(found.started_at));
    status.state = Some(match found.state {
        State::Running => {
            if let Some(old) = old
                && old_terminated.is_some()
                && old.restart_count >= found.info.restart_count
                && old.container_id.as_deref() != Some(id.as_str())
                && restarting_all
            {
                status.restart_count = old.restart_count + 1;
            }
            if let Some(started) = old
                .filter(|o| o.container_id.as_deref() == Some(id.as_str()))
                .and_then(|o| o.started)
            {
                status.started = Some(started);
            }
            ContainerState {
                running: Some(ContainerStateRunning { started_at }),
                ..Default::default()
            }
        }
        State::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: found.exit_code,
                reason: some(&found.reason),
                message: some(&found.message),
                started_at,
                finished_at: Some(Time(found.finished_at)),
                container_id: Some(id),
                signal: None,
            }),
            ..Default::default()
        },
        State::Unknown
            if old
                .and_then(|o| o.state.as_ref())
                .is_some_and(|s| s.running.is_some()) =>
        {
            let reason = if restarting_all { RESTARTING_ALL } else { UNKNOWN };
            status.restart_count = old.map_or(0, |o| o.restart_count) + 1;
            ended(
                reason,
                "The container could not be located when the pod was terminated".to_owned(),
                137,
            )
        }
        State::Created | State::Unknown => ContainerState {
            waiting: Some(ContainerStateWaiting::default()),
            ..Default::default()
        },
    });
    status
}

/// A container that should run and could not be started shows why.
fn waiting_reason(inputs: &Inputs<'_>, container: &Container, init: bool, status: &mut ApiStatus) {
    let runtime = inputs.runtime;
    if init {
        let found = runtime.container(&container.name);
        if found.is_some_and(|s| s.state == State::Exited && s.exit_code == 0) {
            return;
        }
        let is_waiting = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
        if found.is_none()
            && runtime.has_regular_container(inputs.pod)
            && !is_sidecar(container)
            && is_waiting
        {
            let message = "Unable to get init container status from container runtime and pod has been initialized, \
                           treat it as exited normally";
            status.state = Some(ended("Completed", message.to_owned(), 0));
            return;
        }
    }
    if !runtime.should_be_restarted(inputs.pod, container) {
        return;
    }
    let Some((reason, message)) = inputs.reasons.get(&container.name) else {
        return;
    };
    if terminated(status).is_some() {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(reason, some(message)));
}

/// What the container has: what it was given, with what the runtime was told where that differs.
fn shown_resources(
    container: &Container,
    found: &ContainerStatus,
    actuated: Option<&Amounts>,
) -> Option<ResourceRequirements> {
    let mut shown = container.resources.clone()?;
    let Some(actuated) = actuated.filter(|_| found.state == State::Running) else {
        return Some(shown);
    };
    let show = |list: &mut Option<ResourceList>, name: &str, value: i64, least: i64| {
        let Some(entry) = list.as_mut().and_then(|l| l.get_mut(name)) else {
            return;
        };
        let (given, text) = match name {
            "cpu" => (milli(entry), cpu_quantity(value)),
            _ => (crate::quantity::value(entry), binary_quantity(value)),
        };
        // What the kernel cannot tell apart is shown as it was asked for.
        if given != value && value != 0 && (given > least || value > least) {
            *entry = text;
        }
    };
    show(
        &mut shown.requests,
        "cpu",
        actuated.cpu_request,
        resources::MIN_SHARES,
    );
    show(
        &mut shown.limits,
        "cpu",
        actuated.cpu_limit,
        resources::MIN_MILLI_LIMIT,
    );
    show(&mut shown.requests, "memory", actuated.memory_request, 0);
    show(&mut shown.limits, "memory", actuated.memory_limit, 0);
    Some(shown)
}

fn mount_statuses(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    Some(
        mounts
            .iter()
            .map(|m| {
                let read_only = m.read_only.unwrap_or(false);
                let recursive = match m.recursive_read_only.as_deref() {
                    Some("Enabled" | "IfPossible") => "Enabled",
                    _ => "Disabled",
                };
                VolumeMountStatus {
                    name: m.name.clone(),
                    mount_path: m.mount_path.clone(),
                    read_only: read_only.then_some(true),
                    recursive_read_only: read_only.then(|| recursive.to_owned()),
                    ..VolumeMountStatus::default()
                }
            })
            .collect(),
    )
}

pub fn terminated(status: &ApiStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

pub fn last_terminated(status: &ApiStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

pub fn is_running(status: &ApiStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

pub fn ended(reason: &str, message: String, exit_code: i32) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some(reason.to_owned()),
            message: Some(message),
            exit_code,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
