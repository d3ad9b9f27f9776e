//! The conditions the kubelet owns. Follows upstream's `status/generate.go`, with its reasons and messages.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::containers::{is_running, terminated};
use crate::pod::{PodExt, all_containers_could_restart, container_status, is_sidecar};

pub const READY_TO_START: &str = "PodReadyToStartContainers";
pub const INITIALIZED: &str = "Initialized";
pub const READY: &str = "Ready";
pub const CONTAINERS_READY: &str = "ContainersReady";
pub const SCHEDULED: &str = "PodScheduled";
pub const RESTARTING: &str = "AllContainersRestarting";
pub const DISRUPTION: &str = "DisruptionTarget";

/// Condition types nobody else may write.
pub const OWNED: [&str; 8] = [
    SCHEDULED,
    READY,
    CONTAINERS_READY,
    INITIALIZED,
    READY_TO_START,
    RESTARTING,
    "PodResizePending",
    "PodResizeInProgress",
];

/// Facts the conditions follow from, beside the spec.
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub phase: &'a str,
    /// Init containers first.
    pub statuses: &'a [ContainerStatus],
    pub sandbox_ready: bool,
    pub restarting_all: bool,
    /// What is written now.
    pub old: &'a PodStatus,
}

/// The kubelet's conditions in upstream's order; `others` are those of other writers, for the readiness gates.
pub fn generate(facts: &Facts<'_>, others: &[PodCondition]) -> Vec<PodCondition> {
    let mut conditions = vec![
        condition(facts, READY_TO_START, facts.sandbox_ready, None, None),
        initialized(facts),
        ready(facts, others),
        containers_ready(facts),
        condition(facts, SCHEDULED, true, None, None),
    ];
    if all_containers_could_restart(facts.pod.spec()) {
        let (status, reason, message) = match facts.phase {
            "Succeeded" => (false, Some("PodCompleted"), None),
            "Failed" => (false, Some("PodFailed"), None),
            _ if facts.restarting_all => (
                true,
                Some("RestartAllContainersStarted"),
                Some("container exited with restart policy rule".to_owned()),
            ),
            _ => (false, None, None),
        };
        let mut c = condition(facts, RESTARTING, status, reason, message);
        c.observed_generation = None;
        conditions.push(c);
    }
    conditions
}

fn condition(
    facts: &Facts<'_>,
    kind: &str,
    status: bool,
    reason: Option<&str>,
    message: Option<String>,
) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        observed_generation: facts.pod.generation(),
        ..PodCondition::default()
    }
}

fn containers_ready(facts: &Facts<'_>) -> PodCondition {
    let sidecars = facts.pod.init_containers().iter().filter(|c| is_sidecar(c));
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    for container in sidecars.chain(facts.pod.containers()) {
        match container_status(facts.statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    let not = |reason, message| condition(facts, CONTAINERS_READY, false, Some(reason), message);
    if facts.phase == "Succeeded" && unknown.is_empty() {
        return not("PodCompleted", None);
    }
    if facts.phase == "Failed" {
        return not("PodFailed", None);
    }
    match words("unready", &unknown, &unready) {
        Some(message) => not("ContainersNotReady", Some(message)),
        None => condition(facts, CONTAINERS_READY, true, None, None),
    }
}

fn ready(facts: &Facts<'_>, others: &[PodCondition]) -> PodCondition {
    let containers = containers_ready(facts);
    if containers.status != "True" {
        return PodCondition {
            type_: READY.to_owned(),
            ..containers
        };
    }
    let unmet: Vec<String> = facts
        .pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match others.iter().find(|c| c.type_ == *kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() {
        condition(facts, READY, true, None, None)
    } else {
        condition(
            facts,
            READY,
            false,
            Some("ReadinessGatesNotReady"),
            Some(unmet.join(", ")),
        )
    }
}

fn initialized(facts: &Facts<'_>) -> PodCondition {
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in facts.pod.init_containers() {
        match container_status(facts.statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = if is_sidecar(container) {
                    status.started == Some(true)
                } else {
                    status.ready
                };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if facts.phase == "Succeeded" && unknown.is_empty() {
        return condition(facts, INITIALIZED, true, Some("PodCompleted"), None);
    }
    let regular_started = facts
        .pod
        .containers()
        .iter()
        .filter_map(|c| container_status(facts.statuses, &c.name))
        .any(|s| is_running(s) || terminated(s).is_some());
    if regular_started {
        return condition(facts, INITIALIZED, true, None, None);
    }
    match words("incomplete", &unknown, &incomplete) {
        Some(message) => {
            let was = crate::pod::condition(facts.old, INITIALIZED).is_some_and(|c| c.status == "True");
            if was {
                return condition(facts, INITIALIZED, true, None, None);
            }
            condition(
                facts,
                INITIALIZED,
                false,
                Some("ContainersNotInitialized"),
                Some(message),
            )
        }
        None => condition(facts, INITIALIZED, true, None, None),
    }
}

/// `containers with unready status: [a b]`
fn words(what: &str, unknown: &[&str], names: &[&str]) -> Option<String> {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !names.is_empty() {
        parts.push(format!("containers with {what} status: [{}]", names.join(" ")));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}
