//! Security contexts of pods and containers.

use super::{Scope, every_container, host_network, volumes::paths, windows};
use crate::At;
use crate::check;
use crate::fields::{flag, int, list, present, text, text_at, texts};
use machinery::Value;
use machinery::field::ErrorList;

const ID: &str = "must be between 0 and 2147483647, inclusive";

/// Judges the pod's own context.
pub(super) fn pod_context(spec: &Value, pod: &At<'_>, errors: &mut ErrorList) {
    let Some(context) = present(spec, "securityContext") else {
        return;
    };
    let at = &pod.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(int(context, field), &at.child(field), errors);
    }
    let groups = at.child("supplementalGroups");
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(group.as_i64(), &groups.index(index), errors);
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(at.child("shareProcessNamespace").invalid(true, why));
    }
    sysctls(context, spec, &at.child("sysctls"), errors);
    optional_word(
        context,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
        at,
        errors,
    );
    seccomp(context, at, errors);
    windows::options(context, at, errors);
    app_armor(context, at, errors);
    optional_word(
        context,
        "supplementalGroupsPolicy",
        &["Merge", "Strict"],
        at,
        errors,
    );
    optional_word(context, "seLinuxChangePolicy", &["Recursive"], at, errors);
}

/// Judges a container's context.
pub(super) fn container_context(context: &Value, host_users: bool, at: &At<'_>, errors: &mut ErrorList) {
    for field in ["runAsUser", "runAsGroup"] {
        id(int(context, field), &at.child(field), errors);
    }
    if let Some(kind) = present(context, "procMount").and_then(Value::as_str) {
        let at = at.child("procMount");
        check::one_of(kind, &["Default", "Unmasked"], &at, errors);
        if host_users && kind == "Unmasked" {
            let why = "`hostUsers` must be false to use `Unmasked`";
            errors.push(at.invalid(kind, why));
        }
    }
    seccomp(context, at, errors);
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if flag(context, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(at.invalid(context.clone(), why));
        }
        let capabilities = context.get("capabilities").unwrap_or(&Value::Null);
        if texts(capabilities, "add").any(|capability| capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(at.invalid(context.clone(), why));
        }
    }
    windows::options(context, at, errors);
    app_armor(context, at, errors);
}

/// A pod with users of its own shares fewer namespaces of the host.
pub(super) fn host_users(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    if scope.host_users {
        return;
    }
    const WHY: &str = "when `hostUsers` is false";
    if host_network(scope.spec) {
        errors.push(at.child("hostNetwork").forbidden(WHY));
    }
    for (field, shown) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(scope.spec, field) {
            errors.push(at.child(shown).forbidden(WHY));
        }
    }
    for (field, index, container) in every_container(scope.spec) {
        if !list(container, "volumeDevices").is_empty() {
            let at = at.child(field);
            let at = at.index(index);
            errors.push(at.child("volumeDevices").forbidden(WHY));
        }
    }
}

fn id(id: Option<i64>, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.push(at.invalid(id, ID));
    }
}

fn optional_word(context: &Value, field: &str, allowed: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    if let Some(word) = present(context, field).and_then(Value::as_str) {
        check::one_of(word, allowed, &at.child(field), errors);
    }
}

fn sysctls(context: &Value, spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let all = list(context, "sysctls");
    for (index, sysctl) in all.iter().enumerate() {
        let at = at.index(index);
        let at = at.child("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.push(at.required(""));
        } else if !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex \
                       ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(at.invalid(name, why));
        } else if all[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(at.duplicate(name));
        }
        let dotted = name.replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if host_network(spec) && dotted.starts_with("net.") {
            errors.push(at.invalid(name, "may not be specified when 'hostNetwork' is true"));
        } else if flag(spec, "hostIPC") && ipc.iter().any(|prefix| dotted.starts_with(prefix)) {
            errors.push(at.invalid(name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253 && name.split(['.', '/']).all(|part| {
        let bytes = part.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if plain(*first) && plain(*last))
            && bytes.iter().all(|c| plain(*c) || b"-_".contains(c))
    })
}

fn seccomp(context: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let Some(profile) = present(context, "seccompProfile") else {
        return;
    };
    let at = at.child("seccompProfile");
    match text(profile, "type") {
        "" => errors.push(
            at.child("type")
                .required("type is required when seccompProfile is set"),
        ),
        kind => check::one_of(
            kind,
            &["Localhost", "RuntimeDefault", "Unconfined"],
            &at.child("type"),
            errors,
        ),
    }
    let path = present(profile, "localhostProfile").and_then(Value::as_str);
    let at = at.child("localhostProfile");
    match (text(profile, "type"), path) {
        ("Localhost", None) => errors.push(at.required("must be set when seccomp type is Localhost")),
        ("Localhost", Some(path)) => paths::descending(path, &at, errors),
        (_, Some(_)) => {
            errors.push(at.invalid(profile.clone(), "can only be set when seccomp type is Localhost"));
        }
        (_, None) => {}
    }
}

fn app_armor(context: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const NEEDED: &str = "must be set when AppArmor type is Localhost";
    const LONGEST: usize = 4095;
    let Some(profile) = present(context, "appArmorProfile") else {
        return;
    };
    let at = at.child("appArmorProfile");
    let path = present(profile, "localhostProfile").and_then(Value::as_str);
    let at_path = at.child("localhostProfile");
    match text(profile, "type") {
        "Localhost" => match path {
            None | Some("") => errors.push(at_path.required(NEEDED)),
            Some(path) => {
                if path.trim() != path {
                    errors.push(at_path.invalid(path, "must not be padded with whitespace"));
                }
                if path.len() > LONGEST {
                    errors.push(at_path.too_long(LONGEST as i64));
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(path) = path {
                errors.push(at_path.invalid(path, "can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(
            at.child("type")
                .required("type is required when appArmorProfile is set"),
        ),
        kind => check::one_of(
            kind,
            &["Localhost", "RuntimeDefault", "Unconfined"],
            &at.child("type"),
            errors,
        ),
    }
}

/// Whether a pod says it is for an operating system.
pub(super) fn os(spec: &Value) -> &str {
    text_at(spec, &["os", "name"])
}
