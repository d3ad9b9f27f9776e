//! A pod as the runtime tells it: one snapshot of its sandboxes and containers, newest first.
//!
//! **Invariant:** a snapshot is made of answers of the runtime alone, so the same snapshot comes back after a
//! restart of the kubelet. Restart counts, hashes and message paths travel in container annotations.

use std::net::IpAddr;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::labels::{self, ContainerInfo};
use crate::pod::{PodExt, should_restart};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStatus {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    /// The active sandbox's addresses, the primary one first.
    pub ips: Vec<String>,
    pub sandboxes: Vec<v1::PodSandboxStatus>,
    pub containers: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    pub id: String,
    /// Empty where the runtime does not tell (an event of an older one).
    pub sandbox_id: String,
    pub name: String,
    pub state: State,
    pub image: String,
    /// What the API shows as `imageID`.
    pub image_ref: String,
    pub created_at: Timestamp,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub log_path: String,
    pub user: Option<v1::LinuxContainerUser>,
    pub resources: Option<v1::LinuxContainerResources>,
    pub mounts: Vec<v1::Mount>,
    pub info: ContainerInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }
}

/// What [`PodStatus::sandbox_changed`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxNeed {
    pub create: bool,
    pub attempt: u32,
    pub id: Option<String>,
}

impl PodStatus {
    pub fn new(uid: &str, name: &str, namespace: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..Self::default()
        }
    }

    /// Puts a snapshot together. `containers` may come in any order.
    pub fn assemble(
        mut self,
        mut sandboxes: Vec<v1::PodSandboxStatus>,
        mut containers: Vec<ContainerStatus>,
    ) -> Self {
        sandboxes.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        containers.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        self.ips = sandboxes
            .first()
            .filter(|s| s.state() == v1::PodSandboxState::SandboxReady)
            .map(sandbox_ips)
            .unwrap_or_default();
        self.sandboxes = sandboxes;
        self.containers = containers;
        self
    }

    /// The newest container of this name.
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.name == name)
    }

    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| c.state == State::Running)
    }

    pub fn is_running(&self) -> bool {
        self.running().next().is_some()
            || self
                .sandboxes
                .iter()
                .any(|s| s.state() == v1::PodSandboxState::SandboxReady)
    }

    pub fn active_sandbox(&self) -> Option<&v1::PodSandboxStatus> {
        self.sandboxes
            .first()
            .filter(|s| s.state() == v1::PodSandboxState::SandboxReady)
    }

    /// Containers of the sandbox in use; all where the runtime does not say whose they are.
    pub fn active_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        let id = self.active_sandbox().map(|s| s.id.as_str());
        self.containers
            .iter()
            .filter(move |c| id.is_some_and(|id| c.sandbox_id.is_empty() || c.sandbox_id == id))
    }

    /// Whether the pod needs another sandbox, and with which attempt number.
    pub fn sandbox_changed(&self, pod: &Pod) -> SandboxNeed {
        let Some(newest) = self.sandboxes.first() else {
            return SandboxNeed {
                create: true,
                attempt: 0,
                id: None,
            };
        };
        let attempt = newest.metadata.as_ref().map_or(0, |m| m.attempt);
        let another = |id| SandboxNeed {
            create: true,
            attempt: attempt + 1,
            id,
        };
        let ready = self
            .sandboxes
            .iter()
            .filter(|s| s.state() == v1::PodSandboxState::SandboxReady)
            .count();
        if ready > 1 || newest.state() != v1::PodSandboxState::SandboxReady {
            return another(Some(newest.id.clone()));
        }
        let network = newest
            .linux
            .as_ref()
            .and_then(|l| l.namespaces.as_ref())
            .and_then(|n| n.options.as_ref())
            .map_or(v1::NamespaceMode::Pod, |o| o.network());
        let wanted = if pod.host_network() {
            v1::NamespaceMode::Node
        } else {
            v1::NamespaceMode::Pod
        };
        if network != wanted {
            return another(None);
        }
        if !pod.host_network() && newest.network.as_ref().is_some_and(|n| n.ip.is_empty()) {
            return another(Some(newest.id.clone()));
        }
        SandboxNeed {
            create: false,
            attempt,
            id: Some(newest.id.clone()),
        }
    }

    /// Whether `container` is to be started as things stand.
    pub fn should_be_restarted(&self, pod: &Pod, container: &Container) -> bool {
        if pod.is_deleting() {
            return false;
        }
        match self.container(&container.name) {
            None => true,
            Some(status) => match status.state {
                State::Running => false,
                State::Created | State::Unknown => true,
                State::Exited => should_restart(container, pod.restart_policy(), status.exit_code),
            },
        }
    }

    /// Whether any regular container was made, now or before.
    pub fn has_regular_container(&self, pod: &Pod) -> bool {
        pod.containers()
            .iter()
            .filter_map(|c| self.container(&c.name))
            .any(|s| s.state != State::Unknown)
    }
}

fn sandbox_ips(sandbox: &v1::PodSandboxStatus) -> Vec<String> {
    let Some(network) = &sandbox.network else {
        return Vec::new();
    };
    std::iter::once(&network.ip)
        .chain(network.additional_ips.iter().map(|ip| &ip.ip))
        .filter(|ip| ip.parse::<IpAddr>().is_ok())
        .cloned()
        .collect()
}

/// Reads one container as the runtime tells it; the message is completed by
/// [`super::termination_message`].
pub fn container_status(status: v1::ContainerStatus, sandbox_id: &str) -> ContainerStatus {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running,
        v1::ContainerState::ContainerExited => State::Exited,
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let name = status
        .labels
        .get(labels::CONTAINER_NAME)
        .cloned()
        .or_else(|| status.metadata.as_ref().map(|m| m.name.clone()))
        .unwrap_or_default();
    let image = status.image.as_ref();
    ContainerStatus {
        info: labels::container_info(&status.annotations),
        sandbox_id: sandbox_id.to_owned(),
        name,
        state,
        image: image
            .map(|i| {
                if i.user_specified_image.is_empty() {
                    &i.image
                } else {
                    &i.user_specified_image
                }
            })
            .cloned()
            .unwrap_or_default(),
        created_at: nanos(status.created_at),
        started_at: nanos(status.started_at),
        finished_at: nanos(status.finished_at),
        exit_code: status.exit_code,
        user: status.user.and_then(|u| u.linux),
        resources: status.resources.and_then(|r| r.linux),
        id: status.id,
        image_ref: status.image_ref,
        reason: status.reason,
        message: status.message,
        log_path: status.log_path,
        mounts: status.mounts,
    }
}

/// A time of CRI: nanoseconds since the epoch, zero for never.
pub fn nanos(value: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(value)).unwrap_or(Timestamp::UNIX_EPOCH)
}
