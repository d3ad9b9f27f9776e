//! The pod security standards: every check at every version, in the words of upstream.

mod baseline;
mod restricted;
#[cfg(test)]
mod tests;

use super::policy::{Level, Standard, Version};
use baseline::{
    app_armor, capabilities_baseline, host_namespaces, host_path, host_ports, host_probes, privileged,
    proc_mount, se_linux, seccomp, seccomp_annotations, sysctls, windows_host_process,
};
use machinery::{Value, meta};
use restricted::{
    capabilities_restricted, privilege_escalation, restricted_volumes, run_as_non_root, run_as_user,
};
use std::collections::BTreeSet;

/// What a pod violates: the reason, and what in the pod does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

type Judge = fn(&Pod<'_>) -> Option<Violation>;

/// One check: since which minor version it is made how, and which baseline check it takes the place of.
struct Check {
    id: &'static str,
    versions: &'static [(u32, Judge)],
    overrides: &'static str,
}

const fn check(id: &'static str, versions: &'static [(u32, Judge)]) -> Check {
    Check {
        id,
        versions,
        overrides: "",
    }
}

const BASELINE: &[Check] = &[
    check("appArmorProfile", &[(0, app_armor)]),
    check("capabilities_baseline", &[(0, capabilities_baseline)]),
    check("hostNamespaces", &[(0, host_namespaces)]),
    check("hostPathVolumes", &[(0, host_path)]),
    check("hostPorts", &[(0, host_ports)]),
    check("hostProbesAndHostLifecycle", &[(34, host_probes)]),
    check("privileged", &[(0, privileged)]),
    check(
        "procMount",
        &[
            (0, proc_mount),
            (35, |pod| unless_user_namespace(pod, proc_mount)),
        ],
    ),
    check(
        "seLinuxOptions",
        &[(0, |pod| se_linux(pod, 3)), (31, |pod| se_linux(pod, 4))],
    ),
    check(
        "seccompProfile_baseline",
        &[(0, seccomp_annotations), (19, |pod| seccomp(pod, false))],
    ),
    check(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, 5)),
            (27, |pod| sysctls(pod, 6)),
            (29, |pod| sysctls(pod, 10)),
            (32, |pod| sysctls(pod, 12)),
        ],
    ),
    check("windowsHostProcess", &[(0, windows_host_process)]),
];

const RESTRICTED: &[Check] = &[
    check(
        "allowPrivilegeEscalation",
        &[
            (8, privilege_escalation),
            (25, |pod| unless_windows(pod, privilege_escalation)),
        ],
    ),
    Check {
        overrides: "capabilities_baseline",
        ..check(
            "capabilities_restricted",
            &[
                (22, capabilities_restricted),
                (25, |pod| unless_windows(pod, capabilities_restricted)),
            ],
        )
    },
    Check {
        overrides: "procMount",
        ..check("procMount_restricted", &[(35, proc_mount)])
    },
    Check {
        overrides: "hostPathVolumes",
        ..check("restrictedVolumes", &[(0, restricted_volumes)])
    },
    check(
        "runAsNonRoot",
        &[
            (0, run_as_non_root),
            (35, |pod| unless_user_namespace(pod, run_as_non_root)),
        ],
    ),
    check(
        "runAsUser",
        &[
            (23, run_as_user),
            (35, |pod| unless_user_namespace(pod, run_as_user)),
        ],
    ),
    Check {
        overrides: "seccompProfile_baseline",
        ..check(
            "seccompProfile_restricted",
            &[
                (19, |pod| seccomp(pod, true)),
                (25, |pod| unless_windows(pod, |pod| seccomp(pod, true))),
            ],
        )
    },
];

/// What a pod, or the pods of a template, violate of a standard.
pub(super) fn violations(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { metadata, spec };
    let at = |check: &Check| match standard.version {
        Version::Latest => check.versions.last().map(|(_, judge)| *judge),
        Version::Minor(minor) => {
            let known = check.versions.iter().rev();
            known
                .into_iter()
                .find(|(since, _)| *since <= minor)
                .map(|(_, judge)| *judge)
        }
    };
    let restricted: &[Check] = match standard.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => &[],
        Level::Restricted => RESTRICTED,
    };
    let overridden = |id: &str| {
        restricted
            .iter()
            .any(|check| check.overrides == id && at(check).is_some())
    };
    BASELINE
        .iter()
        .filter(|check| !overridden(check.id))
        .chain(restricted)
        .filter_map(at)
        .filter_map(|judge| judge(&pod))
        .collect()
}

/// A pod, as the checks look at it.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |field| list(spec.get(field)))
    }

    /// Containers that a test finds wanting, by name.
    fn bad(&self, mut wrong: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|container| wrong(container))
            .map(name)
            .collect()
    }

    fn context(&self, field: &str) -> Option<&'a Value> {
        present(self.spec.get_path(&["securityContext", field]))
    }

    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.metadata.get("annotations")?.get(key)?.as_str()
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).unwrap_or_default()
}

fn name(of: &Value) -> &str {
    of.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

fn context<'a>(container: &'a Value, field: &str) -> Option<&'a Value> {
    present(container.get_path(&["securityContext", field]))
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool).unwrap_or(false)
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| format!("\"{}\"", item.as_ref()))
        .collect();
    items.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn these(containers: &[&str]) -> String {
    let word = plural("container", "containers", containers.len());
    format!("{word} {}", quoted(containers))
}

/// `pod and containers "a", "b"`, whichever of the two there are.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(these(containers));
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation {
        reason: reason.into(),
        detail: detail.into(),
    })
}

fn unless_windows(pod: &Pod<'_>, judge: Judge) -> Option<Violation> {
    let windows = pod.spec.get_str_path(&["os", "name"]) == Some("windows");
    (!windows).then(|| judge(pod)).flatten()
}

/// In a user namespace of its own, root is nobody outside.
fn unless_user_namespace(pod: &Pod<'_>, judge: Judge) -> Option<Violation> {
    let own = pod.spec.get("hostUsers").and_then(Value::as_bool) == Some(false);
    (!own).then(|| judge(pod)).flatten()
}

/// The metadata checks look at.
pub(super) fn metadata(object: &Value) -> Value {
    meta::metadata(object).cloned().map_or(Value::Null, Value::Object)
}
