//! A runtime of its own for each test, an image to run, and everything gone afterwards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::network::LoopbackOnly;
use cri::v1::*;
use linux::cgroup::{CgroupPath, Cgroups, KernelCgroups};
use runtime::{Config, Runtime};

pub(crate) const IMAGE: &str = "docker.io/library/busybox:test";

/// Why nothing here can run.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root".to_owned());
    }
    if let Err(error) = linux::namespace::in_new_net(|| Ok(())) {
        return Some(format!("containers need namespaces: {error}"));
    }
    if !Path::new("/bin/busybox").exists() {
        return Some("the payload is Debian's busybox-static, which is not installed".to_owned());
    }
    if let Err(error) = KernelCgroups::detect() {
        return Some(format!("no cgroups: {error}"));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!filesystems.contains("overlay")).then(|| "the kernel has no overlayfs".to_owned())
}

pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("kijabi-rt-").tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let place = Place {
            dir,
            cgroup: format!("/{name}"),
        };
        let cgroups = KernelCgroups::detect().unwrap();
        cgroups.create(&CgroupPath::new(&place.cgroup).unwrap()).unwrap();
        place
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("rt")
    }

    pub(crate) fn config(&self) -> Config {
        config(&self.root())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.config().socket
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let config = self.config();
        let cleaned = tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(runtime::cleanup(config, Arc::new(LoopbackOnly)));
        let cgroups = KernelCgroups::detect().unwrap();
        let removed = cgroups.remove(&CgroupPath::new(&self.cgroup).unwrap());
        if std::thread::panicking() {
            return;
        }
        cleaned.unwrap();
        removed.unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.dir.path().to_str().unwrap();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(ours)).collect();
        assert!(left.is_empty(), "mounts stay: {left:#?}");
    }
}

pub(crate) fn config(root: &Path) -> Config {
    let mut config = Config::new(root, root.join("cri.sock"), "test");
    config.shim_command = vec![std::env::current_exe().unwrap().into(), "shim".into()];
    config
}

/// Runs `body` against a runtime in this process, with the image in it.
pub(crate) fn with_runtime<F: Future<Output = ()>>(body: impl FnOnce(Arc<Place>, cri::Clients) -> F) {
    let place = Arc::new(Place::new());
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let runtime = Runtime::start(place.config(), Arc::new(LoopbackOnly))
            .await
            .unwrap();
        let clients = cri::connect(place.socket()).await.unwrap();
        import(&place, &clients).await;
        body(place.clone(), clients).await;
        runtime.shutdown().await;
    });
    drop(tokio);
}

/// Imports an image of busybox, as a `docker save` archive.
pub(crate) async fn import(place: &Place, clients: &cri::Clients) {
    import_archive(place, clients, IMAGE, &[]).await.unwrap();
}

/// Imports an image of busybox with `layers` on top of it.
pub(crate) async fn import_archive(
    place: &Place,
    clients: &cri::Clients,
    name: &str,
    layers: &[Vec<u8>],
) -> Result<(), tonic::Status> {
    let archive = place.dir.path().join("image.tar");
    std::fs::write(&archive, archive_of(name, layers)).unwrap();
    let request = cri::images::ImportRequest {
        path: archive.display().to_string(),
        ..Default::default()
    };
    let mut progress = clients
        .kijabi
        .clone()
        .import(tokio_stream::iter([request]))
        .await?
        .into_inner();
    let mut names = Vec::new();
    while let Some(message) = progress.message().await? {
        names.extend(message.images);
    }
    assert_eq!(names, [name]);
    Ok(())
}

fn archive_of(name: &str, upper: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<Vec<u8>> = [busybox_layer()]
        .into_iter()
        .chain(upper.iter().cloned())
        .collect();
    let digests: Vec<String> = layers
        .iter()
        .map(|layer| runtime::images::Digest::of(layer).to_string())
        .collect();
    let config = serde_json::json!({
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let names: Vec<String> = (0..layers.len()).map(|at| format!("layer-{at}.tar")).collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, data).unwrap();
    };
    for (name, layer) in names.iter().zip(&layers) {
        add(name, layer);
    }
    add("config.json", config.to_string().as_bytes());
    add("manifest.json", manifest.to_string().as_bytes());
    archive.into_inner().unwrap()
}

fn busybox_layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, mode: u32, data: &[u8], link: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        match link {
            Some(link) => layer.append_link(&mut header, name, link).unwrap(),
            None => layer.append_data(&mut header, name, data).unwrap(),
        }
    };
    for (dir, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)] {
        add(dir, tar::EntryType::Directory, mode, &[], None);
    }
    add("bin/busybox", tar::EntryType::Regular, 0o755, &busybox, None);
    for name in [
        "sh", "cat", "sleep", "id", "echo", "ls", "true", "mount", "nc", "stty", "head", "grep", "mkdir",
        "touch", "kill", "hostname", "unshare", "seq", "tty", "dd", "printf", "env", "wc", "readlink", "rm",
    ] {
        add(
            &format!("bin/{name}"),
            tar::EntryType::Symlink,
            0o777,
            &[],
            Some("busybox"),
        );
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/tmp:\n";
    add(
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        passwd.as_bytes(),
        None,
    );
    add(
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:\nweb:x:34:\nlogs:x:40:web\n",
        None,
    );
    layer.into_inner().unwrap()
}

/// One pod and what is done to it.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) clients: cri::Clients,
    config: PodSandboxConfig,
}

impl Pod {
    pub(crate) async fn run(
        place: &Place,
        clients: &cri::Clients,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Pod {
        Pod::try_run(place, clients, change).await.unwrap()
    }

    pub(crate) async fn try_run(
        place: &Place,
        clients: &cri::Clients,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod, tonic::Status> {
        let options = NamespaceOption {
            pid: NamespaceMode::Container as i32,
            ..Default::default()
        };
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "pod".into(),
                uid: "uid-1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: "pod-host".into(),
            log_directory: place.logs().display().to_string(),
            labels: HashMap::from([("app".to_owned(), "test".to_owned())]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: place.cgroup.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let id = clients
            .runtime
            .clone()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        Ok(Pod {
            id,
            clients: clients.clone(),
            config,
        })
    }

    /// Creates a container that runs `sh -c script`.
    pub(crate) async fn create(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> String {
        self.try_create(name, script, change).await.unwrap()
    }

    pub(crate) async fn try_create(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<String, tonic::Status> {
        let options = NamespaceOption {
            pid: NamespaceMode::Container as i32,
            ..Default::default()
        };
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: IMAGE.into(),
                ..Default::default()
            }),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                resources: None,
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self.clients.runtime.clone().create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    pub(crate) async fn start(&self, container_id: &str) -> Result<(), tonic::Status> {
        let request = StartContainerRequest {
            container_id: container_id.to_owned(),
        };
        self.clients
            .runtime
            .clone()
            .start_container(request)
            .await
            .map(drop)
    }

    /// Creates and starts.
    pub(crate) async fn launch(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> String {
        let id = self.create(name, script, change).await;
        self.start(&id).await.unwrap();
        id
    }

    /// Runs to the end; gives the exit code and the log.
    pub(crate) async fn output(
        &self,
        place: &Place,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> (i32, String) {
        let mut events = self
            .clients
            .runtime
            .clone()
            .get_container_events(GetEventsRequest {})
            .await
            .unwrap()
            .into_inner();
        let id = self.launch(name, script, change).await;
        let status = loop {
            let status = self.status(&id).await;
            if status.state == ContainerState::ContainerExited as i32 {
                break status;
            }
            events
                .message()
                .await
                .unwrap()
                .expect("the event stream lives as long as the runtime");
        };
        let log = std::fs::read_to_string(place.logs().join(format!("{name}.log"))).unwrap();
        let lines: Vec<&str> = log
            .lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap())
            .collect();
        (status.exit_code, lines.join("\n"))
    }

    pub(crate) async fn status(&self, container_id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest {
            container_id: container_id.to_owned(),
            verbose: false,
        };
        self.clients
            .runtime
            .clone()
            .container_status(request)
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap()
    }

    pub(crate) async fn exec(&self, container_id: &str, script: &str) -> (i32, String, String) {
        let request = ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: vec!["sh".into(), "-c".into(), script.into()],
            timeout: 20,
        };
        let got = self
            .clients
            .runtime
            .clone()
            .exec_sync(request)
            .await
            .unwrap()
            .into_inner();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (got.exit_code, text(&got.stdout), text(&got.stderr))
    }

    pub(crate) async fn remove(&self) {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.clients
            .runtime
            .clone()
            .remove_pod_sandbox(request)
            .await
            .unwrap();
    }
}

/// Changes a container's security context.
pub(crate) fn security(
    config: &mut ContainerConfig,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) {
    change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
}
