//! The messages that make a sandbox and a container. Pure: everything looked up or mounted comes in.

use std::collections::HashMap;
use std::path::Path;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::security::{self, ImageUser, SeccompPolicy};
use super::{labels, resources};
use crate::env::{EnvVar, expand_command};
use crate::error::{Error, Result};
use crate::hostname;
use crate::pod::PodExt;

/// What a sandbox needs beside the pod.
pub struct SandboxInputs<'a> {
    pub pod: &'a Pod,
    pub attempt: u32,
    pub dns: v1::DnsConfig,
    pub cluster_domain: &'a str,
    pub log_directory: &'a Path,
    pub cgroup_parent: &'a str,
}

pub fn sandbox(inputs: &SandboxInputs<'_>) -> Result<v1::PodSandboxConfig> {
    let pod = inputs.pod;
    let host = if pod.host_network() {
        String::new()
    } else {
        hostname::for_kernel(pod, inputs.cluster_domain)?
    };
    let sysctls: HashMap<String, String> = pod
        .spec()
        .security_context
        .iter()
        .flat_map(|s| s.sysctls.iter().flatten())
        .map(|s| (dotted(&s.name), s.value.clone()))
        .collect();
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            namespace: pod.namespace().to_owned(),
            uid: pod.uid().to_owned(),
            attempt: inputs.attempt,
        }),
        hostname: host,
        log_directory: inputs.log_directory.to_string_lossy().into_owned(),
        dns_config: Some(inputs.dns.clone()),
        port_mappings: pod.containers().iter().flat_map(port_mappings).collect(),
        labels: labels::pod_labels(pod),
        annotations: labels::pod_annotations(pod),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: inputs.cgroup_parent.to_owned(),
            security_context: Some(security::sandbox(pod)),
            sysctls,
            overhead: Some(resources::overhead(pod)),
            resources: Some(resources::sandbox(pod)),
        }),
    })
}

/// A container's ports, the first of each name.
fn port_mappings(container: &Container) -> Vec<v1::PortMapping> {
    let mut seen = Vec::new();
    let mut mappings = Vec::new();
    for port in container.ports.iter().flatten() {
        let name = port.name.clone().unwrap_or_else(|| anonymous(port));
        if seen.contains(&name) {
            tracing::info!(
                port = name,
                container = container.name,
                "port name conflicted, defined more than once"
            );
            continue;
        }
        seen.push(name);
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => v1::Protocol::Udp,
            Some("SCTP") => v1::Protocol::Sctp,
            _ => v1::Protocol::Tcp,
        };
        mappings.push(v1::PortMapping {
            protocol: protocol as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        });
    }
    mappings
}

fn anonymous(port: &ContainerPort) -> String {
    let ip = port.host_ip.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    format!(
        "{protocol}-{ip}:{}:{}",
        port.container_port,
        port.host_port.unwrap_or(0)
    )
}

/// `kernel/shm_rmid_forced` and `kernel.shm_rmid_forced` are one name.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// What a container needs beside its spec.
pub struct ContainerInputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: i32,
    pub image_ref: &'a str,
    pub image_user: &'a ImageUser,
    pub env: Vec<EnvVar>,
    pub mounts: Vec<v1::Mount>,
    /// The container whose processes an ephemeral one shares.
    pub target: Option<&'a str>,
    pub seccomp: SeccompPolicy<'a>,
    pub memory_capacity: i64,
}

pub fn container(inputs: ContainerInputs<'_>) -> Result<v1::ContainerConfig> {
    let ContainerInputs { pod, container, .. } = inputs;
    let mut context = security::container(pod, container, inputs.image_user, &inputs.seccomp)?;
    if let Some(target) = inputs.target
        && let Some(options) = &mut context.namespace_options
        && options.pid() == v1::NamespaceMode::Container
    {
        options.set_pid(v1::NamespaceMode::Target);
        options.target_id = target.to_owned();
    }
    let words = |list: &Option<Vec<String>>| expand_command(list.as_deref().unwrap_or_default(), &inputs.env);
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(inputs.restart_count).unwrap_or(0),
        }),
        image: Some(v1::ImageSpec {
            image: inputs.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        labels: labels::container_labels(pod, container),
        annotations: labels::container_annotations(pod, container, inputs.restart_count),
        log_path: log_path(&container.name, inputs.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        stop_signal: stop_signal(container) as i32,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container(pod, container, inputs.memory_capacity)),
            security_context: Some(context),
        }),
        envs: inputs
            .env
            .into_iter()
            .map(|e| v1::KeyValue {
                key: e.name,
                value: e.value.into(),
            })
            .collect(),
        mounts: inputs.mounts,
        ..Default::default()
    })
}

/// Below the sandbox's log directory.
pub fn log_path(container: &str, restart_count: i32) -> String {
    format!("{container}/{restart_count}.log")
}

fn stop_signal(container: &Container) -> v1::Signal {
    container
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.as_deref())
        .and_then(|name| {
            v1::Signal::from_str_name(
                &name
                    .replace("RTMIN+", "RTMINPLUS")
                    .replace("RTMAX-", "RTMAXMINUS"),
            )
        })
        .unwrap_or(v1::Signal::RuntimeDefault)
}

pub fn propagation(mode: Option<&str>) -> Result<v1::MountPropagation> {
    match mode {
        None | Some("None") => Ok(v1::MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(v1::MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(v1::MountPropagation::PropagationBidirectional),
        Some(other) => Err(Error::Pod(format!("invalid MountPropagation mode: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sandbox_and_a_container() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u", "labels": {"app": "web"}},
            "spec": {"subdomain": "sub", "securityContext": {"sysctls": [{"name": "net/core/somaxconn", "value": "9"}]},
                "containers": [{"name": "c", "image": "i", "command": ["run", "$(A)", "$$(A)"],
                    "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 80, "hostPort": 8080}],
                    "lifecycle": {"stopSignal": "SIGRTMIN+3"}}]}
        }))
        .unwrap();
        let config = sandbox(&SandboxInputs {
            pod: &pod,
            attempt: 2,
            dns: v1::DnsConfig::default(),
            cluster_domain: "cluster.local",
            log_directory: Path::new("/logs/n_web_u"),
            cgroup_parent: "/k/pod",
        })
        .unwrap();
        assert_eq!(config.hostname, "web");
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(config.linux.as_ref().unwrap().sysctls["net.core.somaxconn"], "9");
        assert_eq!(
            (
                config.labels["app"].as_str(),
                config.labels[labels::POD_UID].as_str()
            ),
            ("web", "u")
        );

        let config = container(ContainerInputs {
            pod: &pod,
            container: &pod.containers()[0],
            restart_count: 3,
            image_ref: "sha256:1",
            image_user: &ImageUser::Uid(0),
            env: vec![EnvVar {
                name: "A".into(),
                value: "b".into(),
            }],
            mounts: vec![],
            target: Some("other"),
            seccomp: SeccompPolicy {
                root: Path::new("/"),
                unasked: v1::security_profile::ProfileType::Unconfined,
            },
            memory_capacity: 1,
        })
        .unwrap();
        assert_eq!(config.command, ["run", "b", "$(A)"]);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(config.stop_signal(), v1::Signal::Sigrtminplus3);
        let options = config
            .linux
            .unwrap()
            .security_context
            .unwrap()
            .namespace_options
            .unwrap();
        assert_eq!(
            (options.pid(), options.target_id.as_str()),
            (v1::NamespaceMode::Target, "other")
        );
    }
}
