//! What happens to containers, told within milliseconds: to whoever listens on the events stream, and to
//! whoever waits for an end.

use std::sync::Arc;

use cri::v1::{ContainerEventResponse, ContainerEventType};

use super::Engine;
use super::engine::blocking;
use super::state::{ContainerState, now};
use crate::shim::client::Connection;
use crate::shim::protocol::{Event, Exit};

/// What a container exits with that could not be started, containerd's figure.
const START_FAILED: i32 = 128;
/// How a container ends that nobody saw ending.
pub(super) const LOST: i32 = 255;

impl Engine {
    pub(crate) fn listen(&self) -> tokio::sync::broadcast::Receiver<ContainerEventResponse> {
        self.events.subscribe()
    }

    /// Tells of a change of a container, or of the pod itself.
    pub(super) fn announce(&self, id: &str, pod_id: &str, kind: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let Ok(pod) = self.pod(pod_id) else { return };
        let containers = self.containers_of(pod_id);
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: Some(self.pod_status(&pod)),
            containers_statuses: containers
                .iter()
                .map(|container| self.container_status(container))
                .collect(),
        };
        // The last listener may just have left.
        self.events.send(event).ok();
    }

    /// Follows a pod's shim until it ends.
    pub(super) fn follow(self: &Arc<Self>, pod_id: String, mut connection: Connection) {
        let engine = self.clone();
        tokio::spawn(async move {
            while let Some(event) = connection.event().await {
                match event {
                    Event::Exited { id, exit } => engine.exited(&id, exit),
                    Event::Started { id, pid } => engine.started_unasked(&id, pid),
                    Event::StartFailed { id, message } => engine.start_failed_unasked(&id, message),
                    // Those who wait for an exec have a connection of their own.
                    Event::ExecExited { .. } => {}
                }
            }
            engine.shim_gone(&pod_id).await;
        });
    }

    /// A start that an earlier runtime asked for has come to something; ours are told to who asked.
    fn started_unasked(self: &Arc<Self>, id: &str, pid: i32) {
        let changed = self.change(id, |container| {
            if container.state != ContainerState::StartingAdopted {
                return None;
            }
            container.state = ContainerState::Running { pid };
            container.record.started_at = now();
            if let Err(error) = container.save() {
                tracing::warn!(container = %container.id, %error, "the start cannot be written down");
            }
            Some(container.pod_id.clone())
        });
        if let Some(Some(pod_id)) = changed {
            self.announce(id, &pod_id, ContainerEventType::ContainerStartedEvent);
        }
    }

    fn start_failed_unasked(self: &Arc<Self>, id: &str, message: String) {
        let adopted = self.change(id, |container| container.state == ContainerState::StartingAdopted);
        if adopted == Some(true) {
            self.start_failed(id, message);
        }
    }

    /// A container could not be started: it ends before it began.
    pub(super) fn start_failed(self: &Arc<Self>, id: &str, message: String) {
        let exit = Exit {
            code: START_FAILED,
            at: now(),
            oom_killed: false,
            message,
        };
        let written = self.change(id, |container| {
            container.record.started_at = 0;
            super::state::write_json(&container.dir, crate::shim::files::EXIT, &exit)
        });
        if let Some(Err(error)) = written {
            tracing::warn!(container = %id, %error, "the end cannot be written down");
        }
        self.exited(id, exit);
    }

    /// A container has ended.
    pub(super) fn exited(self: &Arc<Self>, id: &str, exit: Exit) {
        let changed = self.change(id, |container| {
            if matches!(container.state, ContainerState::Exited(_)) {
                return None;
            }
            container.state = ContainerState::Exited(exit);
            container.ended.send_replace(true);
            Some((container.pod_id.clone(), container.cgroup()))
        });
        let Some(Some((pod_id, cgroup))) = changed else {
            return;
        };
        self.announce(id, &pod_id, ContainerEventType::ContainerStoppedEvent);
        let Ok(cgroup) = cgroup else { return };
        let cgroups = self.cgroups.clone();
        let id = id.to_owned();
        // Its processes are gone with the first one; what is left to do is rmdir.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cgroups.remove(&cgroup) {
                tracing::warn!(container = %id, %error, "the ended container's cgroup stays");
            }
        });
    }

    /// The shim ended without being told to: its containers cannot be watched, so they are not left to run.
    async fn shim_gone(self: &Arc<Self>, pod_id: &str) {
        let was_ready = self.change_pod(pod_id, |pod| std::mem::replace(&mut pod.record.ready, false));
        if was_ready != Some(true) {
            return;
        }
        tracing::warn!(pod = %pod_id, "the pod's shim is gone; the pod is over");
        self.lose_containers(pod_id).await;
        if let Some(Err(error)) = self.change_pod(pod_id, |pod| pod.save()) {
            tracing::warn!(pod = %pod_id, %error, "the pod's record cannot be written");
        }
        self.announce(pod_id, pod_id, ContainerEventType::ContainerStoppedEvent);
    }

    /// Kills what runs of a pod whose shim is gone, and records how it ended as far as that is known.
    pub(super) async fn lose_containers(self: &Arc<Self>, pod_id: &str) {
        for container in self.containers_of(pod_id) {
            if !container.is_running() {
                continue;
            }
            if let Ok(cgroup) = container.cgroup() {
                let cgroups = self.cgroups.clone();
                if let Err(error) = blocking(move || cgroups.remove(&cgroup)).await {
                    tracing::warn!(container = %container.id, %error, "the lost container's processes may still run");
                }
            }
            let exit = Exit {
                code: LOST,
                at: now(),
                oom_killed: false,
                message: String::new(),
            };
            if let Err(error) = super::state::write_json(&container.dir, crate::shim::files::EXIT, &exit) {
                tracing::warn!(container = %container.id, %error, "the end cannot be written down");
            }
            self.exited(&container.id, exit);
        }
    }
}
