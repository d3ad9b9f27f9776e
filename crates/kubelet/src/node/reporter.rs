//! Registers the node and keeps its status true.
//!
//! Looks every ten seconds, and at once when the runtime's state or the node's object changes; writes only what
//! differs, and the heartbeat every five minutes. Tells the runtime the pod range the cluster has given.

use std::sync::Arc;
use std::time::Duration;

use client::{Event, Informer};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::context::NodeContext;
use super::object::{self, Observed};
use crate::backoff::since;
use crate::csi::node_info;
use crate::error::{Error, Result};
use crate::eviction::Pressure;
use crate::pods::worker::Command;
use crate::pods::workers::Workers;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(7);

pub struct Reporter {
    node: Arc<NodeContext>,
    workers: Arc<Workers>,
    changed: Arc<Notify>,
    reported: Option<Timestamp>,
    pod_cidr: Option<String>,
    images: Option<(Timestamp, Vec<cri::v1::Image>)>,
}

/// How often images are listed.
const IMAGES: Duration = Duration::from_secs(30);

impl Reporter {
    pub fn new(node: Arc<NodeContext>, workers: Arc<Workers>, changed: Arc<Notify>) -> Self {
        Self {
            node,
            workers,
            changed,
            reported: None,
            pod_cidr: None,
            images: None,
        }
    }

    /// Runs for ever. `nodes` holds this node alone.
    pub async fn run(mut self, nodes: Informer<Node>) {
        // Pods may begin before the node is written: what the runtime can do is found out first.
        self.observe_runtime().await;
        self.register().await;
        let (state, changed) = (self.node.clone(), self.changed.clone());
        let name = self.node.settings.node_name.clone();
        nodes.subscribe(move |event| {
            if let Event::Added(node) | Event::Updated { new: node, .. } = event
                && node.metadata.name.as_deref() == Some(&name)
            {
                let spec_changed = {
                    let mut state = state.state.write();
                    let before = state.node.replace(node.clone());
                    before.is_none_or(|b| b.spec != node.spec)
                };
                if spec_changed {
                    changed.notify_one();
                }
            }
        });
        if let Err(error) = node_info::ensure(&self.node).await {
            tracing::warn!(error = error.full(), "cannot make the CSINode");
        }
        let changed = self.changed.clone();
        let mut delay = RETRY;
        loop {
            match self.report().await {
                Ok(()) => {
                    let state = self.node.state.read().clone();
                    let pause = if state.runtime_error.is_some() || state.network_error.is_some() {
                        // Becoming ready should not wait for the next round.
                        delay = (delay * 2).min(RETRY_MOST);
                        delay / 2
                    } else {
                        delay = RETRY;
                        self.node.settings.status_update_frequency
                    };
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = changed.notified() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        error = error.full(),
                        "cannot report the node's status, will retry"
                    );
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MOST);
                }
            }
        }
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.node.client.clone())
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(kube::Error) -> Error {
        let subject = self.node.settings.node_name.clone();
        move |source| Error::Api {
            operation,
            subject,
            source: Box::new(source),
        }
    }

    async fn register(&mut self) {
        let mut delay = RETRY;
        loop {
            match self.try_register().await {
                Ok(node) => {
                    self.node.state.write().node = Some(Arc::new(node));
                    self.node.events.node().normal("Starting", "Starting kubelet.");
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = error.full(), "cannot register the node, will retry");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MOST);
                }
            }
        }
    }

    async fn try_register(&mut self) -> Result<Node> {
        let api = self.api();
        let mut wanted = object::initial(&self.node.settings, &self.node.machine);
        let observed = self.observe().await;
        let now = self.node.clock.now();
        let (status, _) = object::status(
            &self.node.settings,
            &self.node.machine,
            &observed,
            &NodeStatus::default(),
            now,
        );
        wanted.status = Some(status);
        match api.create(&PostParams::default(), &wanted).await {
            Ok(node) => return Ok(node),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(self.failed("registering node")(error)),
        }
        let known = api
            .get(&self.node.settings.node_name)
            .await
            .map_err(self.failed("reading node"))?;
        let labels = object::labels(&self.node.settings, &self.node.machine);
        let have = known.metadata.labels.clone().unwrap_or_default();
        let missing: Map<String, Value> = labels
            .into_iter()
            .filter(|(k, v)| have.get(k) != Some(v))
            .map(|(k, v)| (k, Value::String(v)))
            .collect();
        if missing.is_empty() {
            return Ok(known);
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": missing}}));
        let name = &self.node.settings.node_name;
        api.patch(name, &PatchParams::default(), &patch)
            .await
            .map_err(self.failed("labelling node"))
    }

    async fn report(&mut self) -> Result<()> {
        // The range decides whether the network is ready, which is part of what is observed.
        self.tell_pod_cidr().await;
        let observed = self.observe().await;
        let Some(known) = self.node.state.read().node.clone() else {
            return Ok(());
        };
        let old = known.status.clone().unwrap_or_default();
        let now = self.node.clock.now();
        let (status, events) = object::status(&self.node.settings, &self.node.machine, &observed, &old, now);
        let due = self
            .reported
            .is_none_or(|at| since(now, at) >= self.node.settings.status_report_frequency);
        if !due && !object::differs(&old, &status) {
            return Ok(());
        }
        for event in events {
            let text = format!("Node {} status is now: {event}", self.node.settings.node_name);
            self.node.events.node().normal(event, text);
        }
        let Some(patch) = patch(&old, &status) else {
            self.reported = Some(now);
            return Ok(());
        };
        let name = &self.node.settings.node_name;
        let answer = self
            .api()
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        match answer {
            Ok(node) => {
                self.node.state.write().node = Some(Arc::new(node));
                self.reported = Some(now);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Somebody deleted the node; it comes back, as upstream's does.
                self.node.state.write().node = None;
                self.register().await;
                Ok(())
            }
            Err(error) => Err(self.failed("writing the status of node")(error)),
        }
    }

    async fn tell_pod_cidr(&mut self) {
        let spec = self.node.state.read().node.as_ref().and_then(|n| n.spec.clone());
        let Some(spec) = spec else { return };
        let cidr = match spec.pod_cidrs.as_deref() {
            Some(list) if !list.is_empty() => list.join(","),
            _ => spec.pod_cidr.unwrap_or_default(),
        };
        if cidr.is_empty() || self.pod_cidr.as_ref() == Some(&cidr) {
            return;
        }
        match self.node.runtime.update_pod_cidr(&cidr).await {
            Ok(()) => {
                self.pod_cidr = Some(cidr);
                self.observe_runtime().await;
            }
            Err(error) => tracing::warn!(
                error = error.full(),
                cidr,
                "cannot tell the runtime the pod range"
            ),
        }
    }

    /// What the runtime says of itself; pods hear of a change.
    async fn observe_runtime(&mut self) -> Option<cri::v1::StatusResponse> {
        let answer = self.node.runtime.status().await;
        let (runtime_error, network_error) = match &answer {
            Ok(answer) => errors_of(answer),
            Err(error) => (Some(format!("container runtime is down: {}", error.full())), None),
        };
        let changed = {
            let mut state = self.node.state.write();
            let changed = state.runtime_error != runtime_error || state.network_error != network_error;
            state.runtime_error = runtime_error;
            state.network_error = network_error;
            changed
        };
        if changed {
            self.workers.tell_all(&Command::Look);
        }
        answer.ok()
    }

    async fn observe(&mut self) -> Observed {
        let answer = self.observe_runtime().await;
        let state = self.node.state.read().clone();
        let errors: Vec<String> = [state.runtime_error, state.network_error]
            .into_iter()
            .flatten()
            .collect();
        let now = self.node.clock.now();
        if self
            .images
            .as_ref()
            .is_none_or(|(at, _)| since(now, *at) >= IMAGES)
            && let Ok(images) = self.node.runtime.images().await
        {
            self.images = Some((now, images));
        }
        let pressures = &self.node.pressures;
        Observed {
            errors,
            memory_pressure: pressures.has(Pressure::Memory),
            disk_pressure: pressures.has(Pressure::Disk),
            pid_pressure: pressures.has(Pressure::Pids),
            images: self
                .images
                .as_ref()
                .map(|(_, images)| images.clone())
                .unwrap_or_default(),
            runtime: self.node.runtime.name().to_owned(),
            runtime_version: self.node.runtime.version().to_owned(),
            handlers: answer
                .as_ref()
                .map(|a| a.runtime_handlers.clone())
                .unwrap_or_default(),
            features: answer.and_then(|a| a.features),
            devices: self.node.devices.counts(),
            volumes_in_use: self.node.csi.in_use(),
        }
    }
}

/// Upstream's words for a runtime that is not ready.
fn errors_of(answer: &cri::v1::StatusResponse) -> (Option<String>, Option<String>) {
    let conditions = answer
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    let find = |kind: &str| conditions.iter().find(|c| c.r#type == kind && !c.status);
    let words = |c: &cri::v1::RuntimeCondition, ready: &str| {
        format!("{ready} reason:{} message:{}", c.reason, c.message)
    };
    (
        find("RuntimeReady").map(|c| words(c, "container runtime not ready: RuntimeReady=false")),
        find("NetworkReady").map(|c| words(c, "container runtime network not ready: NetworkReady=false")),
    )
}

/// Only what changed: conditions and addresses by their keys, the rest whole.
fn patch(old: &NodeStatus, new: &NodeStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        // These types always become objects.
        return None;
    };
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(items)) => {
                let before = old.get(key).and_then(Value::as_array);
                let changed = |item: &&Value| before.is_none_or(|b| !b.contains(item));
                Value::Array(items.iter().filter(changed).cloned().collect())
            }
            ("addresses", Value::Array(items)) => {
                let mut items = items.clone();
                items.push(json!({"$patch": "replace"}));
                Value::Array(items)
            }
            _ => value.clone(),
        };
        status.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        status.insert(key.clone(), Value::Null);
    }
    (!status.is_empty()).then(|| json!({"status": status}))
}
