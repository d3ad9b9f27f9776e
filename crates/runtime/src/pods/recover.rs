//! Finding everything again after a restart, and taking everything away.

use std::path::Path;
use std::sync::Arc;

use cri::v1::CreateContainerRequest;
use tokio::sync::watch;

use super::Engine;
use super::engine::blocking;
use super::state::{
    CONTAINER_RECORD, CONTAINERS, Container, ContainerState, POD_RECORD, Pod, container_config, now,
    read_json, read_request,
};
use super::{events, sandbox};
use crate::shim::client::Shim;
use crate::shim::files;
use crate::shim::protocol::{self, Exit};

impl Engine {
    /// Adopts the pods whose shims live, records the end of those whose do not, and clears what was
    /// half-made when the last runtime died.
    pub(crate) async fn recover(self: &Arc<Self>) -> std::io::Result<()> {
        let pods_dir = self.pods_dir();
        std::fs::create_dir_all(&pods_dir)?;
        for entry in std::fs::read_dir(&pods_dir)?.filter_map(Result::ok) {
            let dir = entry.path();
            let Some(id) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            match load_pod(&id, &dir) {
                Ok(pod) => self.adopt(pod).await,
                Err(error) => {
                    tracing::info!(pod = %id, %error, "an unfinished pod is cleared away");
                    self.clear(&id, &dir).await;
                }
            }
        }
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, mut pod: Pod) {
        let id = pod.id.clone();
        let mut containers = self.load_containers(&pod).await;
        let live = match pod.record.ready {
            true => pod.shim.subscribe().await.ok(),
            false => None,
        };
        let was_ready = std::mem::replace(&mut pod.record.ready, live.is_some());
        if let Some((state, _)) = &live {
            (pod.record.shim_pid, pod.record.pause_pid) = (state.pid, state.pause_pid);
        }
        let known = live
            .as_ref()
            .map(|(state, _)| state.containers.as_slice())
            .unwrap_or_default();
        for container in &mut containers {
            place(container, known.iter().find(|one| one.id == container.id));
        }
        let running = containers
            .iter()
            .filter(|container| container.is_running())
            .count();
        tracing::info!(pod = %id, containers = containers.len(), running, live = live.is_some(), "pod adopted");
        {
            let mut tables = self.tables.lock();
            tables.containers.extend(
                containers
                    .into_iter()
                    .map(|container| (container.id.clone(), container)),
            );
            tables.pods.insert(id.clone(), pod);
        }
        match live {
            Some((_, connection)) => self.follow(id, connection),
            None if was_ready => {
                self.lose_containers(&id).await;
                if let Some(Err(error)) = self.change_pod(&id, |pod| pod.save()) {
                    tracing::warn!(pod = %id, %error, "the pod's record cannot be written");
                }
            }
            None => {}
        }
    }

    async fn load_containers(self: &Arc<Self>, pod: &Pod) -> Vec<Container> {
        let mut found = Vec::new();
        // A pod without containers has no such directory.
        let Ok(entries) = std::fs::read_dir(pod.dir.join(CONTAINERS)) else {
            return found;
        };
        for entry in entries.filter_map(Result::ok) {
            match load_container(&pod.id, &entry.path()) {
                Ok(container) => found.push(container),
                Err(error) => {
                    let dir = entry.path();
                    tracing::info!(dir = %dir.display(), %error, "an unfinished container is cleared away");
                    if let Err(error) = blocking(move || sandbox::remove_dir(&dir)).await {
                        tracing::warn!(%error, "an unfinished container stays");
                    }
                }
            }
        }
        found
    }

    /// Takes away a pod whose making was never finished.
    async fn clear(self: &Arc<Self>, id: &str, dir: &Path) {
        let request = read_request(dir).unwrap_or_default();
        let mut pod = Pod {
            id: id.to_owned(),
            dir: dir.to_owned(),
            request,
            record: Default::default(),
            shim: Shim::at(dir),
            turn: Arc::default(),
        };
        let netns = cri::network::netns_path(&self.config.root, id);
        pod.record.netns = netns.exists().then_some(netns);
        self.take_down(&pod).await;
        let dir = dir.to_owned();
        if let Err(error) = blocking(move || sandbox::remove_dir(&dir)).await {
            tracing::warn!(pod = %id, %error, "an unfinished pod stays");
        }
    }

    /// Stops and removes every pod.
    pub(crate) async fn remove_everything(self: &Arc<Self>) -> Result<(), tonic::Status> {
        let removals = self.pods().into_iter().map(|pod| {
            let engine = self.clone();
            async move { engine.remove_pod(&pod.id).await }
        });
        futures::future::join_all(removals).await.into_iter().collect()
    }
}

fn load_pod(id: &str, dir: &Path) -> std::io::Result<Pod> {
    Ok(Pod {
        id: id.to_owned(),
        dir: dir.to_owned(),
        request: read_request(dir)?,
        record: read_json(dir, POD_RECORD)?,
        shim: Shim::at(dir),
        turn: Arc::default(),
    })
}

fn load_container(pod_id: &str, dir: &Path) -> std::io::Result<Container> {
    let request: CreateContainerRequest = read_request(dir)?;
    let id = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ok(Container {
        id: id.to_owned(),
        pod_id: pod_id.to_owned(),
        dir: dir.to_owned(),
        config: container_config(&request),
        record: read_json(dir, CONTAINER_RECORD)?,
        state: ContainerState::Created,
        ended: watch::Sender::new(false),
    })
}

/// Decides what state a container found on disk is in, given what its shim says of it.
fn place(container: &mut Container, known: Option<&protocol::ContainerState>) {
    let on_disk: Option<Exit> = read_json(&container.dir, files::EXIT).ok();
    container.state = match (on_disk, known) {
        (Some(exit), _) => ContainerState::Exited(exit),
        (None, Some(known)) => match &known.exit {
            Some(exit) => ContainerState::Exited(exit.clone()),
            None if known.pid != 0 => {
                if container.record.started_at == 0 {
                    // It was started and the runtime died before it could say so.
                    container.record.started_at = now();
                }
                ContainerState::Running { pid: known.pid }
            }
            // Its helper is still at work; nobody waits for it any more.
            None => ContainerState::StartingAdopted,
        },
        (None, None) if container.record.started_at == 0 => ContainerState::Created,
        (None, None) => ContainerState::Exited(Exit {
            code: events::LOST,
            at: now(),
            oom_killed: false,
            message: String::new(),
        }),
    };
    container
        .ended
        .send_replace(matches!(container.state, ContainerState::Exited(_)));
}
