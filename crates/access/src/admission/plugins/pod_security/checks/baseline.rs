//! The checks of the baseline standard; the restricted one asks some of them for more.

use super::*;

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_path(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
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
pub(super) fn se_linux(pod: &Pod<'_>, types: usize) -> Option<Violation> {
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

pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
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
pub(super) fn seccomp(pod: &Pod<'_>, required: bool) -> Option<Violation> {
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
pub(super) fn sysctls(pod: &Pod<'_>, allowed: usize) -> Option<Violation> {
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

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let hosts = |options: Option<&Value>| options.is_some_and(|options| is_true(options.get("hostProcess")));
    let containers = pod.bad(|container| hosts(context(container, "windowsOptions")));
    let who = setters(hosts(pod.context("windowsOptions")), &containers)?;
    violation(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}
