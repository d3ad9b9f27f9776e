//! Where the kubelet keeps things. The layout below a pod's directory is upstream's.

use std::path::{Path, PathBuf};

/// ```text
/// <root>/kubelet/pods/<uid>/volumes/<plugin>/<name>     mounted volumes
///                          /volume-subpaths/<volume>/<container>/<index>
///                          /containers/<name>/<id>      termination message files
///                          /etc-hosts
/// <root>/kubelet/plugins_registry/<plugin>.sock         plugins make themselves known
/// <root>/kubelet/device-plugins/kubelet.sock            device plugins register
/// <root>/kubelet/pod-resources/kubelet.sock             who holds which devices is told
/// <root>/kubelet/plugins/kubernetes.io/csi/<driver>/<volume>/globalmount
/// <root>/log/pods/<namespace>_<name>_<uid>/<container>/<n>.log
/// ```
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn pods(&self) -> PathBuf {
        self.root.join("kubelet/pods")
    }

    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    pub fn volumes(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volumes")
    }

    /// `plugin` as in `kubernetes.io/empty-dir`.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.volumes(uid).join(plugin.replace('/', "~")).join(name)
    }

    pub fn subpaths(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volume-subpaths")
    }

    pub fn subpath(&self, uid: &str, volume: &str, container: &str, index: usize) -> PathBuf {
        self.subpaths(uid)
            .join(volume)
            .join(container)
            .join(index.to_string())
    }

    pub fn container(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("containers").join(name)
    }

    pub fn hosts_file(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("log/pods")
    }

    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs().join(format!("{namespace}_{name}_{uid}"))
    }

    /// Where plugins make themselves known.
    pub fn plugins_registry(&self) -> PathBuf {
        self.root.join("kubelet/plugins_registry")
    }

    /// Where device plugins register.
    pub fn device_plugins(&self) -> PathBuf {
        self.root.join("kubelet/device-plugins")
    }

    /// Where it is told who holds which devices.
    pub fn pod_resources(&self) -> PathBuf {
        self.root.join("kubelet/pod-resources")
    }

    /// Where volumes of storage drivers are staged.
    pub fn csi_staging(&self) -> PathBuf {
        self.root.join("kubelet/plugins/kubernetes.io/csi")
    }

    /// Containers that were written down.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("kubelet/checkpoints")
    }

    pub fn seccomp(&self) -> PathBuf {
        self.root.join("kubelet/seccomp")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}
