//! What is known of a pod and of a container, in memory and on disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::v1::{ContainerConfig, CreateContainerRequest, LinuxContainerResources, RunPodSandboxRequest};
use linux::cgroup::CgroupPath;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::images::Digest;
use crate::shim::client::Shim;
use crate::shim::protocol::Exit;

pub(crate) const POD_RECORD: &str = "pod.json";
pub(crate) const CONTAINER_RECORD: &str = "container.json";
pub(crate) const REQUEST: &str = "request.pb";
pub(crate) const CONTAINERS: &str = "c";

/// A pod's sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) request: RunPodSandboxRequest,
    pub(crate) record: PodRecord,
    pub(crate) shim: Shim,
    /// Changes of one pod happen one after the other.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

/// The file `pod.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) ready: bool,
    pub(crate) ips: Vec<String>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) shim_pid: i32,
    pub(crate) pause_pid: Option<i32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) pod_id: String,
    pub(crate) dir: PathBuf,
    pub(crate) config: ContainerConfig,
    pub(crate) record: ContainerRecord,
    pub(crate) state: ContainerState,
    /// Turns true when the container has ended.
    pub(crate) ended: watch::Sender<bool>,
}

/// The file `container.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) created_at: i64,
    #[serde(default)]
    pub(crate) started_at: i64,
    pub(crate) image_id: Digest,
    pub(crate) image_ref: String,
    pub(crate) image_name: String,
    /// The layers it stands on.
    pub(crate) chain: Vec<Digest>,
    /// Layers mounted into it from other images.
    #[serde(default)]
    pub(crate) mounted_layers: Vec<Digest>,
    pub(crate) cgroup: String,
    pub(crate) stop_signal: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) log_path: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerState {
    Created,
    /// On its way; an exit may be heard of before the start is.
    Starting,
    /// The same, asked for by a runtime that is no more.
    StartingAdopted,
    Running {
        pid: i32,
    },
    Exited(Exit),
}

impl Pod {
    pub(crate) fn save(&self) -> io::Result<()> {
        write_json(&self.dir, POD_RECORD, &self.record)
    }

    pub(crate) fn config(&self) -> &cri::v1::PodSandboxConfig {
        static EMPTY: std::sync::LazyLock<cri::v1::PodSandboxConfig> =
            std::sync::LazyLock::new(Default::default);
        self.request.config.as_ref().unwrap_or(&EMPTY)
    }

    pub(crate) fn namespace_options(&self) -> cri::v1::NamespaceOption {
        let linux = self.config().linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        context
            .and_then(|context| context.namespace_options.clone())
            .unwrap_or_default()
    }

    pub(crate) fn is_host_network(&self) -> bool {
        self.namespace_options().network() == cri::v1::NamespaceMode::Node
    }

    pub(crate) fn cgroup_parent(&self) -> &str {
        self.config()
            .linux
            .as_ref()
            .map_or("", |linux| &linux.cgroup_parent)
    }
}

impl Container {
    pub(crate) fn save(&self) -> io::Result<()> {
        write_json(&self.dir, CONTAINER_RECORD, &self.record)
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(
            self.state,
            ContainerState::Running { .. } | ContainerState::Starting | ContainerState::StartingAdopted
        )
    }

    /// Its first process, while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        match self.state {
            ContainerState::Running { pid } => Some(pid),
            _ => None,
        }
    }

    pub(crate) fn cgroup(&self) -> linux::Result<CgroupPath> {
        CgroupPath::new(&self.record.cgroup)
    }

    pub(crate) fn resources(&self) -> Option<&LinuxContainerResources> {
        self.config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref())
    }
}

pub(crate) fn write_json<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(temporary, dir.join(name))
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(dir: &Path, name: &str) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join(name))?)?)
}

pub(crate) fn write_request(dir: &Path, request: &impl Message) -> io::Result<()> {
    std::fs::write(dir.join(REQUEST), request.encode_to_vec())
}

pub(crate) fn read_request<T: Message + Default>(dir: &Path) -> io::Result<T> {
    let bytes = std::fs::read(dir.join(REQUEST))?;
    T::decode(bytes.as_slice()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The container a request describes.
pub(crate) fn container_config(request: &CreateContainerRequest) -> ContainerConfig {
    request.config.clone().unwrap_or_default()
}

/// Nanoseconds since 1970, as CRI counts.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
