//! Containers: create, start, stop, remove, update.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1::{
    ContainerConfig, ContainerEventType, CreateContainerRequest, LinuxContainerResources, NamespaceMode,
};
use linux::cgroup::{CgroupPath, Version};
use tokio::sync::watch;
use tonic::Status;

use super::engine::{blocking, internal, new_id};
use super::prepare::{Plan, prepare};
use super::state::{
    CONTAINERS, Container, ContainerState, Pod, container_config, now, read_json, write_request,
};
use super::{Engine, sandbox, stop_signal};
use crate::oci::spec::{self, CgroupView, Namespaces, PidNamespace};
use crate::oci::{devices, resources};
use crate::shim::files;
use crate::shim::protocol::{Request, StartSpec};

/// How long a killed process may take to be gone before that is an error.
const KILL_PATIENCE: Duration = Duration::from_secs(120);

impl Engine {
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        mut request: CreateContainerRequest,
    ) -> Result<String, Status> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        let _turn = pod.turn.clone().lock_owned().await;
        let pod = self.pod(&pod.id)?;
        if !pod.record.ready {
            return Err(Status::failed_precondition(format!(
                "sandbox {:?} is not running",
                pod.id
            )));
        }
        self.resolve_image_mounts(&mut request);
        let config = container_config(&request);
        let name = config.image.as_ref().map_or("", |image| image.image.as_str());
        let image = self.images.find(name).ok_or_else(|| {
            Status::not_found(format!(
                "failed to resolve image {name:?}: image {name:?}: not found"
            ))
        })?;
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("container metadata is required"))?;
        let twin = self
            .containers_of(&pod.id)
            .into_iter()
            .find(|other| other.config.metadata.as_ref() == Some(&metadata));
        if let Some(twin) = twin {
            let name = format!(
                "{}_{}_{}",
                metadata.name,
                sandbox::pod_name(&pod),
                metadata.attempt
            );
            return Err(Status::unknown(format!(
                "failed to reserve container name {name:?}: name {name:?} is reserved for {:?}",
                twin.id
            )));
        }
        let id = new_id();
        let cgroup_path = format!("{}/{id}", pod.cgroup_parent().trim_end_matches('/'));
        let plan = Plan {
            dir: pod.dir.join(CONTAINERS).join(&id),
            namespaces: self.namespaces(&pod, &config)?,
            cgroups: self.cgroup_view(&cgroup_path)?,
            cgroup_path,
            log_path: log_path(&pod, &config),
            id: id.clone(),
            pod,
            config,
            image,
        };
        let (images, pod_id) = (self.images.clone(), plan.pod.id.clone());
        let container = blocking(move || {
            let made = prepare(&plan, &images, &request);
            if made.is_err()
                && let Err(error) = sandbox::remove_dir(&plan.dir)
            {
                tracing::warn!(container = %plan.id, %error, "the failed container's directory stays");
            }
            made
        })
        .await
        .map_err(|message| Status::unknown(format!("failed to create container: {message}")))?;
        self.tables.lock().containers.insert(id.clone(), container);
        self.announce(&id, &pod_id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    /// Notes which image each image mount shows, so that it can be told as long as the container is there.
    fn resolve_image_mounts(&self, request: &mut CreateContainerRequest) {
        let mounts = request.config.iter_mut().flat_map(|config| &mut config.mounts);
        for image in mounts.filter_map(|mount| mount.image.as_mut()) {
            if let Some(record) = self.images.find(&image.image) {
                image.image_ref = record.id.to_string();
            }
        }
    }

    fn cgroup_view(&self, path: &str) -> Result<CgroupView, Status> {
        let path = CgroupPath::new(path)
            .map_err(|error| internal("failed to name the container's cgroup", &error))?;
        if self.cgroups.version() == Version::V2 {
            return Ok(CgroupView::Unified);
        }
        let depth = path.as_str().split('/').count();
        let mut hierarchies = Vec::new();
        for controller in self.cgroups.controllers() {
            let Some(dir) = self.cgroups.directory(controller, &path) else {
                continue;
            };
            // Controllers mounted together have one directory, named after all of them.
            let name = dir
                .ancestors()
                .nth(depth)
                .and_then(Path::file_name)
                .and_then(|name| name.to_str());
            if let Some(name) = name
                && !hierarchies.iter().any(|(known, _)| known == name)
            {
                hierarchies.push((name.to_owned(), dir));
            }
        }
        Ok(CgroupView::Hierarchies(hierarchies))
    }

    fn namespaces(&self, pod: &Pod, config: &ContainerConfig) -> Result<Namespaces, Status> {
        let own = |name: &str| PathBuf::from(format!("/proc/{}/ns/{name}", pod.record.shim_pid));
        let host_network = pod.is_host_network();
        let (mode, target) = spec::pid_mode(config);
        let pid = match mode {
            NamespaceMode::Container => PidNamespace::Own,
            NamespaceMode::Node => PidNamespace::Host,
            NamespaceMode::Pod => match pod.record.pause_pid {
                Some(pid) => PidNamespace::Shared(format!("/proc/{pid}/ns/pid").into()),
                None => PidNamespace::Own,
            },
            NamespaceMode::Target => {
                let target = self.container(&target)?;
                match target.state {
                    ContainerState::Running { pid } if target.pod_id == pod.id => {
                        PidNamespace::Shared(format!("/proc/{pid}/ns/pid").into())
                    }
                    ContainerState::Running { .. } => {
                        return Err(Status::invalid_argument(
                            "the target container is in another sandbox",
                        ));
                    }
                    _ => {
                        return Err(Status::failed_precondition(format!(
                            "failed to get target container: container {:?} is not running",
                            target.id
                        )));
                    }
                }
            }
        };
        Ok(Namespaces {
            network: (!host_network).then(|| own("net")),
            ipc: (pod.namespace_options().ipc() != NamespaceMode::Node).then(|| own("ipc")),
            uts: (!host_network).then(|| own("uts")),
            pid,
        })
    }

    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let pod = self.pod(&container.pod_id)?;
        let _turn = pod.turn.clone().lock_owned().await;
        let pod = self.pod(&pod.id)?;
        if !pod.record.ready {
            return Err(Status::failed_precondition(format!(
                "sandbox container {:?} is not running",
                pod.id
            )));
        }
        let taken = self.change(&container.id, |container| {
            let fresh = container.state == ContainerState::Created;
            if fresh {
                container.state = ContainerState::Starting;
                // Now, because a short life may be over before the start is answered.
                container.record.started_at = now();
            }
            fresh
        });
        if taken != Some(true) {
            return Err(Status::failed_precondition(format!(
                "failed to start container {:?}: the container is not in created state",
                container.id
            )));
        }
        let result = self.launch(&pod, &container).await;
        match result {
            Ok(pid) => {
                let saved = self.change(&container.id, |container| {
                    if container.state == ContainerState::Starting {
                        container.state = ContainerState::Running { pid };
                    }
                    container.save()
                });
                if let Some(Err(error)) = saved {
                    tracing::warn!(container = %container.id, %error, "the start cannot be written down");
                }
                self.announce(&container.id, &pod.id, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Err(message) => {
                self.start_failed(&container.id, message.clone());
                Err(Status::unknown(format!(
                    "failed to start container {:?}: {message}",
                    container.id
                )))
            }
        }
    }

    async fn launch(&self, pod: &Pod, container: &Container) -> Result<i32, String> {
        let cgroup = container.cgroup().map_err(|error| error.to_string())?;
        let limits = container.resources().map(resources::from_cri);
        let (cgroups, own) = (self.cgroups.clone(), cgroup.clone());
        let dir = container.dir.clone();
        blocking(move || {
            let failed = |error: linux::Error| crate::images::describe(&error);
            cgroups.create(&own).map_err(failed)?;
            if let Some(limits) = limits {
                cgroups.set(&own, &limits).map_err(failed)?;
            }
            // v1's files are libcontainer's to write.
            if cgroups.version() == Version::V2
                && let Some(rules) = read_json(&dir, files::CONFIG)
                    .map_err(|error| error.to_string())
                    .and_then(|config| devices::allowed(&config))?
            {
                cgroups.allow_devices(&own, &rules).map_err(failed)?;
            }
            Ok(())
        })
        .await
        .map_err(|error: String| format!("failed to set up cgroup: {error}"))?;
        let oom_name = match self.cgroups.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let (mode, _) = spec::pid_mode(&container.config);
        let shares_pids = mode != NamespaceMode::Container;
        let spec = StartSpec {
            id: container.id.clone(),
            dir: container.dir.clone(),
            log_path: container.record.log_path.clone(),
            tty: container.config.tty,
            stdin: container.config.stdin,
            stdin_once: container.config.stdin_once,
            uid: container.record.uid,
            gid: container.record.gid,
            oom_score_adj: container
                .resources()
                .and_then(|limits| i32::try_from(limits.oom_score_adj).ok()),
            oom_file: self
                .cgroups
                .directory("memory", &cgroup)
                .map(|dir| dir.join(oom_name)),
            kill_cgroup: shares_pids
                .then(|| self.cgroups.directory("memory", &cgroup))
                .flatten(),
        };
        pod.shim.start(spec).await.map_err(|error| {
            format!(
                "OCI runtime create failed: unable to start container process: {}",
                crate::images::describe(&error)
            )
        })
    }

    /// Asks the container to end, waits for as long as it may take, then insists.
    pub(crate) async fn stop_container(self: &Arc<Self>, id: &str, patience: Duration) -> Result<(), Status> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        if container.state == ContainerState::Created {
            return Ok(());
        }
        let mut ended = container.ended.subscribe();
        if !patience.is_zero() && container.is_running() {
            self.signal(&container, container.record.stop_signal).await?;
            if tokio::time::timeout(patience, wait_ended(&mut ended))
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        if *ended.borrow() {
            return Ok(());
        }
        self.signal(&container, stop_signal::SIGKILL).await?;
        let Ok(()) = tokio::time::timeout(KILL_PATIENCE, wait_ended(&mut ended)).await else {
            return Err(Status::deadline_exceeded(format!(
                "failed to kill container {:?}: still there after {} s",
                container.id,
                KILL_PATIENCE.as_secs()
            )));
        };
        Ok(())
    }

    async fn signal(&self, container: &Container, signal: i32) -> Result<(), Status> {
        let pod = self.pod(&container.pod_id)?;
        match pod
            .shim
            .tell(&Request::Kill {
                id: container.id.clone(),
                signal,
            })
            .await
        {
            Ok(()) | Err(crate::shim::client::ShimError::NotFound) => Ok(()),
            // A shim that is gone has its containers lost elsewhere.
            Err(crate::shim::client::ShimError::Unreachable(error)) => {
                tracing::debug!(container = %container.id, %error, "no shim to signal through");
                Ok(())
            }
            Err(error) => Err(internal(
                &format!("failed to signal container {:?}", container.id),
                &error,
            )),
        }
    }

    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        if container.is_running() {
            self.stop_container(&container.id, Duration::ZERO).await?;
        }
        if let Ok(pod) = self.pod(&container.pod_id)
            && let Err(error) = pod
                .shim
                .tell(&Request::Forget {
                    id: container.id.clone(),
                })
                .await
        {
            tracing::debug!(container = %container.id, %error, "no shim to forget it");
        }
        let (dir, cgroup, cgroups) = (container.dir.clone(), container.cgroup(), self.cgroups.clone());
        blocking(move || {
            if let Ok(cgroup) = cgroup
                && let Err(error) = cgroups.remove(&cgroup)
            {
                tracing::warn!(%error, "the removed container's cgroup stays");
            }
            sandbox::remove_dir(&dir)
        })
        .await
        .map_err(|error| internal(&format!("failed to remove container {:?}", container.id), &error))?;
        self.announce(
            &container.id,
            &container.pod_id,
            ContainerEventType::ContainerDeletedEvent,
        );
        self.tables.lock().containers.remove(&container.id);
        self.samples.forget(&container.id);
        Ok(())
    }

    pub(crate) async fn update_resources(
        &self,
        id: &str,
        wanted: Option<LinuxContainerResources>,
    ) -> Result<(), Status> {
        let container = self.container(id)?;
        let Some(wanted) = wanted else { return Ok(()) };
        if container.is_running() {
            let limits = resources::from_cri(&wanted);
            let cgroup = container
                .cgroup()
                .map_err(|error| internal("failed to update resources", &error))?;
            let cgroups = self.cgroups.clone();
            blocking(move || cgroups.set(&cgroup, &limits))
                .await
                .map_err(|error| {
                    internal(
                        &format!("failed to update resources of container {:?}", container.id),
                        &error,
                    )
                })?;
        }
        let saved = self.change(&container.id, |container| {
            let linux = container.config.linux.get_or_insert_default();
            resources::merge(linux.resources.get_or_insert_default(), &wanted);
            let request = CreateContainerRequest {
                pod_sandbox_id: container.pod_id.clone(),
                config: Some(container.config.clone()),
                sandbox_config: None,
            };
            write_request(&container.dir, &request)
        });
        match saved {
            Some(Err(error)) => Err(internal("failed to write the container's record", &error)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        if !container.is_running() {
            return Err(Status::unknown("container is not running"));
        }
        let pod = self.pod(&container.pod_id)?;
        pod.shim
            .tell(&Request::ReopenLog {
                id: container.id.clone(),
            })
            .await
            .map_err(|error| internal("failed to reopen container log file", &error))
    }
}

async fn wait_ended(ended: &mut watch::Receiver<bool>) {
    // The sender lives in the table; if the container is gone from there it has ended.
    ended.wait_for(|ended| *ended).await.ok();
}

fn log_path(pod: &Pod, config: &ContainerConfig) -> PathBuf {
    match (pod.config().log_directory.as_str(), config.log_path.as_str()) {
        ("", _) | (_, "") => PathBuf::new(),
        (directory, file) => Path::new(directory).join(file),
    }
}
