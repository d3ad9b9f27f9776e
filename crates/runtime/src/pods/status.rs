//! Pods and containers in CRI's words.

use cri::v1::{
    self, ContainerResources, ContainerUser, ImageSpec, LinuxContainerUser, LinuxPodSandboxStatus, Namespace,
    PodIp, PodSandboxNetworkStatus, PodSandboxState,
};

use super::Engine;
use super::state::{Container, ContainerState, Pod};
use super::stop_signal;

impl Engine {
    pub(crate) fn pod_status(&self, pod: &Pod) -> v1::PodSandboxStatus {
        let config = pod.config();
        let mut ips = pod.record.ips.iter().cloned();
        v1::PodSandboxStatus {
            id: pod.id.clone(),
            metadata: config.metadata.clone(),
            state: pod_state(pod) as i32,
            created_at: pod.record.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| PodIp { ip }).collect(),
            }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: Some(pod.namespace_options()),
                }),
            }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: pod.request.runtime_handler.clone(),
        }
    }

    pub(crate) fn container_status(&self, container: &Container) -> v1::ContainerStatus {
        let (config, record) = (&container.config, &container.record);
        let mut status = v1::ContainerStatus {
            id: container.id.clone(),
            metadata: config.metadata.clone(),
            state: container_state(container) as i32,
            created_at: record.created_at,
            started_at: record.started_at,
            image: Some(image_spec(container)),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.to_string(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: record.log_path.display().to_string(),
            resources: Some(ContainerResources {
                linux: container.resources().cloned(),
            }),
            user: Some(ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: i64::from(record.uid),
                    gid: i64::from(record.gid),
                    supplemental_groups: record.groups.iter().copied().map(i64::from).collect(),
                }),
            }),
            stop_signal: stop_signal::to_cri(record.stop_signal) as i32,
            ..Default::default()
        };
        if let ContainerState::Exited(exit) = &container.state {
            status.finished_at = exit.at;
            status.exit_code = exit.code;
            status.message.clone_from(&exit.message);
            status.reason = match exit {
                exit if !exit.message.is_empty() => "StartError",
                exit if exit.oom_killed => "OOMKilled",
                exit if exit.code == super::events::LOST && record.started_at == 0 => "Unknown",
                exit if exit.code == 0 => "Completed",
                _ => "Error",
            }
            .to_owned();
        }
        status
    }
}

pub(crate) fn pod_item(pod: &Pod) -> v1::PodSandbox {
    let config = pod.config();
    v1::PodSandbox {
        id: pod.id.clone(),
        metadata: config.metadata.clone(),
        state: pod_state(pod) as i32,
        created_at: pod.record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: pod.request.runtime_handler.clone(),
    }
}

pub(crate) fn container_item(container: &Container) -> v1::Container {
    v1::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.pod_id.clone(),
        metadata: container.config.metadata.clone(),
        image: Some(image_spec(container)),
        image_ref: container.record.image_ref.clone(),
        image_id: container.record.image_id.to_string(),
        state: container_state(container) as i32,
        created_at: container.record.created_at,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
    }
}

fn image_spec(container: &Container) -> ImageSpec {
    let mut spec = container.config.image.clone().unwrap_or_default();
    spec.image.clone_from(&container.record.image_name);
    spec
}

fn pod_state(pod: &Pod) -> PodSandboxState {
    match pod.record.ready {
        true => PodSandboxState::SandboxReady,
        false => PodSandboxState::SandboxNotready,
    }
}

fn container_state(container: &Container) -> v1::ContainerState {
    match container.state {
        // Not running before the start has been answered.
        ContainerState::Created | ContainerState::Starting | ContainerState::StartingAdopted => {
            v1::ContainerState::ContainerCreated
        }
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
    }
}
