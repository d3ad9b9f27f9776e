//! Which kernel parameters a pod may set. Pure.
//!
//! Follows upstream's `pkg/kubelet/sysctl`: the ones that stay within the pod and cannot hurt the node, and those
//! that the node's configuration allows beside them; none of a namespace that the pod shares with the node.

use k8s_openapi::api::core::v1::Pod;

use super::admission::Refusal;
use crate::pod::PodExt;

const REASON: &str = "SysctlForbidden";

const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// `allowed`: names, or beginnings that end with `*`.
pub fn check(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    let context = pod.spec().security_context.as_ref();
    for sysctl in context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        if let Err(why) = check_one(pod, &normal(&sysctl.name), allowed) {
            return Err(Refusal {
                reason: REASON.to_owned(),
                message: format!("forbidden sysctl: {why}"),
            });
        }
    }
    Ok(())
}

fn check_one(pod: &Pod, name: &str, allowed: &[String]) -> Result<(), String> {
    let listed = |pattern: &String| {
        let pattern = normal(pattern);
        match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        }
    };
    if !SAFE.contains(&name) && !allowed.iter().any(listed) {
        return Err(format!("{name:?} not allowlisted"));
    }
    let shared = match name.starts_with("net.") {
        true => pod.host_network().then_some("Net"),
        false => pod.spec().host_ipc.unwrap_or(false).then_some("IPC"),
    };
    match shared {
        Some(namespace) => Err(format!("{name:?} not allowed with host {namespace} enabled")),
        None => Ok(()),
    }
}

/// With dots, whichever way it was written: the first separator tells.
fn normal(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_pod_may_set() {
        let pod = |name: &str, host: bool| -> Pod {
            serde_json::from_value(
                json!({"spec": {"hostNetwork": host, "hostIPC": host, "containers": [],
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}),
            )
            .unwrap()
        };
        let allowed = ["kernel.msg*".to_owned(), "net.core.somaxconn".to_owned()];
        for (name, host, expected) in [
            ("kernel.shm_rmid_forced", false, None),
            ("kernel/shm_rmid_forced", false, None),
            ("net.core.somaxconn", false, None),
            ("kernel.msgmax", false, None),
            (
                "kernel.sem",
                false,
                Some("forbidden sysctl: \"kernel.sem\" not allowlisted"),
            ),
            (
                "net.ipv4.tcp_wmem",
                true,
                Some("forbidden sysctl: \"net.ipv4.tcp_wmem\" not allowed with host Net enabled"),
            ),
            (
                "kernel.msgmax",
                true,
                Some("forbidden sysctl: \"kernel.msgmax\" not allowed with host IPC enabled"),
            ),
        ] {
            let found = check(&pod(name, host), &allowed).err();
            assert_eq!(found.as_ref().map(|r| r.message.as_str()), expected, "{name}");
            assert!(found.is_none_or(|r| r.reason == "SysctlForbidden"));
        }
    }
}
