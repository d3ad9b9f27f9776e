//! What a pod for one operating system may not say, because only the other knows it.

use super::{every_container, security::os};
use crate::At;
use crate::check;
use crate::fields::{flag, list, present};
use machinery::Value;
use machinery::field::ErrorList;

/// Fields of the pod's context.
#[rustfmt::skip]
const POD_CONTEXT: [&str; 10] = [
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "runAsUser",
    "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy",
];

/// Fields of a container's context.
#[rustfmt::skip]
const CONTAINER_CONTEXT: [&str; 10] = [
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged",
    "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
];

/// Judges `os` and what follows from it.
pub fn operating_system(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if present(spec, "os").is_none() {
        return;
    }
    match os(spec) {
        "" => errors.push(at.child("os.name").required("")),
        "linux" => linux(spec, at, errors),
        "windows" => windows(spec, at, errors),
        other => check::one_of(other, &["linux", "windows"], &at.child("os"), errors),
    }
}

fn linux(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const WHY: &str = "windows options cannot be set for a linux pod";
    let has = |holder: &Value| {
        present(holder, "securityContext").is_some_and(|context| present(context, "windowsOptions").is_some())
    };
    if has(spec) {
        errors.push(at.child("securityContext.windowsOptions").forbidden(WHY));
    }
    for (field, index, container) in every_container(spec) {
        if has(container) {
            let at = at.child(field);
            let at = at.index(index);
            errors.push(at.child("securityContext.windowsOptions").forbidden(WHY));
        }
    }
}

fn windows(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const WHY: &str = "cannot be set for a windows pod";
    for field in ["hostUsers", "shareProcessNamespace"] {
        if present(spec, field).is_some() {
            errors.push(at.child(field).forbidden(WHY));
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if flag(spec, field) {
            errors.push(at.child(field).forbidden(WHY));
        }
    }
    if let Some(context) = present(spec, "securityContext") {
        let at = at.child("securityContext");
        for field in POD_CONTEXT {
            if present(context, field).is_some() {
                errors.push(at.child(field).forbidden(WHY));
            }
        }
        if !list(context, "sysctls").is_empty() {
            errors.push(at.child("sysctls").forbidden(WHY));
        }
    }
    for (kind, index, container) in every_container(spec) {
        let Some(context) = present(container, "securityContext") else {
            continue;
        };
        let at = at.child(kind);
        let at = at.index(index);
        let at = at.child("securityContext");
        for field in CONTAINER_CONTEXT {
            if present(context, field).is_some() {
                errors.push(at.child(field).forbidden(WHY));
            }
        }
    }
}
