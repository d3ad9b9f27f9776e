//! Reading a Pod: the questions the kubelet asks a spec again and again, answered in one place.
//!
//! **Invariant:** everything here is a pure function of the object; no defaults are invented beyond those the
//! API server would have set.

use std::borrow::Cow;
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerStatus, EphemeralContainer, Pod, PodCondition, PodSpec,
    PodStatus,
};

pub const ALWAYS: &str = "Always";
pub const ON_FAILURE: &str = "OnFailure";
pub const NEVER: &str = "Never";

pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// Which of a pod's three lists a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    Init,
    Regular,
    Ephemeral,
}

impl ContainerKind {
    /// The list's name in an event's field path.
    pub fn field(self) -> &'static str {
        match self {
            Self::Init => "spec.initContainers",
            Self::Regular => "spec.containers",
            Self::Ephemeral => "spec.ephemeralContainers",
        }
    }
}

/// Short readers for the optional-everywhere generated type.
pub trait PodExt {
    fn uid(&self) -> &str;
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn spec(&self) -> &PodSpec;
    fn status(&self) -> &PodStatus;
    fn generation(&self) -> Option<i64>;
    fn is_deleting(&self) -> bool;
    fn annotation(&self, key: &str) -> Option<&str>;

    /// `name_namespace(uid)`, the form messages carry.
    fn describe(&self) -> String {
        describe(self.name(), self.namespace(), self.uid())
    }
    fn containers(&self) -> &[Container] {
        &self.spec().containers
    }
    fn init_containers(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }
    fn ephemeral_containers(&self) -> &[EphemeralContainer] {
        self.spec().ephemeral_containers.as_deref().unwrap_or_default()
    }
    fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or(ALWAYS)
    }
    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
    fn phase(&self) -> &str {
        self.status().phase.as_deref().unwrap_or("Pending")
    }
    /// From a directory of manifests, not from the API server.
    fn is_static(&self) -> bool {
        self.annotation(SOURCE_ANNOTATION)
            .is_some_and(|source| source != "api")
    }
    /// The API server's reflection of a static pod.
    fn is_mirror(&self) -> bool {
        self.annotation(MIRROR_ANNOTATION).is_some()
    }
    /// Every container of the spec, ephemeral ones in the common shape.
    fn all_containers(&self) -> Vec<(ContainerKind, Cow<'_, Container>)> {
        let init = self
            .init_containers()
            .iter()
            .map(|c| (ContainerKind::Init, Cow::Borrowed(c)));
        let regular = self
            .containers()
            .iter()
            .map(|c| (ContainerKind::Regular, Cow::Borrowed(c)));
        let ephemeral = self
            .ephemeral_containers()
            .iter()
            .map(|c| (ContainerKind::Ephemeral, Cow::Owned(common(c))));
        init.chain(regular).chain(ephemeral).collect()
    }
    fn find_container(&self, name: &str) -> Option<(ContainerKind, Cow<'_, Container>)> {
        self.all_containers().into_iter().find(|(_, c)| c.name == name)
    }
    fn has_sidecar(&self) -> bool {
        self.init_containers().iter().any(is_sidecar)
    }
}

impl PodExt for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
    fn spec(&self) -> &PodSpec {
        static EMPTY: OnceLock<PodSpec> = OnceLock::new();
        self.spec
            .as_ref()
            .unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
    }
    fn status(&self) -> &PodStatus {
        static EMPTY: OnceLock<PodStatus> = OnceLock::new();
        self.status
            .as_ref()
            .unwrap_or_else(|| EMPTY.get_or_init(PodStatus::default))
    }
    fn generation(&self) -> Option<i64> {
        self.metadata.generation
    }
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

pub fn describe(name: &str, namespace: &str, uid: &str) -> String {
    format!("{name}_{namespace}({uid})")
}

/// A restartable init container.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some(ALWAYS)
}

pub fn is_terminal(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

/// The rule of the container that speaks about this exit code, if one does.
pub fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether a container that left with `exit_code` starts again: its rules first, then its own policy, then
/// the pod's.
pub fn should_restart(container: &Container, pod_policy: &str, exit_code: i32) -> bool {
    if let Some(own) = container.restart_policy.as_deref() {
        if let Some(rule) = matching_rule(container, exit_code)
            && matches!(rule.action.as_str(), "Restart" | "RestartAllContainers")
        {
            return true;
        }
        match own {
            ALWAYS => return true,
            ON_FAILURE => return exit_code != 0,
            NEVER => return false,
            _ => {}
        }
    }
    match pod_policy {
        ON_FAILURE => exit_code != 0,
        NEVER => false,
        _ => true,
    }
}

/// Whether any container's rules may ask for all containers to restart in place.
pub fn all_containers_could_restart(spec: &PodSpec) -> bool {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(|c| c.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == "RestartAllContainers")
}

/// An ephemeral container in the shape of the others; the fields it has not are absent.
pub fn common(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        ports: c.ports.clone(),
        env_from: c.env_from.clone(),
        env: c.env.clone(),
        resources: c.resources.clone(),
        resize_policy: c.resize_policy.clone(),
        restart_policy: c.restart_policy.clone(),
        restart_policy_rules: c.restart_policy_rules.clone(),
        volume_mounts: c.volume_mounts.clone(),
        volume_devices: c.volume_devices.clone(),
        liveness_probe: c.liveness_probe.clone(),
        readiness_probe: c.readiness_probe.clone(),
        startup_probe: c.startup_probe.clone(),
        lifecycle: c.lifecycle.clone(),
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
    }
}

pub fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub fn container_status<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(policy: Option<&str>, rules: &[(&str, &str, &[i32])]) -> Container {
        serde_json::from_value(serde_json::json!({
            "name": "c",
            "restartPolicy": policy,
            "restartPolicyRules": rules.iter().map(|(action, operator, values)| serde_json::json!({
                "action": action, "exitCodes": {"operator": operator, "values": values}
            })).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    #[test]
    fn restart_follows_rule_then_container_then_pod() {
        // (container policy, rules, pod policy, exit code, expected)
        type Case<'a> = (
            Option<&'a str>,
            &'a [(&'a str, &'a str, &'a [i32])],
            &'a str,
            i32,
            bool,
        );
        let cases: &[Case] = &[
            (None, &[], ALWAYS, 0, true),
            (None, &[], ON_FAILURE, 0, false),
            (None, &[], ON_FAILURE, 3, true),
            (None, &[], NEVER, 3, false),
            (Some(ALWAYS), &[], NEVER, 0, true),
            (Some(NEVER), &[], ALWAYS, 1, false),
            (Some(ON_FAILURE), &[], NEVER, 1, true),
            (Some(NEVER), &[("Restart", "In", &[42])], NEVER, 42, true),
            (Some(NEVER), &[("Restart", "In", &[42])], NEVER, 41, false),
            (Some(NEVER), &[("Restart", "NotIn", &[42])], NEVER, 41, true),
            (
                Some(NEVER),
                &[("RestartAllContainers", "In", &[7])],
                NEVER,
                7,
                true,
            ),
            // Rules without a container policy are not looked at.
            (None, &[("Restart", "In", &[42])], NEVER, 42, false),
        ];
        for case in cases {
            let c = container(case.0, case.1);
            assert_eq!(should_restart(&c, case.2, case.3), case.4, "{case:?}");
        }
    }
}
