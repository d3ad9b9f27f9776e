//! Starting a sandbox and a container: everything between a decision and the runtime's answer.
//!
//! Follows upstream's `startContainer`: image, environment, mounts, create, start, postStart hook, each with its
//! reason for the container's status and its event.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, Secret};

use super::actions::KillReason;
use super::kill;
use crate::allocation::amounts::Amounts;
use crate::devices;
use crate::dns;
use crate::downward::PodFacts;
use crate::env::{self, EnvVar};
use crate::error::{Error, Result};
use crate::hostname;
use crate::images::credentials::Keyring;
use crate::lifecycle;
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::runtime::config::{self, ContainerInputs, SandboxInputs};
use crate::runtime::security::{ImageUser, SeccompPolicy, verify_non_root};
use crate::runtime::status::PodStatus;
use crate::volumes::manager::PodVolumes;

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the container's status shows.
    pub reason: &'static str,
    pub message: String,
    pub retry_at: Option<Timestamp>,
}

/// What all containers of one look share.
pub struct Stage<'a> {
    pub node: &'a NodeContext,
    pub pod: &'a Pod,
    pub status: &'a PodStatus,
    pub sandbox_id: &'a str,
    pub sandbox: &'a v1::PodSandboxConfig,
    pub volumes: &'a PodVolumes,
    pub keyring: &'a Result<Keyring, String>,
    pub image_volumes: &'a BTreeMap<String, Result<v1::ImageSpec, Refusal>>,
}

/// The sandbox's configuration; warnings about DNS become events.
pub fn sandbox_config(node: &NodeContext, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig> {
    let of_node = dns::of_node(&node.settings.resolv_conf);
    let (dns, warnings) = dns::for_pod(pod, &node.cluster_dns, of_node);
    for (reason, message) in warnings {
        node.events.pod(pod).warning(reason, message);
    }
    let cgroup_parent = match &node.cgroups {
        Some(cgroups) => cgroups.parent_of(pod)?,
        None => String::new(),
    };
    config::sandbox(&SandboxInputs {
        pod,
        attempt,
        dns,
        cluster_domain: &node.cluster_dns.domain,
        log_directory: &node.paths.pod_logs(pod.namespace(), pod.name(), pod.uid()),
        cgroup_parent: &cgroup_parent,
    })
}

pub async fn sandbox(node: &NodeContext, pod: &Pod, attempt: u32) -> Result<String> {
    let config = sandbox_config(node, pod, attempt)?;
    let logs = Path::new(&config.log_directory);
    std::fs::create_dir_all(logs).map_err(Error::file("create", logs))?;
    let handler = node.runtime_handler(pod).await?;
    node.runtime.run_sandbox(config, &handler).await
}

/// The credentials of the pod's pull secrets; the ones that cannot be had become an event.
pub async fn keyring(node: &NodeContext, pod: &Pod) -> Result<Keyring, String> {
    let mut secrets = Vec::new();
    let mut missing = Vec::new();
    for reference in pod
        .spec()
        .image_pull_secrets
        .iter()
        .flatten()
        .filter(|r| !r.name.is_empty())
    {
        let key = client::ObjectKey::new(pod.namespace(), &reference.name);
        match node.secrets.get(&key).await {
            Ok(Some(secret)) => secrets.push(secret),
            Ok(None) | Err(_) => missing.push(reference.name.clone()),
        }
    }
    if !missing.is_empty() {
        node.events.pod(pod).warning(
            "FailedToRetrieveImagePullSecret",
            format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            ),
        );
    }
    Keyring::from_secrets(secrets.iter().map(|s| -> &Secret { s }))
}

impl Stage<'_> {
    /// Starts a container; `target` is the name of the one an ephemeral container looks at.
    pub async fn container(&self, container: &Container, target: Option<&str>) -> Result<(), Refusal> {
        let (node, pod) = (self.node, self.pod);
        let events = node.events.container(pod, container);
        let failed = |reason: &'static str, message: String| {
            events.warning("Failed", format!("Error: {message}"));
            Refusal {
                reason,
                message,
                retry_at: None,
            }
        };
        let image = node
            .images
            .ensure(pod, container, self.keyring, self.sandbox)
            .await
            .map_err(|error| {
                events.warning("Failed", format!("Error: {}", error.reason));
                Refusal {
                    reason: error.reason,
                    message: error.message,
                    retry_at: error.retry_at,
                }
            })?;
        let restart_count = self.restart_count(container);
        let config = self
            .config(container, &image.image_ref, restart_count, target)
            .await
            .map_err(|error| match error {
                ConfigError::Image(refusal) => refusal,
                ConfigError::Other(error) => failed("CreateContainerConfigError", error.full()),
            })?;
        let id = node
            .runtime
            .create_container(self.sandbox_id, config, self.sandbox.clone())
            .await
            .map_err(|error| failed("CreateContainerError", error.full()))?;
        node.allocations
            .set_actuated(pod.uid(), &container.name, Amounts::of(pod, container));
        events.normal("Created", "Container created");
        node.runtime
            .start_container(&id)
            .await
            .map_err(|error| failed("RunContainerError", error.full().replace(&id, &container.name)))?;
        events.normal("Started", "Container started");
        self.post_start(container, &id).await
    }

    async fn post_start(&self, container: &Container, id: &str) -> Result<(), Refusal> {
        let (node, pod) = (self.node, self.pod);
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let ip = self.status.ips.first().map(String::as_str).unwrap_or_default();
        let Err(message) = lifecycle::run(&node.runtime, &node.events, pod, container, id, ip, hook).await
        else {
            return Ok(());
        };
        node.events
            .container(pod, container)
            .warning("FailedPostStartHook", "PostStartHook failed");
        let victim = kill::Victim {
            id,
            name: &container.name,
            message: "FailedPostStartHook",
            reason: KillReason::FailedPostStartHook,
            grace: None,
        };
        if let Err(error) = kill::container(node, pod, ip, &victim, None).await {
            tracing::warn!(
                pod = pod.describe(),
                container = container.name,
                error = error.full(),
                "cannot kill a container"
            );
        }
        Err(Refusal {
            reason: "PostStartHookError",
            message,
            retry_at: None,
        })
    }

    async fn config(
        &self,
        container: &Container,
        image_ref: &str,
        restart_count: i32,
        target: Option<&str>,
    ) -> Result<v1::ContainerConfig, ConfigError> {
        let (node, pod) = (self.node, self.pod);
        let target = match target {
            None => None,
            Some(name) => Some(
                self.status
                    .container(name)
                    .map(|s| s.id.as_str())
                    .ok_or_else(|| Error::Pod(format!("unable to find target container {name}")))?,
            ),
        };
        let facts = PodFacts {
            pod,
            pod_ips: &self.status.ips,
            host_ips: node.host_ips(),
            allocatable: node.allocatable(),
        };
        let env = environment(node, &facts, container, self.volumes).await?;
        let mut images = BTreeMap::new();
        for mount in container.volume_mounts.iter().flatten() {
            match self.image_volumes.get(&mount.name) {
                Some(Ok(spec)) => drop(images.insert(mount.name.clone(), spec.clone())),
                Some(Err(refusal)) => return Err(ConfigError::Image(refusal.clone())),
                None => {}
            }
        }
        let mut mounts = self
            .volumes
            .container_mounts(node, pod, container, &env, &images)?;
        let own_hosts = container
            .volume_mounts
            .iter()
            .flatten()
            .any(|m| m.mount_path == "/etc/hosts");
        if !own_hosts {
            mounts.push(hosts_mount(node, pod, &self.status.ips)?);
        }
        mounts.extend(termination_log(node, pod, container)?);
        let user = image_user(node, image_ref).await?;
        verify_non_root(pod, container, &user)?;
        let logs = node
            .paths
            .pod_logs(pod.namespace(), pod.name(), pod.uid())
            .join(&container.name);
        std::fs::create_dir_all(&logs).map_err(Error::file("create", &logs))?;
        let given = node
            .devices
            .of_container(pod, container)
            .await
            .map_err(Error::Pod)?;
        let mut made = config::container(ContainerInputs {
            pod,
            container,
            restart_count,
            image_ref,
            image_user: &user,
            env,
            mounts,
            target,
            seccomp: SeccompPolicy {
                root: &node.paths.seccomp(),
                unasked: node.settings.seccomp_default,
            },
            memory_capacity: node.machine.memory,
        })?;
        given
            .into_iter()
            .for_each(|answer| devices::give(&mut made, answer));
        Ok(made)
    }

    /// One more than the last container's; without one, by the logs that are there.
    fn restart_count(&self, container: &Container) -> i32 {
        if let Some(status) = self.status.container(&container.name) {
            return status.info.restart_count + 1;
        }
        let pod = self.pod;
        let logs = self
            .node
            .paths
            .pod_logs(pod.namespace(), pod.name(), pod.uid())
            .join(&container.name);
        let Ok(entries) = std::fs::read_dir(logs) else {
            return 0;
        };
        entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.split_once(".log")?.0.parse::<i32>().ok())
            .map(|n| n + 1)
            .max()
            .unwrap_or(0)
    }
}

enum ConfigError {
    Image(Refusal),
    Other(Error),
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// An ephemeral container in the common shape, and its target's name.
pub fn ephemeral(container: &EphemeralContainer) -> (Container, Option<String>) {
    let target = container.target_container_name.clone().filter(|t| !t.is_empty());
    (crate::pod::common(container), target)
}

async fn environment(
    node: &NodeContext,
    facts: &PodFacts<'_>,
    container: &Container,
    volumes: &PodVolumes,
) -> Result<Vec<EnvVar>> {
    let (maps, secrets) = env::references(container);
    let mut objects = env::Objects::default();
    let key = |name: &str| client::ObjectKey::new(facts.pod.namespace(), name);
    for name in maps {
        let found = node.config_maps.get(&key(&name)).await?;
        objects.config_maps.insert(name, found);
    }
    for name in secrets {
        let found = node.secrets.get(&key(&name)).await?;
        objects.secrets.insert(name, found);
    }
    node.services.synced().await;
    let services = node.services.list();
    let file_key = |volume: &str, path: &str, key: &str| {
        let root = volumes.path(volume).ok_or_else(|| {
            Error::Pod(format!(
                "cannot find the volume {volume:?} referenced by FileKeyRef"
            ))
        })?;
        let opened =
            linux::beneath::open(root, Path::new(path)).map_err(Error::kernel("open an environment file"))?;
        let Some(opened) = opened else { return Ok(None) };
        let text = std::fs::read_to_string(opened.path()).map_err(Error::file("read", opened.path()))?;
        Ok(env_file_value(&text, key))
    };
    env::make(container, facts, &objects, &services, &file_key)
}

/// `KEY=value` lines; quotes around a value are dropped.
fn env_file_value(text: &str, key: &str) -> Option<String> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    let pairs: HashMap<&str, &str> = lines
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.trim(), v.trim()))
        .collect();
    let value = pairs.get(key)?;
    let bare = ['"', '\'']
        .iter()
        .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q))
        .unwrap_or(value);
    Some(bare.to_owned())
}

fn hosts_mount(node: &NodeContext, pod: &Pod, ips: &[String]) -> Result<v1::Mount> {
    let path = node.paths.hosts_file(pod.uid());
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    let text = if pod.host_network() {
        let nodes = std::fs::read_to_string("/etc/hosts").map_err(Error::file("read", "/etc/hosts"))?;
        hostname::hosts_file_of_node(&nodes, aliases)
    } else {
        let (host, domain) = hostname::host_and_domain(pod, &node.cluster_dns.domain)?;
        hostname::hosts_file(ips, &host, &domain, aliases)
    };
    // In place, not by rename: running containers hold this very file.
    std::fs::write(&path, text).map_err(Error::file("write", &path))?;
    open_for(&path, 0o644)?;
    Ok(v1::Mount {
        container_path: "/etc/hosts".to_owned(),
        host_path: path.to_string_lossy().into_owned(),
        selinux_relabel: true,
        ..v1::Mount::default()
    })
}

/// The file a container may leave its last words in.
fn termination_log(node: &NodeContext, pod: &Pod, container: &Container) -> Result<Option<v1::Mount>> {
    let path = match container.termination_message_path.as_deref() {
        None | Some("") => return Ok(None),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("/{path}"),
    };
    let dir = node.paths.container(pod.uid(), &container.name);
    std::fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
    let file = dir.join(format!("{:08x}", rand::random::<u32>()));
    std::fs::File::create(&file).map_err(Error::file("create", &file))?;
    open_for(&file, 0o666)?;
    Ok(Some(v1::Mount {
        container_path: path,
        host_path: file.to_string_lossy().into_owned(),
        ..v1::Mount::default()
    }))
}

fn open_for(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(Error::file("open up", path))
}

async fn image_user(node: &NodeContext, image_ref: &str) -> Result<ImageUser> {
    let spec = v1::ImageSpec {
        image: image_ref.to_owned(),
        ..v1::ImageSpec::default()
    };
    let found = node.runtime.image_status(spec).await?;
    Ok(match found {
        Some(v1::Image { uid: Some(uid), .. }) => ImageUser::Uid(uid.value),
        Some(v1::Image { username, .. }) if !username.is_empty() => ImageUser::Name(username),
        _ => ImageUser::Uid(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files() {
        let text = "# x\nA=1\nB = \"two words\"\nC='3'\n";
        let get = |key| env_file_value(text, key);
        assert_eq!(
            (
                get("A").as_deref(),
                get("B").as_deref(),
                get("C").as_deref(),
                get("D")
            ),
            (Some("1"), Some("two words"), Some("3"), None)
        );
    }
}
