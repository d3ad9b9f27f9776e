//! Containers: create, start, stop, remove, update.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1::security_profile::ProfileType;
use cri::v1::{
    ContainerConfig, ContainerEventType, CreateContainerRequest, LinuxContainerResources,
    LinuxContainerSecurityContext, MountPropagation, NamespaceMode, SecurityProfile,
};
use linux::Kernel;
use linux::cgroup::{CgroupPath, Version};
use linux::mount::Mounts;
use tokio::sync::watch;
use tonic::Status;

use super::Engine;
use super::engine::{blocking, internal, new_id};
use super::state::{
    CONTAINERS, Container, ContainerRecord, ContainerState, Pod, container_config, now, write_request,
};
use super::{rootfs, sandbox, stop_signal};
use crate::images::{Digest, ImageRecord, Images};
use crate::oci::host::{self, DeviceNode, ResolvedMount};
use crate::oci::spec::{self, CgroupView, Namespaces, PidNamespace};
use crate::oci::user::{self, Accounts, User};
use crate::oci::{capabilities, resources, seccomp};
use crate::shim::protocol::{Exit, Request, StartSpec};
use crate::shim::{Security, files};

/// How long a killed process may take to be gone before that is an error.
const KILL_PATIENCE: Duration = Duration::from_secs(120);
/// What a container exits with that could not be started, containerd's figure.
const START_FAILED: i32 = 128;

/// Everything about a container to be, decided before anything is done on the host.
struct Plan {
    id: String,
    dir: PathBuf,
    pod: Pod,
    config: ContainerConfig,
    image: ImageRecord,
    namespaces: Namespaces,
    cgroup_path: String,
    log_path: PathBuf,
    cgroups: CgroupView,
}

impl Engine {
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        request: CreateContainerRequest,
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
                    container.record.started_at = now();
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
                let exit = Exit {
                    code: START_FAILED,
                    at: now(),
                    oom_killed: false,
                    message: message.clone(),
                };
                if let Err(error) = super::state::write_json(&container.dir, files::EXIT, &exit) {
                    tracing::warn!(container = %container.id, %error, "the end cannot be written down");
                }
                self.exited(&container.id, exit);
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
        blocking(move || {
            cgroups.create(&own)?;
            limits.map_or(Ok(()), |limits| cgroups.set(&own, &limits))
        })
        .await
        .map_err(|error: linux::Error| {
            format!("failed to set up cgroup: {}", crate::images::describe(&error))
        })?;
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

/// Makes the container's directory with all that a start needs.
fn prepare(plan: &Plan, images: &Images, request: &CreateContainerRequest) -> Result<Container, String> {
    let io = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    std::fs::create_dir_all(&plan.dir).map_err(io("create the container's directory"))?;
    write_request(&plan.dir, request).map_err(io("write the request"))?;
    if let Some(parent) = plan
        .log_path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(parent).map_err(io("create the log directory"))?;
    }
    let image_config = images
        .config(&plan.image)
        .map_err(|error| crate::images::describe(&error))?;
    rootfs::mount(&plan.dir, images.lower_dirs(&plan.image.chain))
        .map_err(|error| format!("failed to mount rootfs: {}", crate::images::describe(&error)))?;
    let root = plan.dir.join("rootfs");
    let context = security_context(&plan.config);
    let user = user::resolve(&context, &image_config.user, &Accounts::read(&root))?;
    rootfs::make_working_dir(&root, spec::working_dir(&plan.config, &image_config))
        .map_err(io("create the working directory"))?;
    let (mounts, mounted_layers) = mounts(plan, images, &context)?;
    let devices = devices(&plan.config, context.privileged)?;
    let hostname = std::fs::read_to_string(plan.pod.dir.join("hostname")).unwrap_or_default();
    let oci = spec::build(&spec::Inputs {
        config: &plan.config,
        image: &image_config,
        user: &user,
        rootfs: &root,
        cgroup_path: &plan.cgroup_path,
        namespaces: &plan.namespaces,
        mounts: &mounts,
        devices: &devices,
        hostname: hostname.trim(),
        cgroups: &plan.cgroups,
        apparmor: apparmor(&context)?.as_deref(),
    })?;
    write_json(&plan.dir, files::CONFIG, &oci)?;
    write_security(&plan.dir, &context)?;
    let container = Container {
        id: plan.id.clone(),
        pod_id: plan.pod.id.clone(),
        dir: plan.dir.clone(),
        config: plan.config.clone(),
        record: record(plan, &user, &image_config.stop_signal, mounted_layers),
        state: ContainerState::Created,
        ended: watch::Sender::new(false),
    };
    container.save().map_err(io("write the container's record"))?;
    Ok(container)
}

fn record(plan: &Plan, user: &User, image_stop_signal: &str, mounted_layers: Vec<Digest>) -> ContainerRecord {
    let image = &plan.image;
    let id = image.id.to_string();
    ContainerRecord {
        created_at: now(),
        started_at: 0,
        image_ref: image.digests.first().cloned().unwrap_or_else(|| id.clone()),
        image_name: image
            .tags
            .first()
            .or(image.digests.first())
            .cloned()
            .unwrap_or(id),
        image_id: image.id.clone(),
        chain: image.chain.clone(),
        mounted_layers,
        cgroup: plan.cgroup_path.clone(),
        stop_signal: stop_signal::choose(plan.config.stop_signal(), image_stop_signal),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        log_path: plan.log_path.clone(),
    }
}

fn security_context(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.clone())
        .unwrap_or_default()
}

/// The container's own mounts, and before them those every container of the pod gets.
fn mounts(
    plan: &Plan,
    images: &Images,
    context: &LinuxContainerSecurityContext,
) -> Result<(Vec<ResolvedMount>, Vec<Digest>), String> {
    let table = Kernel.table().map_err(|error| error.to_string())?;
    let mut list = Vec::new();
    let mut layers = Vec::new();
    for (at, mount) in plan.config.mounts.iter().enumerate() {
        let source = match &mount.image {
            Some(image) => {
                let record = images
                    .find(&image.image)
                    .ok_or_else(|| format!("failed to resolve image mount {:?}: not found", image.image))?;
                let target = plan.dir.join("images").join(at.to_string());
                rootfs::mount_image(&target, &images.lower_dirs(&record.chain))
                    .map_err(|error| format!("failed to mount image: {}", crate::images::describe(&error)))?;
                layers.extend(record.chain);
                image_sub_path(&target, &mount.image_sub_path)?
            }
            None => host::mount_source(&mount.host_path).map_err(|error| {
                format!(
                    "failed to generate spec: failed to mkdir or resolve {:?}: {error}",
                    mount.host_path
                )
            })?,
        };
        host::check_propagation(&source, mount.propagation(), &table)
            .map_err(|error| format!("failed to generate spec: {error}"))?;
        list.push(ResolvedMount {
            target: mount.container_path.clone(),
            source,
            readonly: mount.readonly || mount.image.is_some(),
            recursive_read_only: mount.recursive_read_only,
            propagation: mount.propagation(),
        });
    }
    let pod = &plan.pod.dir;
    let shm = match plan.namespaces.ipc {
        Some(_) => pod.join("shm"),
        None => PathBuf::from("/dev/shm"),
    };
    let given = [
        ("/etc/hostname", pod.join("hostname"), context.readonly_rootfs),
        (
            "/etc/resolv.conf",
            pod.join("resolv.conf"),
            context.readonly_rootfs,
        ),
        ("/dev/shm", shm, false),
    ];
    let own: Vec<ResolvedMount> = given
        .into_iter()
        .filter(|(target, ..)| !list.iter().any(|mount| mount.target == *target))
        .map(|(target, source, readonly)| ResolvedMount {
            target: target.to_owned(),
            source,
            readonly,
            recursive_read_only: false,
            propagation: MountPropagation::PropagationPrivate,
        })
        .collect();
    Ok((own.into_iter().chain(list).collect(), layers))
}

/// A place within a mounted image, its links followed inside the image only.
fn image_sub_path(mounted: &Path, sub_path: &str) -> Result<PathBuf, String> {
    if sub_path.is_empty() {
        return Ok(mounted.to_owned());
    }
    let found = linux::beneath::open(mounted, Path::new(sub_path)).map_err(|error| error.to_string())?;
    let found = found.ok_or_else(|| format!("image sub path {sub_path:?}: not found"))?;
    std::fs::read_link(found.path()).map_err(|error| format!("image sub path {sub_path:?}: {error}"))
}

fn devices(config: &ContainerConfig, privileged: bool) -> Result<Vec<DeviceNode>, String> {
    let mut list = if privileged {
        host::all_devices()
    } else {
        Vec::new()
    };
    for device in &config.devices {
        for node in host::devices(device)? {
            list.retain(|known| known.path != node.path);
            list.push(node);
        }
    }
    Ok(list)
}

/// The AppArmor profile to run under. A kernel without AppArmor confines nobody, and only a profile asked
/// for by name is missed.
fn apparmor(context: &LinuxContainerSecurityContext) -> Result<Option<String>, String> {
    let Some(profile) = &context.apparmor else {
        return Ok(None);
    };
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'));
    match profile.profile_type() {
        ProfileType::Localhost if !enabled => {
            Err("failed to generate apparmor spec opts: apparmor is not supported".to_owned())
        }
        ProfileType::Localhost => Ok(Some(profile.localhost_ref.clone())),
        ProfileType::RuntimeDefault | ProfileType::Unconfined => Ok(None),
    }
}

fn write_security(dir: &Path, context: &LinuxContainerSecurityContext) -> Result<(), String> {
    let (set, ambient) = capabilities::compute(
        context.capabilities.as_ref(),
        context.privileged,
        capabilities::held(),
    )?;
    let security = Security {
        bounding: set.0,
        permitted: set.0,
        effective: set.0,
        inheritable: ambient.0,
        ambient: ambient.0,
        no_new_privs: context.no_new_privs,
    };
    write_json(dir, files::SECURITY, &security)?;
    let Some(profile) = seccomp_profile(context, &set.names())? else {
        return Ok(());
    };
    let program = seccomp::compile(&profile)
        .map_err(|error| format!("failed to generate seccomp spec opts: {error}"))?;
    std::fs::write(dir.join(files::SECCOMP), program).map_err(|error| error.to_string())
}

fn seccomp_profile(
    context: &LinuxContainerSecurityContext,
    capabilities: &[&str],
) -> Result<Option<seccomp::Profile>, String> {
    let Some(wanted) = context.seccomp.as_ref().filter(|_| !context.privileged) else {
        return Ok(None);
    };
    match wanted.profile_type() {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => Ok(Some(seccomp::default_profile(capabilities))),
        ProfileType::Localhost => localhost_profile(wanted).map(Some),
    }
}

fn localhost_profile(wanted: &SecurityProfile) -> Result<seccomp::Profile, String> {
    let path = wanted.localhost_ref.trim_start_matches("localhost/");
    let text = std::fs::read(path).map_err(|error| {
        format!("failed to generate seccomp spec opts: cannot load seccomp profile {path:?}: {error}")
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        format!("failed to generate seccomp spec opts: decoding seccomp profile failed {path:?}: {error}")
    })
}

fn write_json<T: serde::Serialize>(dir: &Path, name: &str, value: &T) -> Result<(), String> {
    let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    std::fs::write(dir.join(name), text).map_err(|error| format!("write {name}: {error}"))
}
