//! Containers: what all have in common, and what regular, init and ephemeral ones may and may not.

use super::{Scope, env, host_network, mounts, probes, resources, restart, security};
use crate::At;
use crate::check;
use crate::fields::{int, list, present, text};
use machinery::Value;
use machinery::field::ErrorList;
use machinery::names;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// Judges the containers of every kind.
pub(super) fn all(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    regular(scope, &at.child("containers"), errors);
    init(scope, &at.child("initContainers"), errors);
    ephemeral(scope, &at.child("ephemeralContainers"), errors);
}

fn regular(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let containers = list(scope.spec, "containers");
    if containers.is_empty() {
        errors.push(at.required(""));
        return;
    }
    for (index, container) in containers.iter().enumerate() {
        let at = at.index(index);
        common(container, scope, &at, errors);
        let name = text(container, "name");
        if containers[..index]
            .iter()
            .any(|other| text(other, "name") == name)
        {
            errors.push(at.child("name").duplicate(name));
        }
        probes::lifecycle_and_probes(container, scope, &at, errors);
        restart::policy(container, &at, errors);
    }
    host_port_conflicts(containers, at, errors);
}

fn init(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let containers = list(scope.spec, "initContainers");
    for (index, container) in containers.iter().enumerate() {
        let here = at.index(index);
        common(container, scope, &here, errors);
        restart::init_policy(container, &here, errors);
        let sidecar = text(container, "restartPolicy") == "Always";
        let name = text(container, "name");
        let others = list(scope.spec, "containers").iter().chain(&containers[..index]);
        if !name.is_empty() && others.into_iter().any(|other| text(other, "name") == name) {
            errors.push(here.child("name").duplicate(name));
        }
        host_port_conflicts(std::slice::from_ref(container), at, errors);
        if sidecar {
            probes::lifecycle_and_probes(container, scope, &here, errors);
        } else {
            const WHY: &str = "may not be set for init containers without restartPolicy=Always";
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if present(container, field).is_some() {
                    errors.push(here.child(field).forbidden(WHY));
                }
            }
            let policies = here.child("resizePolicy");
            for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
                let value = text(policy, "restartPolicy");
                if value == "RestartContainer" {
                    let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    let at = policies.index(index);
                    errors.push(at.child("restartPolicy").invalid(value, why));
                }
            }
        }
    }
}

/// Fields an ephemeral container may not have.
const NOT_EPHEMERAL: [&str; 9] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "startupProbe",
];

fn ephemeral(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let containers = list(scope.spec, "ephemeralContainers");
    let others = || {
        list(scope.spec, "containers")
            .iter()
            .chain(list(scope.spec, "initContainers"))
    };
    for (index, container) in containers.iter().enumerate() {
        let at = at.index(index);
        common(container, scope, &at, errors);
        only_for_pods(container, &at, errors);
        let name = text(container, "name");
        if others()
            .chain(&containers[..index])
            .any(|other| text(other, "name") == name)
        {
            errors.push(at.child("name").duplicate(name));
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others().any(|other| text(other, "name") == target) {
            errors.push(at.child("targetContainerName").not_found(target));
        }
        const WHY: &str = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL {
            if container.get(field).is_some_and(|value| !value.is_empty()) {
                errors.push(at.child(field).forbidden(WHY));
            }
        }
        let mounts = at.child("volumeMounts");
        for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    let at = mounts.index(index);
                    errors.push(at.child(field).forbidden(WHY));
                }
            }
        }
    }
}

/// What holds for every container.
fn common(container: &Value, scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(at.child("name").required(""));
    } else {
        check::label(name, &at.child("name"), errors);
    }
    // Templates may have an image of blanks.
    if text(container, "image").is_empty() {
        errors.push(at.child("image").required(""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = text(container, "terminationMessagePolicy");
    check::required_one_of(policy, &policies, &at.child("terminationMessagePolicy"), errors);
    ports(container, &at.child("ports"), errors);
    env::env(container, at, errors);
    mounts::mounts_and_devices(container, scope, at, errors);
    let policy = text(container, "imagePullPolicy");
    check::required_one_of(policy, &PULL_POLICIES, &at.child("imagePullPolicy"), errors);
    if let Some(requirements) = present(container, "resources") {
        resources::requirements(requirements, &scope.claims, &at.child("resources"), errors);
    }
    resources::resize_policy(container, scope.restart_policy, &at.child("resizePolicy"), errors);
    if let Some(context) = present(container, "securityContext") {
        security::container_context(context, scope.host_users, &at.child("securityContext"), errors);
    }
}

/// What holds for the containers of pods, but not of templates.
pub(crate) fn only_for_pods(container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        errors.push(
            at.child("image")
                .invalid(image, "must not have leading or trailing whitespace"),
        );
    }
}

fn ports(container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let ports = list(container, "ports");
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                check::each(wrong, name, &at.child("name"), errors);
            } else if ports[..index].iter().any(|other| text(other, "name") == name) {
                errors.push(at.child("name").duplicate(name));
            }
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => errors.push(at.child("containerPort").required("")),
            number => check::port(number, &at.child("containerPort"), errors),
        }
        let host = int(port, "hostPort").unwrap_or(0);
        if host != 0 {
            check::port(host, &at.child("hostPort"), errors);
        }
        let protocol = text(port, "protocol");
        check::required_one_of(protocol, &["SCTP", "TCP", "UDP"], &at.child("protocol"), errors);
    }
}

fn host_port_conflicts(containers: &[Value], at: &At<'_>, errors: &mut ErrorList) {
    let mut taken: Vec<(&str, &str, i64)> = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        for (at_port, port) in list(container, "ports").iter().enumerate() {
            let number = int(port, "hostPort").unwrap_or(0);
            if number == 0 {
                continue;
            }
            let place = (text(port, "protocol"), text(port, "hostIP"), number);
            if taken.contains(&place) {
                let at = at.index(index);
                let at = at.child("ports");
                let at = at.index(at_port);
                let shown = format!("{}/{}/{number}", place.0, place.1);
                errors.push(at.child("hostPort").duplicate(shown));
            } else {
                taken.push(place);
            }
        }
    }
}

/// On the host's network a port is the host's port.
pub(super) fn host_network_ports(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    if !host_network(scope.spec) {
        return;
    }
    let at = at.child("containers");
    for (index, container) in list(scope.spec, "containers").iter().enumerate() {
        for (at_port, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or(0);
            let own = int(port, "containerPort").unwrap_or(0);
            if (scope.holder.is_pod || host != 0) && host != own {
                let at = at.index(index);
                let at = at.child("ports");
                let at = at.index(at_port);
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.push(at.child("hostPort").invalid(host, why));
            }
        }
    }
}
