//! The pod security standards: every check at every version, in the words of upstream.

use super::policy::{Level, Standard, Version};
use machinery::{Value, meta};
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

// === Baseline ===

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut wrong = |profile: Option<&Value>| {
        let Some(profile) = profile else { return false };
        let kind = text(profile, "type").to_owned();
        let wrong = !matches!(kind.as_str(), "RuntimeDefault" | "Localhost");
        if wrong {
            values.insert(kind);
        }
        wrong
    };
    let of_pod = wrong(pod.context("appArmorProfile"));
    let containers = pod.bad(|container| wrong(context(container, "appArmorProfile")));
    let annotations: Vec<String> = pod
        .metadata
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .filter(|(key, value)| {
            key.starts_with(PREFIX)
                && !value.is_empty()
                && *value != "runtime/default"
                && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let mut who: Vec<String> = setters(of_pod, &containers).into_iter().collect();
    let mut values: Vec<String> = values.into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
        values.extend(annotations);
    }
    if who.is_empty() {
        return None;
    }
    violation(
        plural(
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
            values.len(),
        ),
        format!(
            "{} must not set AppArmor profile type to {}",
            who.join(" and "),
            quoted(&values)
        ),
    )
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut added = BTreeSet::new();
    let containers = pod.bad(|container| {
        let before = added.len();
        let add = container.get_path(&["securityContext", "capabilities", "add"]);
        let wrong: Vec<&str> = list(add)
            .iter()
            .filter_map(Value::as_str)
            .filter(|capability| !ALLOWED.contains(capability))
            .collect();
        added.extend(wrong.iter().copied());
        added.len() > before || !wrong.is_empty()
    });
    if containers.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            these(&containers),
            quoted(added)
        ),
    )
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| is_true(pod.spec.get(field)))
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() {
        return None;
    }
    violation("host namespaces", shared.join(", "))
}

fn host_path(pod: &Pod<'_>) -> Option<Violation> {
    let volumes: Vec<&str> = list(pod.spec.get("volumes"))
        .iter()
        .filter(|volume| present(volume.get("hostPath")).is_some())
        .map(name)
        .collect();
    if volumes.is_empty() {
        return None;
    }
    let word = plural("volume", "volumes", volumes.len());
    violation("hostPath volumes", format!("{word} {}", quoted(volumes)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = pod.bad(|container| {
        let used = list(container.get("ports"))
            .iter()
            .filter_map(|port| port.get("hostPort")?.as_i64())
            .filter(|port| *port != 0);
        let used: Vec<String> = used.map(|port| port.to_string()).collect();
        let wrong = !used.is_empty();
        ports.extend(used);
        wrong
    });
    if containers.is_empty() {
        return None;
    }
    let listed: Vec<String> = ports.into_iter().collect();
    violation(
        "hostPort",
        format!(
            "{} {} {} {}",
            these(&containers),
            plural("uses", "use", containers.len()),
            plural("hostPort", "hostPorts", listed.len()),
            listed.join(", ")
        ),
    )
}

fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut hosts = BTreeSet::new();
    let containers = pod.bad(|container| {
        let named = HANDLERS
            .iter()
            .filter_map(|path| container.get_path(path))
            .flat_map(|handler| {
                ["httpGet", "tcpSocket"].map(|kind| handler.get_str_path(&[kind, "host"]).unwrap_or_default())
            })
            .filter(|host| !host.is_empty());
        let named: Vec<&str> = named.collect();
        let wrong = !named.is_empty();
        hosts.extend(named);
        wrong
    });
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            these(&containers),
            plural("uses", "use", containers.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(&hosts)
        ),
    )
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| is_true(context(container, "privileged")));
    if containers.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!(
            "{} must not set securityContext.privileged=true",
            these(&containers)
        ),
    )
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let containers = pod.bad(|container| {
        match context(container, "procMount")
            .and_then(Value::as_str)
            .filter(|kind| *kind != "Default")
        {
            Some(kind) => {
                kinds.insert(kind);
                true
            }
            None => false,
        }
    });
    if containers.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            these(&containers),
            quoted(kinds)
        ),
    )
}

/// `types` of the known container types are allowed.
fn se_linux(pod: &Pod<'_>, types: usize) -> Option<Violation> {
    const TYPES: [&str; 4] = [
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    let (mut bad_types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut wrong = |options: Option<&Value>| {
        let Some(options) = options else { return false };
        let kind = text(options, "type").to_owned();
        let bad_type = !kind.is_empty() && !TYPES[..types].contains(&kind.as_str());
        if bad_type {
            bad_types.insert(kind);
        }
        let (bad_user, bad_role) = (
            !text(options, "user").is_empty(),
            !text(options, "role").is_empty(),
        );
        user |= bad_user;
        role |= bad_role;
        bad_type || bad_user || bad_role
    };
    let of_pod = wrong(pod.context("seLinuxOptions"));
    let containers = pod.bad(|container| wrong(context(container, "seLinuxOptions")));
    let who = setters(of_pod, &containers)?;
    let mut what = Vec::new();
    if !bad_types.is_empty() {
        what.push(format!(
            "{} {}",
            plural("type", "types", bad_types.len()),
            quoted(&bad_types)
        ));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!(
            "{who} set forbidden securityContext.seLinuxOptions: {}",
            what.join("; ")
        ),
    )
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    let wrong = |key: &str| {
        let value = pod.annotation(key)?;
        let fine = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
        (!fine).then(|| format!("{key}={value:?}"))
    };
    let mut bad: BTreeSet<String> = wrong(POD).into_iter().collect();
    for container in pod.containers() {
        let key = format!(
            "container.seccomp.security.alpha.kubernetes.io/{}",
            name(container)
        );
        bad.extend(wrong(&key));
    }
    if bad.is_empty() {
        return None;
    }
    let listed: Vec<&str> = bad.iter().map(String::as_str).collect();
    let word = plural("annotation", "annotations", bad.len());
    violation(
        "seccompProfile",
        format!("forbidden {word} {}", listed.join(", ")),
    )
}

/// A profile that is set must be a good one; `required`: everybody must have one.
fn seccomp(pod: &Pod<'_>, required: bool) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut wrong = |profile: Option<&Value>| {
        let Some(profile) = profile else { return false };
        let kind = text(profile, "type").to_owned();
        let wrong = !matches!(kind.as_str(), "Localhost" | "RuntimeDefault");
        if wrong {
            values.insert(kind);
        }
        wrong
    };
    let of_pod = wrong(pod.context("seccompProfile"));
    let containers = pod.bad(|container| wrong(context(container, "seccompProfile")));
    if let Some(who) = setters(of_pod, &containers) {
        return violation(
            "seccompProfile",
            format!(
                "{who} must not set securityContext.seccompProfile.type to {}",
                quoted(values)
            ),
        );
    }
    if !required || pod.context("seccompProfile").is_some() {
        return None;
    }
    let without = pod.bad(|container| context(container, "seccompProfile").is_none());
    if without.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            r#"pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#,
            these(&without)
        ),
    )
}

/// The first `allowed` of the known ones may be set.
fn sysctls(pod: &Pod<'_>, allowed: usize) -> Option<Violation> {
    const SAFE: [&str; 12] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    let set: Vec<&str> = list(pod.context("sysctls"))
        .iter()
        .map(name)
        .filter(|name| !SAFE[..allowed].contains(name))
        .collect();
    if set.is_empty() {
        return None;
    }
    violation("forbidden sysctls", set.join(", "))
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let hosts = |options: Option<&Value>| options.is_some_and(|options| is_true(options.get("hostProcess")));
    let containers = pod.bad(|container| hosts(context(container, "windowsOptions")));
    let who = setters(hosts(pod.context("windowsOptions")), &containers)?;
    violation(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

// === Restricted ===

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| {
        context(container, "allowPrivilegeEscalation").and_then(Value::as_bool) != Some(false)
    });
    if containers.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            these(&containers)
        ),
    )
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let of = |container: &'_ Value, field: &str| -> Vec<String> {
        list(container.get_path(&["securityContext", "capabilities", field]))
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let keeping = pod.bad(|container| !of(container, "drop").iter().any(|dropped| dropped == "ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.bad(|container| {
        let more: Vec<String> = of(container, "add")
            .into_iter()
            .filter(|added| added != "NET_BIND_SERVICE")
            .collect();
        let wrong = !more.is_empty();
        added.extend(more);
        wrong
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            r#"{} must set securityContext.capabilities.drop=["ALL"]"#,
            these(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            these(&adding),
            quoted(added)
        ));
    }
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut kinds = BTreeSet::new();
    let mut volumes = Vec::new();
    for volume in list(pod.spec.get("volumes")) {
        if ALLOWED.iter().any(|kind| present(volume.get(kind)).is_some()) {
            continue;
        }
        volumes.push(name(volume));
        let kind = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .find(|key| *key != "name");
        kinds.insert(kind.unwrap_or("unknown"));
    }
    if volumes.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", volumes.len()),
            quoted(&volumes),
            plural("uses", "use", volumes.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(&kinds)
        ),
    )
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = pod.context("runAsNonRoot").and_then(Value::as_bool);
    let said = |container: &Value| context(container, "runAsNonRoot").and_then(Value::as_bool);
    let root = pod.bad(|container| said(container) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &root) {
        return violation(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = pod.bad(|container| said(container).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            these(&silent)
        ),
    )
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let root = |user: Option<&Value>| user.and_then(Value::as_i64) == Some(0);
    let containers = pod.bad(|container| root(context(container, "runAsUser")));
    let who = setters(root(pod.context("runAsUser")), &containers)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

/// The metadata checks look at.
pub(super) fn metadata(object: &Value) -> Value {
    meta::metadata(object).cloned().map_or(Value::Null, Value::Object)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::object;
    use super::*;

    fn judge(level: Level, version: Version, metadata: &str, spec: &str) -> String {
        let found = violations(Standard { level, version }, &object(metadata), &object(spec));
        let parts: Vec<String> = found
            .iter()
            .map(|v| format!("{} ({})", v.reason, v.detail))
            .collect();
        parts.join(", ")
    }

    #[test]
    fn baseline_violations_read_as_upstreams() {
        for (spec, expected) in [
            (r#"{"containers":[{"name":"a"}]}"#, ""),
            (
                r#"{"hostNetwork":true,"hostPID":true,"containers":[]}"#,
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                r#"{"containers":[{"name":"a","securityContext":{"privileged":true}},{"name":"b","securityContext":{"privileged":true}}]}"#,
                r#"privileged (containers "a", "b" must not set securityContext.privileged=true)"#,
            ),
            (
                r#"{"containers":[{"name":"a","securityContext":{"capabilities":{"add":["NET_RAW","SYS_ADMIN","CHOWN"]}}}]}"#,
                r#"non-default capabilities (container "a" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
            ),
            (
                r#"{"containers":[{"name":"a","ports":[{"hostPort":80},{"hostPort":443}]}]}"#,
                r#"hostPort (container "a" uses hostPorts 443, 80)"#,
            ),
            (
                r#"{"volumes":[{"name":"v","hostPath":{"path":"/"}}],"containers":[]}"#,
                r#"hostPath volumes (volume "v")"#,
            ),
            (
                r#"{"securityContext":{"seLinuxOptions":{"user":"u","type":"t"}},"containers":[]}"#,
                r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "t"; user may not be set)"#,
            ),
            (
                r#"{"securityContext":{"seccompProfile":{"type":"Unconfined"}},"containers":[{"name":"a","securityContext":{"seccompProfile":{"type":"Unconfined"}}}]}"#,
                r#"seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (
                r#"{"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_rmem"},{"name":"kernel.x"}]},"containers":[]}"#,
                "forbidden sysctls (kernel.x)",
            ),
            (
                r#"{"containers":[{"name":"a","livenessProbe":{"httpGet":{"host":"x"}}}]}"#,
                r#"probe or lifecycle host (container "a" uses probe or lifecycle host "x")"#,
            ),
            (
                r#"{"containers":[{"name":"a","securityContext":{"procMount":"Unmasked"}}]}"#,
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
            ),
            (
                r#"{"hostUsers":false,"containers":[{"name":"a","securityContext":{"procMount":"Unmasked"}}]}"#,
                "",
            ),
        ] {
            assert_eq!(
                judge(Level::Baseline, Version::Latest, "{}", spec),
                expected,
                "{spec}"
            );
        }
        assert_eq!(
            judge(
                Level::Baseline,
                Version::Latest,
                r#"{"annotations":{"container.apparmor.security.beta.kubernetes.io/a":"unconfined"}}"#,
                "{}"
            ),
            r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#
        );
    }

    #[test]
    fn restricted_violations_read_as_upstreams() {
        assert_eq!(
            judge(
                Level::Restricted,
                Version::Latest,
                "{}",
                r#"{"volumes":[{"name":"v","nfs":{}}],"containers":[{"name":"a"}]}"#
            ),
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             restricted volume types (volume \"v\" uses restricted volume type \"nfs\"), \
             runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")"
        );
        let good = r#"{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"a",
            "securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}}}]}"#;
        assert_eq!(judge(Level::Restricted, Version::Latest, "{}", good), "");
        assert_eq!(judge(Level::Restricted, Version::Minor(0), "{}", good), "");
    }

    #[test]
    fn standards_are_those_of_their_version() {
        let check = |level, minor, spec: &str, violates: bool| {
            let said = judge(level, Version::Minor(minor), "{}", spec);
            assert_eq!(!said.is_empty(), violates, "v1.{minor} {spec}: {said}");
        };
        let sysctl = r#"{"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_rmem"}]}}"#;
        check(Level::Baseline, 31, sysctl, true);
        check(Level::Baseline, 32, sysctl, false);
        let probe = r#"{"containers":[{"name":"a","livenessProbe":{"tcpSocket":{"host":"x"}}}]}"#;
        check(Level::Baseline, 33, probe, false);
        check(Level::Baseline, 34, probe, true);
        let windows = r#"{"os":{"name":"windows"},"securityContext":{"runAsNonRoot":true},"containers":[{"name":"a"}]}"#;
        check(Level::Restricted, 24, windows, true);
        check(Level::Restricted, 25, windows, false);
        let root = r#"{"securityContext":{"runAsNonRoot":true,"runAsUser":0},"containers":[]}"#;
        check(Level::Restricted, 7, root, false);
        check(Level::Restricted, 23, root, true);
    }
}
