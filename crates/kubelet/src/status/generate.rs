//! The whole status of a pod, from one moment's facts. Pure.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus as ApiStatus,
};

use super::conditions::{self, Facts};
use super::containers::{bare_id, is_running, statuses, terminated};
use super::phase;
use crate::allocation::amounts::Amounts;
use crate::pod::{self, PodExt, is_sidecar, is_terminal};
use crate::pods::actions::should_restart_all;
use crate::probes::results::{Outcome, ProbeKind, Snapshot};
use crate::qos;
use crate::quantity;
use crate::runtime::status::PodStatus;

/// A container that ran this much before the kubelet began is taken over from an earlier kubelet.
const RESTART_GRACE: SignedDuration = SignedDuration::from_secs(10);

/// One moment's facts about a pod.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub runtime: &'a PodStatus,
    pub runtime_name: &'a str,
    pub probes: &'a Snapshot,
    /// What the kubelet last decided, or what the API server showed when it took the pod over.
    pub old: &'a ApiStatus,
    /// Why a container could not be started, by name: reason and message.
    pub reasons: &'a HashMap<String, (String, String)>,
    pub host_ips: &'a [String],
    /// Set when the kubelet itself ends the pod: phase `Failed` with this reason and message.
    pub failed: Option<(&'a str, &'a str)>,
    /// The kubelet ends the pod for the node's sake.
    pub disrupted: bool,
    /// Nothing of the pod runs and nothing will.
    pub terminal: bool,
    pub kubelet_started: Timestamp,
    /// The resources the runtime was last told, by container.
    pub actuated: &'a HashMap<String, Amounts>,
    /// The conditions about a resize.
    pub resizes: Vec<PodCondition>,
}

pub fn generate(inputs: &Inputs<'_>) -> ApiStatus {
    let Inputs {
        pod, runtime, old, ..
    } = *inputs;
    let restarting_all = should_restart_all(pod, runtime, old);
    let ephemeral: Vec<Container> = pod.ephemeral_containers().iter().map(pod::common).collect();
    let list = |containers: &[Container], previous: &Option<Vec<ContainerStatus>>, init| {
        let previous = previous.as_deref().unwrap_or_default();
        statuses(inputs, containers, previous, init, restarting_all)
    };
    let mut regular = list(pod.containers(), &old.container_statuses, false);
    let mut init = list(pod.init_containers(), &old.init_container_statuses, true);
    let ephemeral = list(&ephemeral, &old.ephemeral_container_statuses, false);

    let initialized = runtime
        .active_containers()
        .any(|s| pod.containers().iter().any(|c| c.name == s.name));
    // Sidecars count as begun by what the probes say, so readiness comes before the phase here.
    ready_and_started(inputs, &mut init, &mut regular);
    let all: Vec<ContainerStatus> = init.iter().chain(&regular).cloned().collect();
    let (phase, reason, message) =
        settle_phase(inputs, phase::phase(pod, &all, inputs.terminal, initialized));

    let mut others: Vec<_> = pod
        .status()
        .conditions
        .iter()
        .flatten()
        .filter(|c| !conditions::OWNED.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    if let (true, Some((_, text))) = (inputs.disrupted, inputs.failed) {
        others.retain(|c| c.type_ != conditions::DISRUPTION);
        others.push(PodCondition {
            type_: conditions::DISRUPTION.to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(text.to_owned()),
            observed_generation: pod.generation(),
            ..PodCondition::default()
        });
    }
    let cleaned = runtime.containers.is_empty();
    let facts = Facts {
        pod,
        phase: &phase,
        statuses: &all,
        sandbox_ready: !runtime.sandbox_changed(pod).create,
        restarting_all: restarting_all && !cleaned,
        old,
    };
    let mut own = conditions::generate(&facts, &others);
    if !is_terminal(&phase) {
        own.extend(inputs.resizes.iter().cloned());
    }
    let (pod_ip, pod_ips) = addresses(inputs);
    let none_if_empty = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    ApiStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(others.into_iter().chain(own).collect()),
        container_statuses: none_if_empty(regular),
        init_container_statuses: none_if_empty(init),
        ephemeral_container_statuses: none_if_empty(ephemeral),
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        pod_ip,
        pod_ips,
        host_ip: inputs.host_ips.first().cloned(),
        host_ips: Some(
            inputs
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        observed_generation: pod.generation(),
        resources: pod.spec().resources.clone(),
        allocated_resources: allocated(pod),
        ..ApiStatus::default()
    }
}

/// A pod that has ended stays as it ended; the kubelet's own verdict comes first.
fn settle_phase(inputs: &Inputs<'_>, computed: &'static str) -> (String, Option<String>, Option<String>) {
    let written = inputs.pod.phase();
    let old = inputs.old.phase.as_deref().unwrap_or_default();
    let mut phase = computed;
    if !is_terminal(phase) {
        for ended in [old, written] {
            match ended {
                "Succeeded" => phase = "Succeeded",
                "Failed" => phase = "Failed",
                _ => continue,
            }
            break;
        }
    }
    let (mut reason, mut message) = (None, None);
    if phase == old {
        let status = inputs.pod.status();
        reason = inputs.old.reason.clone().or_else(|| status.reason.clone());
        message = inputs.old.message.clone().or_else(|| status.message.clone());
    }
    if let Some((why, text)) = inputs.failed {
        phase = "Failed";
        reason = Some(why.to_owned());
        message = Some(text.to_owned());
    }
    match written {
        "Succeeded" => phase = "Succeeded",
        "Failed" => phase = "Failed",
        _ => {}
    }
    (phase.to_owned(), reason, message)
}

/// `started` and `ready` of every container, by the probes' results.
fn ready_and_started(inputs: &Inputs<'_>, init: &mut [ContainerStatus], regular: &mut [ContainerStatus]) {
    for status in init {
        let Some(spec) = inputs
            .pod
            .init_containers()
            .iter()
            .find(|c| c.name == status.name)
        else {
            continue;
        };
        let started = started(inputs, spec, status);
        status.started = Some(started);
        status.ready = if is_sidecar(spec) {
            started && ready(inputs, spec, status)
        } else {
            terminated(status).is_some_and(|t| t.exit_code == 0)
        };
    }
    for status in regular {
        let Some(spec) = inputs.pod.containers().iter().find(|c| c.name == status.name) else {
            continue;
        };
        let started = started(inputs, spec, status);
        status.started = Some(started);
        status.ready = started && ready(inputs, spec, status);
    }
}

fn started(inputs: &Inputs<'_>, spec: &Container, status: &ContainerStatus) -> bool {
    if !is_running(status) {
        return false;
    }
    let id = bare_id(status.container_id.as_deref().unwrap_or_default());
    match inputs.probes.get(ProbeKind::Startup, id) {
        Some(outcome) => outcome == Outcome::Success,
        None => status.started == Some(true) || spec.startup_probe.is_none(),
    }
}

fn ready(inputs: &Inputs<'_>, spec: &Container, status: &ContainerStatus) -> bool {
    if !is_running(status) {
        return false;
    }
    let id = bare_id(status.container_id.as_deref().unwrap_or_default());
    let result = inputs.probes.readiness(id);
    if result == Some(Outcome::Success) {
        return true;
    }
    if spec.readiness_probe.is_none() {
        return true;
    }
    // Taken over from an earlier kubelet and not yet probed: as it was.
    result.is_none() && taken_over(inputs, status) && was_ready(inputs)
}

fn taken_over(inputs: &Inputs<'_>, status: &ContainerStatus) -> bool {
    let started = status
        .state
        .as_ref()
        .and_then(|s| s.running.as_ref())
        .and_then(|r| r.started_at.as_ref());
    started.is_some_and(|t| {
        t.0 < inputs
            .kubelet_started
            .saturating_sub(RESTART_GRACE)
            .unwrap_or(Timestamp::MIN)
    })
}

fn was_ready(inputs: &Inputs<'_>) -> bool {
    pod::condition(inputs.pod.status(), conditions::READY).is_some_and(|c| c.status == "True")
}

fn addresses(inputs: &Inputs<'_>) -> (Option<String>, Option<Vec<PodIP>>) {
    let mut ips = sorted_ips(&inputs.runtime.ips, inputs.host_ips);
    if ips.is_empty() && inputs.pod.host_network() {
        ips = inputs.host_ips.to_vec();
    }
    let list: Vec<PodIP> = ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect();
    (ips.first().cloned(), (!list.is_empty()).then_some(list))
}

/// One address a family, the node's own family first.
fn sorted_ips(ips: &[String], host_ips: &[String]) -> Vec<String> {
    let v6_first = host_ips.first().is_some_and(|ip| ip.contains(':'));
    [v6_first, !v6_first]
        .into_iter()
        .filter_map(|v6| ips.iter().find(|ip| ip.contains(':') == v6).cloned())
        .collect()
}

fn allocated(pod: &Pod) -> Option<quantity::ResourceList> {
    let list: quantity::ResourceList = quantity::pod_requests(pod)
        .into_iter()
        .map(|(name, value)| {
            let q = match name.as_str() {
                "cpu" => quantity::cpu_quantity(value),
                "memory" | "ephemeral-storage" => quantity::binary_quantity(value),
                _ => quantity::quantity(value),
            };
            (name, q)
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
