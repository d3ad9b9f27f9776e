//! The OCI configuration of a container: a pure function.
//!
//! Mounts, defaults and their order follow containerd's, which workloads were written against. Limits are
//! not in it: the runtime sets them on the cgroup itself, the same way on creation and on update.

use std::path::{Path, PathBuf};

use cri::v1::{ContainerConfig, LinuxContainerSecurityContext, MountPropagation, NamespaceMode};
use serde_json::{Value, json};

use super::devices;
use super::host::{DeviceNode, ResolvedMount};
use super::user::User;
use crate::images::ImageConfig;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const CGROUPS: &str = "/sys/fs/cgroup";

/// What a container's configuration is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) user: &'a User,
    pub(crate) rootfs: &'a Path,
    pub(crate) cgroup_path: &'a str,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) mounts: &'a [ResolvedMount],
    pub(crate) devices: &'a [DeviceNode],
    pub(crate) hostname: &'a str,
    pub(crate) cgroups: &'a CgroupView,
    pub(crate) apparmor: Option<&'a str>,
}

/// How a container sees its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CgroupView {
    /// A namespace whose root is its own group.
    Unified,
    /// Its own group's directory in each hierarchy, by the hierarchy's name. Not left to libcontainer, which
    /// finds them through a process number that only holds in a pid namespace of its own.
    Hierarchies(Vec<(String, PathBuf)>),
}

/// The pod's namespaces as paths; nothing where the host's are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    pub(crate) network: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) pid: PidNamespace,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    #[default]
    Own,
    Host,
    /// The pod's, or that of another container.
    Shared(PathBuf),
}

/// The command line a container runs, from its own words and the image's.
pub(crate) fn command_line(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, String> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        command.clone_from(&image.entrypoint);
    }
    command.extend(args);
    match command.is_empty() {
        true => Err("no command specified".to_owned()),
        false => Ok(command),
    }
}

/// The image's environment, the pod's hostname, then the container's own variables.
pub(crate) fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOME={}", inputs.user.home)];
    if !inputs.hostname.is_empty() {
        set(&mut env, format!("HOSTNAME={}", inputs.hostname));
    }
    if inputs.config.tty {
        set(&mut env, "TERM=xterm".to_owned());
    }
    for entry in &inputs.image.env {
        set(&mut env, entry.clone());
    }
    for variable in &inputs.config.envs {
        set(
            &mut env,
            format!("{}={}", variable.key, String::from_utf8_lossy(&variable.value)),
        );
    }
    env
}

pub(crate) fn working_dir<'a>(config: &'a ContainerConfig, image: &'a ImageConfig) -> &'a str {
    [config.working_dir.as_str(), image.working_dir.as_str()]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .unwrap_or("/")
}

pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Value, String> {
    let security = inputs
        .config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let privileged = security.is_some_and(|context| context.privileged);
    let mut linux = json!({
        "namespaces": namespaces(inputs, privileged),
        "cgroupsPath": format!("/{}", inputs.cgroup_path.trim_start_matches('/')),
        "resources": {"devices": devices::rules(inputs.devices, privileged)},
        "devices": inputs.devices.iter().map(device).collect::<Vec<_>>(),
    });
    if !privileged {
        linux["maskedPaths"] = json!(security.map_or(&[][..], |context| &context.masked_paths));
        linux["readonlyPaths"] = json!(readonly_paths(inputs, security));
    }
    let bidirectional =
        |mount: &ResolvedMount| mount.propagation == MountPropagation::PropagationBidirectional;
    if inputs.mounts.iter().any(bidirectional) {
        linux["rootfsPropagation"] = json!("shared");
    }
    let mut process = json!({
        "terminal": inputs.config.tty,
        "user": {
            "uid": inputs.user.uid,
            "gid": inputs.user.gid,
            "umask": 0o022,
            "additionalGids": inputs.user.groups,
        },
        "args": command_line(inputs.config, inputs.image)?,
        "env": environment(inputs),
        "cwd": working_dir(inputs.config, inputs.image),
    });
    if security.is_some_and(|context| context.no_new_privs) {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = inputs.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    Ok(json!({
        "ociVersion": "1.1.0",
        "process": process,
        "root": {
            "path": inputs.rootfs,
            "readonly": security.is_some_and(|context| context.readonly_rootfs),
        },
        "mounts": mounts(inputs, privileged),
        "linux": linux,
    }))
}

/// The OCI process of an exec: the container's own with other words.
pub(crate) fn exec_process(config: &Value, command: &[String], tty: bool) -> Value {
    let mut process = config["process"].clone();
    process["args"] = json!(command);
    process["terminal"] = json!(tty);
    if tty && let Some(env) = process["env"].as_array_mut() {
        let has_term = env
            .iter()
            .any(|entry| entry.as_str().is_some_and(|text| text.starts_with("TERM=")));
        if !has_term {
            env.push(json!("TERM=xterm"));
        }
    }
    process
}

fn namespaces(inputs: &Inputs<'_>, privileged: bool) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"})];
    let paths = [
        ("network", &inputs.namespaces.network),
        ("ipc", &inputs.namespaces.ipc),
        ("uts", &inputs.namespaces.uts),
    ];
    for (kind, path) in paths {
        list.extend(path.as_ref().map(|path| json!({"type": kind, "path": path})));
    }
    match &inputs.namespaces.pid {
        PidNamespace::Own => list.push(json!({"type": "pid"})),
        PidNamespace::Shared(path) => list.push(json!({"type": "pid", "path": path})),
        PidNamespace::Host => {}
    }
    if *inputs.cgroups == CgroupView::Unified && !privileged {
        list.push(json!({"type": "cgroup"}));
    }
    list
}

fn mounts(inputs: &Inputs<'_>, privileged: bool) -> Vec<Value> {
    let writable = if privileged { "rw" } else { "ro" };
    let mount = |kind: &str, source: &str, at: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": source, "options": options});
    let mut list = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", writable]),
    ];
    match inputs.cgroups {
        CgroupView::Unified => {
            let options = ["nosuid", "noexec", "nodev", "relatime", writable];
            list.push(mount("cgroup", "cgroup", CGROUPS, &options));
        }
        CgroupView::Hierarchies(hierarchies) => {
            list.push(mount(
                "tmpfs",
                "tmpfs",
                CGROUPS,
                &["nosuid", "noexec", "nodev", "mode=755", "size=64k"],
            ));
            for (name, dir) in hierarchies {
                let options = ["bind", "nosuid", "noexec", "nodev", writable];
                let at = format!("{CGROUPS}/{name}");
                list.push(mount("bind", &dir.display().to_string(), &at, &options));
            }
        }
    }
    let taken = |at: &str| {
        inputs
            .mounts
            .iter()
            .any(|own| own.target.trim_end_matches('/') == at)
    };
    let hidden = |at: &str| taken(at) || (at.starts_with(CGROUPS) && taken(CGROUPS));
    list.retain(|default| !default["destination"].as_str().is_some_and(hidden));
    // Outer places first, whatever order they were asked for in.
    let mut own: Vec<&ResolvedMount> = inputs.mounts.iter().collect();
    own.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    list.extend(own.into_iter().map(bind));
    list
}

fn bind(mount: &ResolvedMount) -> Value {
    let propagation = match mount.propagation {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    json!({
        "destination": mount.target,
        "type": "bind",
        "source": mount.source,
        "options": ["rbind", propagation, access],
    })
}

/// What was asked for; and the directory of the cgroup hierarchies, in which only their mount points had to be made.
fn readonly_paths(inputs: &Inputs<'_>, security: Option<&LinuxContainerSecurityContext>) -> Vec<String> {
    let mut paths = security.map_or_else(Vec::new, |context| context.readonly_paths.clone());
    let own = |mount: &ResolvedMount| mount.target.trim_end_matches('/') == CGROUPS;
    if matches!(inputs.cgroups, CgroupView::Hierarchies(_)) && !inputs.mounts.iter().any(own) {
        paths.push(CGROUPS.to_owned());
    }
    paths
}

fn device(device: &DeviceNode) -> Value {
    json!({
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

fn set(env: &mut Vec<String>, entry: String) {
    let key = entry.split('=').next().unwrap_or_default();
    match env.iter_mut().find(|known| known.split('=').next() == Some(key)) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

/// The mode of one of a pod's or container's namespaces, as the request gives it.
pub(crate) fn pid_mode(config: &ContainerConfig) -> (NamespaceMode, String) {
    let options = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.as_ref());
    match options {
        Some(options) => (options.pid(), options.target_id.clone()),
        None => (NamespaceMode::Pod, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use cri::v1::{KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext};

    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            env: vec!["PATH=/image/bin".into(), "FROM=image".into(), "BOTH=image".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            working_dir: "/srv".into(),
            ..Default::default()
        }
    }

    fn spec(config: &ContainerConfig, mounts: &[ResolvedMount]) -> Value {
        let user = User {
            uid: 5,
            gid: 6,
            groups: vec![6, 7],
            home: "/home/u".into(),
        };
        let namespaces = Namespaces {
            network: Some("/proc/9/ns/net".into()),
            ipc: Some("/proc/9/ns/ipc".into()),
            uts: None,
            pid: PidNamespace::Shared("/proc/10/ns/pid".into()),
        };
        build(&Inputs {
            config,
            image: &image(),
            user: &user,
            rootfs: Path::new("/r"),
            cgroup_path: "kubepods/pod1/c1",
            namespaces: &namespaces,
            mounts,
            devices: &[],
            hostname: "pod-1",
            cgroups: &CgroupView::Hierarchies(vec![("memory".into(), "/sys/fs/cgroup/memory/x".into())]),
            apparmor: None,
        })
        .unwrap()
    }

    fn context(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
        let mut security = LinuxContainerSecurityContext::default();
        change(&mut security);
        let linux = LinuxContainerConfig {
            security_context: Some(security),
            resources: None,
        };
        ContainerConfig {
            linux: Some(linux),
            ..Default::default()
        }
    }

    #[test]
    fn the_command_line_follows_the_images_rules() {
        let line = |command: &[&str], args: &[&str]| {
            let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            let config = ContainerConfig {
                command: own(command),
                args: own(args),
                ..Default::default()
            };
            command_line(&config, &image()).unwrap().join(" ")
        };
        assert_eq!(line(&[], &[]), "/entry default");
        assert_eq!(line(&[], &["a"]), "/entry a");
        assert_eq!(line(&["c"], &[]), "c");
        assert_eq!(line(&["c"], &["a"]), "c a");
        let nothing = command_line(&ContainerConfig::default(), &ImageConfig::default());
        assert_eq!(nothing.unwrap_err(), "no command specified");
    }

    #[test]
    fn the_container_has_the_last_word_on_its_environment() {
        let envs = vec![KeyValue {
            key: "BOTH".into(),
            value: "own".into(),
        }];
        let spec = spec(
            &ContainerConfig {
                envs,
                ..Default::default()
            },
            &[],
        );
        let env = json!([
            "PATH=/image/bin",
            "HOME=/home/u",
            "HOSTNAME=pod-1",
            "FROM=image",
            "BOTH=own"
        ]);
        assert_eq!(spec["process"]["env"], env);
        assert_eq!(spec["process"]["cwd"], "/srv");
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([6, 7]));
    }

    #[test]
    fn namespaces_are_the_pods() {
        let spec = spec(&ContainerConfig::default(), &[]);
        let kinds: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ns| ns["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["mount", "network", "ipc", "pid"]);
        assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/pod1/c1");
    }

    #[test]
    fn own_mounts_replace_defaults_and_come_outer_first() {
        let mount = |target: &str, readonly| ResolvedMount {
            target: target.into(),
            source: "/src".into(),
            readonly,
            recursive_read_only: false,
            propagation: MountPropagation::PropagationPrivate,
        };
        let spec = spec(
            &ContainerConfig::default(),
            &[mount("/a/b/c", true), mount("/a", false), mount("/sys/", true)],
        );
        let list = spec["mounts"].as_array().unwrap();
        let places: Vec<_> = list.iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(
            places,
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/dev/mqueue",
                "/sys/fs/cgroup",
                "/sys/fs/cgroup/memory",
                "/a",
                "/sys/",
                "/a/b/c"
            ]
        );
        assert_eq!(list[8]["options"], json!(["rbind", "rprivate", "ro"]));
    }

    #[test]
    fn privilege_opens_what_is_closed_otherwise() {
        let masked = vec!["/proc/kcore".to_owned()];
        let plain = spec(&context(|c| c.masked_paths.clone_from(&masked)), &[]);
        assert_eq!(plain["linux"]["maskedPaths"], json!(masked));
        assert_eq!(
            plain["linux"]["resources"]["devices"][0],
            json!({"allow": false, "access": "rwm"})
        );
        let privileged = spec(
            &context(|c| {
                c.privileged = true;
                c.masked_paths = masked;
            }),
            &[],
        );
        assert!(privileged["linux"].get("maskedPaths").is_none());
        assert_eq!(
            privileged["linux"]["resources"]["devices"],
            json!([{"allow": true, "access": "rwm"}])
        );
        let sys = privileged["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["destination"] == "/sys")
            .unwrap();
        assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
    }
}
