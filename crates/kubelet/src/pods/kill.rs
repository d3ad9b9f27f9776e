//! Ending containers: grace, preStop hook, the order of sidecars.
//!
//! Follows upstream's `killContainer` and `terminationOrdering`: regular containers go at once, a sidecar when
//! everything that was started after it is gone, all within one grace period.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use tokio::sync::watch;

use super::actions::KillReason;
use crate::error::{Error, Result};
use crate::lifecycle;
use crate::node::context::NodeContext;
use crate::pod::{PodExt, is_sidecar};
use crate::runtime::status::{ContainerStatus, PodStatus};

/// The least a container is given to end.
const LEAST_GRACE: i64 = 2;

/// The grace period of a container, by why it is killed.
pub fn grace(pod: &Pod, container: Option<&Container>, reason: KillReason) -> i64 {
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        return grace;
    }
    let Some(of_pod) = pod.spec().termination_grace_period_seconds else {
        return LEAST_GRACE;
    };
    let own = |probe: fn(&Container) -> Option<&Probe>| {
        container
            .and_then(probe)
            .and_then(|p| p.termination_grace_period_seconds)
    };
    match reason {
        KillReason::StartupProbe => own(|c| c.startup_probe.as_ref()),
        KillReason::LivenessProbe => own(|c| c.liveness_probe.as_ref()),
        _ => None,
    }
    .unwrap_or(of_pod)
}

/// Whom to kill and how.
pub struct Victim<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub message: &'a str,
    pub reason: KillReason,
    pub grace: Option<i64>,
}

/// Kills one container; the preStop hook runs within its grace.
pub async fn container(
    node: &NodeContext,
    pod: &Pod,
    pod_ip: &str,
    victim: &Victim<'_>,
    order: Option<&Order>,
) -> Result<()> {
    let spec = pod.find_container(victim.name).map(|(_, c)| c.into_owned());
    let mut left = victim
        .grace
        .unwrap_or_else(|| grace(pod, spec.as_ref(), victim.reason));
    let about = node.events.container_named(pod, victim.name);
    let message = match victim.message {
        "" => format!("Stopping container {}", victim.name),
        message => message.to_owned(),
    };
    about.normal("Killing", message);
    let hook = spec
        .as_ref()
        .and_then(|c| c.lifecycle.as_ref())
        .and_then(|l| l.pre_stop.as_ref());
    if let (Some(hook), Some(spec)) = (hook, &spec)
        && left > 0
    {
        left -= pre_stop(node, pod, pod_ip, victim, spec, hook, left).await;
    }
    if let Some(order) = order
        && left > 0
    {
        let began = tokio::time::Instant::now();
        let turn = order.wait_for_turn(victim.name);
        if tokio::time::timeout(seconds(left), turn).await.is_err() {
            tracing::debug!(container = victim.name, "others did not end in time");
        }
        left -= whole_seconds(began.elapsed());
    }
    let result = node
        .runtime
        .stop_container(victim.id, left.max(LEAST_GRACE))
        .await;
    if let Some(order) = order
        && result.is_ok()
    {
        order.ended(victim.name);
    }
    result
}

async fn pre_stop(
    node: &NodeContext,
    pod: &Pod,
    pod_ip: &str,
    victim: &Victim<'_>,
    spec: &Container,
    hook: &LifecycleHandler,
    left: i64,
) -> i64 {
    let began = tokio::time::Instant::now();
    let run = lifecycle::run(&node.runtime, &node.events, pod, spec, victim.id, pod_ip, hook);
    match tokio::time::timeout(seconds(left), run).await {
        Ok(Ok(())) => {}
        Ok(Err(text)) => {
            tracing::info!(
                pod = pod.describe(),
                container = victim.name,
                text,
                "a preStop hook failed"
            );
            node.events
                .container_named(pod, victim.name)
                .warning("FailedPreStopHook", "PreStopHook failed");
        }
        Err(_) => tracing::info!(
            pod = pod.describe(),
            container = victim.name,
            "a preStop hook took all the grace"
        ),
    }
    whole_seconds(began.elapsed())
}

/// Kills all that runs of a pod, then its sandboxes.
pub async fn pod(node: &NodeContext, pod: &Pod, status: &PodStatus, grace: Option<i64>) -> Result<()> {
    let running: Vec<&ContainerStatus> = status.running().collect();
    let order = pod
        .has_sidecar()
        .then(|| Order::new(pod, running.iter().map(|c| c.name.as_str())));
    let pod_ip = status.ips.first().map(String::as_str).unwrap_or_default();
    let kills = running.iter().map(|found| {
        let victim = Victim {
            id: &found.id,
            name: &found.name,
            message: "",
            reason: KillReason::Unknown,
            grace,
        };
        let order = order.as_ref();
        async move { container(node, pod, pod_ip, &victim, order).await }
    });
    let mut failed: Option<Error> = join_all(kills).await.into_iter().filter_map(Result::err).next();
    for sandbox in &status.sandboxes {
        if let Err(error) = node.runtime.stop_sandbox(&sandbox.id).await {
            failed = failed.or(Some(error));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Who must be gone before whom.
pub struct Order {
    before: HashMap<String, HashSet<String>>,
    gone: watch::Sender<HashSet<String>>,
}

impl Order {
    pub fn new<'a>(pod: &Pod, running: impl Iterator<Item = &'a str>) -> Self {
        let running: HashSet<&str> = running.collect();
        let mut later: HashSet<String> = pod.containers().iter().map(|c| c.name.clone()).collect();
        let mut before = HashMap::new();
        for sidecar in pod.init_containers().iter().rev().filter(|c| is_sidecar(c)) {
            before.insert(sidecar.name.clone(), later.clone());
            later.insert(sidecar.name.clone());
        }
        let gone = later
            .into_iter()
            .filter(|name| !running.contains(name.as_str()))
            .collect();
        Self {
            before,
            gone: watch::Sender::new(gone),
        }
    }

    async fn wait_for_turn(&self, name: &str) {
        let Some(before) = self.before.get(name) else {
            return;
        };
        let mut gone = self.gone.subscribe();
        // The sender lives as long as `self`.
        drop(gone.wait_for(|gone| before.is_subset(gone)).await);
    }

    fn ended(&self, name: &str) {
        self.gone.send_if_modified(|gone| gone.insert(name.to_owned()));
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

fn whole_seconds(value: Duration) -> i64 {
    i64::try_from(value.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"spec": {
            "terminationGracePeriodSeconds": 30,
            "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "i"}, {"name": "s2", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 5}}, {"name": "b"}]}}))
        .unwrap()
    }

    #[test]
    fn sidecars_go_last_in_reverse() {
        let pod = pod();
        let order = Order::new(&pod, ["s1", "s2", "a"].into_iter());
        let turn = |name: &str| order.wait_for_turn(name).now_or_never().is_some();
        assert!(turn("a"));
        assert!(!turn("s2") && !turn("s1"));
        order.ended("a");
        assert!(turn("s2") && !turn("s1"));
        order.ended("s2");
        assert!(turn("s1"));
    }

    #[test]
    fn graces() {
        let mut pod = pod();
        let a = pod.containers()[0].clone();
        assert_eq!(grace(&pod, Some(&a), KillReason::LivenessProbe), 5);
        assert_eq!(grace(&pod, Some(&a), KillReason::StartupProbe), 30);
        assert_eq!(grace(&pod, Some(&a), KillReason::Unknown), 30);
        pod.metadata.deletion_grace_period_seconds = Some(3);
        assert_eq!(grace(&pod, Some(&a), KillReason::LivenessProbe), 3);
    }
}
