//! Security contexts of pod and container as CRI takes them: the container's word before the pod's.
//!
//! Follows upstream's `kuberuntime/security_context.go` and `pkg/securitycontext`.

use std::path::Path;

use cri::v1;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile,
    SecurityContext,
};

use crate::error::{Error, Result};
use crate::pod::PodExt;

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Whom an image's containers run as when nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    Uid(i64),
    Name(String),
}

/// The container's security context over the pod's.
pub fn effective(pod: &Pod, container: &Container) -> SecurityContext {
    let mut context = container.security_context.clone().unwrap_or_default();
    if let Some(shared) = &pod.spec().security_context {
        context.run_as_user = context.run_as_user.or(shared.run_as_user);
        context.run_as_group = context.run_as_group.or(shared.run_as_group);
        context.run_as_non_root = context.run_as_non_root.or(shared.run_as_non_root);
        context.se_linux_options = context
            .se_linux_options
            .or_else(|| shared.se_linux_options.clone());
        context.seccomp_profile = context.seccomp_profile.or_else(|| shared.seccomp_profile.clone());
        context.app_armor_profile = context
            .app_armor_profile
            .or_else(|| shared.app_armor_profile.clone());
    }
    context
}

/// Refuses a container that must not run as root and would, or cannot be seen not to.
pub fn verify_non_root(pod: &Pod, container: &Container, user: &ImageUser) -> Result<()> {
    let context = effective(pod, container);
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", pod.describe(), container.name);
    let refuse = |text: String| Err(Error::Pod(format!("{text} {place}")));
    match (context.run_as_user, user) {
        (Some(0), _) => refuse("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Name(name)) => refuse(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        )),
        (None, ImageUser::Uid(0)) => {
            refuse("container has runAsNonRoot and image will run as root".to_owned())
        }
        (None, ImageUser::Uid(_)) => Ok(()),
    }
}

/// What seccomp profiles are made from beside the pod.
#[derive(Clone, Copy, Debug)]
pub struct SeccompPolicy<'a> {
    /// Where profiles of the host are.
    pub root: &'a Path,
    /// Where the pod asks for nothing.
    pub unasked: v1::security_profile::ProfileType,
}

pub fn container(
    pod: &Pod,
    container: &Container,
    user: &ImageUser,
    policy_of_seccomp: &SeccompPolicy<'_>,
) -> Result<v1::LinuxContainerSecurityContext> {
    let context = effective(pod, container);
    let unmasked = context.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|p| (*p).to_owned()).collect()
        }
    };
    let mut result = v1::LinuxContainerSecurityContext {
        capabilities: context.capabilities.as_ref().map(capabilities),
        privileged: context.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: context.run_as_user.map(int),
        run_as_group: context.run_as_group.map(int),
        readonly_rootfs: context.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), policy_of_seccomp)?),
        apparmor: context.app_armor_profile.as_ref().map(apparmor).transpose()?,
        ..Default::default()
    };
    if result.run_as_user.is_none() {
        match user {
            ImageUser::Uid(uid) => result.run_as_user = Some(int(*uid)),
            ImageUser::Name(name) => result.run_as_username = name.clone(),
        }
    }
    if let Some(shared) = &pod.spec().security_context {
        result.supplemental_groups = groups(shared);
        result.supplemental_groups_policy = policy(shared) as i32;
    }
    Ok(result)
}

pub fn sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let privileged = pod.all_containers().iter().any(|(_, c)| {
        c.security_context
            .as_ref()
            .and_then(|s| s.privileged)
            .unwrap_or(false)
    });
    let mut result = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        privileged,
        seccomp: Some(profile(
            v1::security_profile::ProfileType::RuntimeDefault,
            String::new(),
        )),
        ..Default::default()
    };
    if let Some(shared) = &pod.spec().security_context {
        result.run_as_user = shared.run_as_user.map(int);
        result.run_as_group = shared.run_as_group.map(int);
        result.selinux_options = shared.se_linux_options.as_ref().map(selinux);
        result.supplemental_groups = groups(shared);
        result.supplemental_groups_policy = policy(shared) as i32;
    }
    result
}

pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.spec();
    let node = |on: Option<bool>, otherwise| {
        if on == Some(true) {
            v1::NamespaceMode::Node
        } else {
            otherwise
        }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: node(spec.host_network, v1::NamespaceMode::Pod) as i32,
        ipc: node(spec.host_ipc, v1::NamespaceMode::Pod) as i32,
        pid: node(spec.host_pid, pid) as i32,
        ..Default::default()
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context
        .fs_group
        .into_iter()
        .chain(context.supplemental_groups.iter().flatten().copied())
        .collect()
}

fn policy(context: &PodSecurityContext) -> v1::SupplementalGroupsPolicy {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        _ => v1::SupplementalGroupsPolicy::Merge,
    }
}

fn seccomp(wanted: Option<&SeccompProfile>, policy: &SeccompPolicy<'_>) -> Result<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    let Some(wanted) = wanted else {
        return Ok(profile(policy.unasked, String::new()));
    };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        "Localhost" => match wanted.localhost_profile.as_deref() {
            Some(name) if !name.is_empty() => Ok(profile(
                ProfileType::Localhost,
                policy.root.join(name).to_string_lossy().into_owned(),
            )),
            _ => Err(Error::Pod(
                "localhostProfile must be set if seccompProfile type is Localhost.".to_owned(),
            )),
        },
        _ => Ok(profile(ProfileType::Unconfined, String::new())),
    }
}

fn apparmor(wanted: &AppArmorProfile) -> Result<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        "Unconfined" => Ok(profile(ProfileType::Unconfined, String::new())),
        "Localhost" => match &wanted.localhost_profile {
            Some(name) => Ok(profile(ProfileType::Localhost, name.clone())),
            None => Err(Error::Pod("missing localhost apparmor profile name".to_owned())),
        },
        other => Err(Error::Pod(format!("unknown apparmor profile type: {other:?}"))),
    }
}

fn profile(kind: v1::security_profile::ProfileType, localhost_ref: String) -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref,
    }
}

fn capabilities(wanted: &Capabilities) -> v1::Capability {
    v1::Capability {
        add_capabilities: wanted.add.clone().unwrap_or_default(),
        drop_capabilities: wanted.drop.clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn int(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(pod_context: Value, container_context: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context,
                     "containers": [{"name": "c", "securityContext": container_context}]}
        }))
        .unwrap()
    }

    #[test]
    fn non_root_is_verified() {
        let uid = ImageUser::Uid;
        let cases = [
            (json!({}), json!({}), uid(0), None),
            (json!({"runAsNonRoot": true}), json!({}), uid(1), None),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                uid(0),
                Some("container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"),
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({"runAsUser": 5}),
                uid(0),
                None,
            ),
            (
                json!({"runAsUser": 5}),
                json!({"runAsUser": 0, "runAsNonRoot": true}),
                uid(7),
                Some("container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)"),
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                ImageUser::Name("web".into()),
                Some(
                    "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is \
                     non-root (pod: \"p_n(u)\", container: c)",
                ),
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({"runAsNonRoot": false}),
                uid(0),
                None,
            ),
        ];
        for (shared, own, user, expected) in cases {
            let pod = pod(shared, own);
            let result = verify_non_root(&pod, &pod.containers()[0], &user);
            assert_eq!(result.err().map(|e| e.to_string()).as_deref(), expected);
        }
    }

    fn unconfined() -> SeccompPolicy<'static> {
        SeccompPolicy {
            root: Path::new("/s"),
            unasked: v1::security_profile::ProfileType::Unconfined,
        }
    }

    #[test]
    fn who_asks_for_no_seccomp_profile_gets_the_nodes() {
        use v1::security_profile::ProfileType::{self, Localhost, RuntimeDefault, Unconfined};
        let confined = SeccompPolicy {
            unasked: RuntimeDefault,
            ..unconfined()
        };
        let check = |own: serde_json::Value, policy: &SeccompPolicy<'_>, expected: ProfileType| {
            let pod = pod(json!({}), own);
            let made = container(&pod, &pod.containers()[0], &ImageUser::Uid(0), policy).unwrap();
            assert_eq!(made.seccomp.unwrap().profile_type(), expected);
        };
        check(json!({}), &unconfined(), Unconfined);
        check(json!({}), &confined, RuntimeDefault);
        check(
            json!({"seccompProfile": {"type": "Unconfined"}}),
            &confined,
            Unconfined,
        );
        let own = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}});
        check(own, &confined, Localhost);
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let pod = pod(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
                   "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 9, "allowPrivilegeEscalation": false, "procMount": "Unmasked",
                   "capabilities": {"drop": ["ALL"]}}),
        );
        let c = container(&pod, &pod.containers()[0], &ImageUser::Uid(0), &unconfined()).unwrap();
        assert_eq!(
            (c.run_as_user.unwrap().value, c.run_as_group.unwrap().value),
            (9, 2)
        );
        assert_eq!(c.supplemental_groups, [3, 4]);
        assert!(c.no_new_privs && c.masked_paths.is_empty());
        assert_eq!(c.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert_eq!(
            c.seccomp.unwrap().profile_type,
            v1::security_profile::ProfileType::RuntimeDefault as i32
        );
    }
}
