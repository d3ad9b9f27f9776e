//! What stands between a container's request and its start: its directory, root filesystem, OCI
//! configuration and rights. All of it blocks, so it runs off the runtime's own threads.

use std::path::{Path, PathBuf};

use cri::v1::security_profile::ProfileType;
use cri::v1::{
    ContainerConfig, CreateContainerRequest, LinuxContainerSecurityContext, Mount, MountPropagation,
    SecurityProfile,
};
use linux::Kernel;
use linux::mount::Mounts;
use tokio::sync::watch;

use super::state::{Container, ContainerRecord, ContainerState, Pod, now, write_request};
use super::{rootfs, stop_signal};
use crate::images::{Digest, ImageRecord, Images};
use crate::oci::host::{self, DeviceNode, ResolvedMount};
use crate::oci::spec::{self, CgroupView, Namespaces};
use crate::oci::user::{self, Accounts, User};
use crate::oci::{capabilities, seccomp, seccomp_default};
use crate::shim::{Security, files};

/// Everything about a container to be, decided before anything is done on the host.
pub(super) struct Plan {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) pod: Pod,
    pub(super) config: ContainerConfig,
    pub(super) image: ImageRecord,
    pub(super) namespaces: Namespaces,
    pub(super) cgroup_path: String,
    pub(super) log_path: PathBuf,
    pub(super) cgroups: CgroupView,
}

/// Makes the container's directory with all that a start needs.
pub(super) fn prepare(
    plan: &Plan,
    images: &Images,
    request: &CreateContainerRequest,
) -> Result<Container, String> {
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
        check_recursive_read_only(mount)?;
        if mount.image.is_some() && !mount.readonly {
            return Err(format!(
                "image mount at {:?} must be read-only",
                mount.container_path
            ));
        }
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

/// All or nothing: who asks for less than a private read-only mount cannot mean a recursively read-only one.
fn check_recursive_read_only(mount: &Mount) -> Result<(), String> {
    let path = &mount.container_path;
    if !mount.recursive_read_only {
        return Ok(());
    }
    if !mount.readonly {
        return Err(format!(
            "recursive_read_only conflicts with a writable mount at {path:?}"
        ));
    }
    match mount.propagation() {
        MountPropagation::PropagationPrivate => Ok(()),
        other => Err(format!(
            "recursive_read_only conflicts with mount propagation {} at {path:?}",
            other.as_str_name()
        )),
    }
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
        ProfileType::RuntimeDefault => Ok(Some(seccomp_default::default_profile(capabilities))),
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
