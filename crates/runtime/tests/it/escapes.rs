//! Attempts to get out of a container, and what stops each.
//!
//! Every attempt runs on the real kernel in a container as the kubelet asks for it. Its script says `ESCAPED` if it
//! succeeds, and `ABSENT` if the kernel has nothing to try it on; else it must fail in the way named, so that a missing
//! program is no proof. The table is the source
//! of `docs/escapes.md`; `KIJABI_REFRESH=1` writes that page anew.

mod images;
mod table;

use std::os::unix::fs::PermissionsExt;

use cri::v1::security_profile::ProfileType;
use cri::v1::*;

use crate::Test;
use crate::place::{Place, Pod, security, with_runtime};

pub(crate) const TESTS: &[Test] = &[
    ("escapes_from_containers", escapes_from_containers),
    ("escapes_from_images", images::escapes_from_images),
    ("escape_table_is_documented", escape_table_is_documented),
];

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) what: &'static str,
    pub(crate) level: Level,
    /// `{host}` is a directory of the host with a file `secret`; `{pid}` a process of the host.
    pub(crate) script: &'static str,
    /// What the output holds when the attempt was stopped.
    pub(crate) told: &'static str,
    pub(crate) stopped_by: &'static str,
}

/// How the container is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A pod that says nothing of its security: root with the default capabilities.
    Usual,
    /// What the restricted Pod Security Standard asks for.
    Restricted,
    /// Root without any capability.
    Dropped,
    /// User 1000, as usual otherwise.
    User,
    /// User 1000 with `allowPrivilegeEscalation: false`, nothing dropped.
    NoNewPrivileges,
    /// As usual, with the default seccomp profile.
    Seccomp,
    /// As usual with one more capability.
    NetAdmin,
    /// As usual with the host's processes in sight.
    HostPid,
    /// User 1000 with the host's processes in sight.
    HostPidAsUser,
    /// As usual on the host's network.
    HostNetwork,
    /// As usual with a limit of 32 processes and 32 MiB of memory.
    Limited,
    /// As usual with a read-only root and a read-only volume at `/vol`.
    ReadOnly,
}

impl Level {
    fn words(self) -> &'static str {
        match self {
            Level::Usual => "defaults",
            Level::Restricted => "restricted",
            Level::Dropped => "drop ALL",
            Level::User => "user 1000",
            Level::NoNewPrivileges => "no new privileges",
            Level::Seccomp => "seccomp RuntimeDefault",
            Level::NetAdmin => "add NET_ADMIN",
            Level::HostPid => "hostPID",
            Level::HostPidAsUser => "hostPID, user 1000",
            Level::HostNetwork => "hostNetwork",
            Level::Limited => "with limits",
            Level::ReadOnly => "read-only",
        }
    }

    fn is_host_network(self) -> bool {
        self == Level::HostNetwork
    }

    fn namespaces(self) -> NamespaceOption {
        let mode = |host: bool, own: NamespaceMode| match host {
            true => NamespaceMode::Node as i32,
            false => own as i32,
        };
        NamespaceOption {
            network: mode(self.is_host_network(), NamespaceMode::Pod),
            pid: mode(
                matches!(self, Level::HostPid | Level::HostPidAsUser),
                NamespaceMode::Container,
            ),
            ..Default::default()
        }
    }

    fn apply(self, config: &mut ContainerConfig, host: &str) {
        let runtime_default = SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        };
        let all = || Capability {
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        };
        let user = Some(Int64Value { value: 1000 });
        security(config, |context| {
            context.namespace_options = Some(self.namespaces());
            context.masked_paths = MASKED.map(str::to_owned).to_vec();
            context.readonly_paths = READ_ONLY.map(str::to_owned).to_vec();
            match self {
                Level::Usual | Level::HostPid | Level::HostNetwork | Level::Limited => {}
                Level::Restricted => {
                    context.capabilities = Some(all());
                    context.seccomp = Some(runtime_default);
                    context.no_new_privs = true;
                    context.run_as_user = user;
                }
                Level::Dropped => context.capabilities = Some(all()),
                Level::NoNewPrivileges => {
                    context.no_new_privs = true;
                    context.run_as_user = user;
                }
                Level::Seccomp => context.seccomp = Some(runtime_default),
                Level::NetAdmin => {
                    context.capabilities = Some(Capability {
                        add_capabilities: vec!["NET_ADMIN".into()],
                        ..Default::default()
                    });
                }
                Level::User | Level::HostPidAsUser => context.run_as_user = user,
                Level::ReadOnly => context.readonly_rootfs = true,
            }
        });
        if self == Level::Limited {
            config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 32 << 20,
                ..Default::default()
            });
        }
        config.mounts = vec![Mount {
            container_path: "/vol".into(),
            host_path: format!("{host}/volume"),
            readonly: self == Level::ReadOnly,
            ..Default::default()
        }];
    }
}

/// As the kubelet masks them.
const MASKED: [&str; 7] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn escapes_from_containers() {
    with_runtime(|place, clients| async move {
        let host = place.dir.path().join("host");
        std::fs::create_dir_all(host.join("volume")).unwrap();
        std::fs::write(host.join("secret"), "the host's").unwrap();
        // Leads out of the volume, for those who follow it.
        std::os::unix::fs::symlink(host.join("secret"), host.join("volume/out")).unwrap();
        let suid = host.join("volume/suid");
        std::fs::copy(std::env::current_exe().unwrap(), &suid).unwrap();
        std::fs::set_permissions(&suid, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let host = host.display().to_string();
        let pid = std::process::id().to_string();
        // The proof that it is the setting that stops it.
        let control = run(&place, &clients, 1000, Level::User, "/vol/suid euid", &host).await;
        assert_eq!(control, "0\ncode 0");
        let mut failures = Vec::new();
        for (at, attempt) in table::ATTEMPTS.iter().enumerate() {
            let script = attempt.script.replace("{host}", &host).replace("{pid}", &pid);
            let said = run(&place, &clients, at, attempt.level, &script, &host).await;
            if said.contains("ABSENT") && !said.contains("ESCAPED") {
                println!("skipped: {}: this kernel has no such thing", attempt.what);
                continue;
            }
            if said.contains("ESCAPED") || !said.contains(attempt.told) {
                failures.push(format!("{}: not {:?} but {said:?}", attempt.what, attempt.told));
            }
        }
        assert_eq!(
            std::fs::read_to_string(format!("{host}/secret")).unwrap(),
            "the host's"
        );
        assert!(failures.is_empty(), "{failures:#?}");
        assert!(table::ATTEMPTS.len() + images::ATTEMPTS.len() >= 40);
    });
}

async fn run(
    place: &Place,
    clients: &cri::Clients,
    at: usize,
    level: Level,
    script: &str,
    host: &str,
) -> String {
    let pod = Pod::run(place, clients, |config| {
        config.metadata.as_mut().unwrap().name = format!("escape-{at}");
        if level.is_host_network() {
            config.hostname = String::new();
        }
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options = Some(level.namespaces());
    })
    .await;
    let name = format!("escape-{at}");
    let merged = format!("exec 2>&1\n{script}");
    let (code, said) = pod
        .output(place, &name, &merged, |config| level.apply(config, host))
        .await;
    pod.remove().await;
    format!("{said}\ncode {code}")
}

fn escape_table_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/escapes.md");
    if !std::path::Path::new(env!("CARGO_MANIFEST_DIR")).exists() {
        println!("skipped: the source is not on this machine");
        return;
    }
    let mut page = String::from(
        "# Ways out of a container, and what stops each\n\n\
         Each line is an attempt that `cargo test -p runtime --test it escapes` makes on the kernel it runs on (a table in\n\
         `crates/runtime/tests/it/escapes/`, of which this page is made: `KIJABI_REFRESH=1` writes it anew). *Defaults* is\n\
         a pod that says nothing of its security; the other levels are what the pod asks for.\n\n\
         A privileged container is the host's equal, as in every Kubernetes: nothing below is promised for it.\n\n\
         \"The device cgroup\" is cgroup v1's device controller; on cgroup v2 it is a program in the kernel, which\n\
         `tests/vm/run escapes` shows at work.\n\n\
         | # | attempt | container | stopped by |\n|---|---|---|---|\n",
    );
    let containers = table::ATTEMPTS
        .iter()
        .map(|attempt| (attempt.what, attempt.level.words(), attempt.stopped_by));
    let images = images::ATTEMPTS
        .iter()
        .map(|attempt| (attempt.what, "image", attempt.stopped_by));
    for (at, (what, level, stopped_by)) in containers.chain(images).enumerate() {
        page.push_str(&format!("| {} | {what} | {level} | {stopped_by} |\n", at + 1));
    }
    if std::env::var_os("KIJABI_REFRESH").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        page,
        "docs/escapes.md is not what the table says; KIJABI_REFRESH=1 writes it"
    );
}
