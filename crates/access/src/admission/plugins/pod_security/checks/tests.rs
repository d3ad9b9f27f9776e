//! The standards, pod by pod.

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
    let windows =
        r#"{"os":{"name":"windows"},"securityContext":{"runAsNonRoot":true},"containers":[{"name":"a"}]}"#;
    check(Level::Restricted, 24, windows, true);
    check(Level::Restricted, 25, windows, false);
    let root = r#"{"securityContext":{"runAsNonRoot":true,"runAsUser":0},"containers":[]}"#;
    check(Level::Restricted, 7, root, false);
    check(Level::Restricted, 23, root, true);
}
