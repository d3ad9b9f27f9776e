//! What a kubelet is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::v1::security_profile::ProfileType;
use k8s_openapi::api::core::v1::Taint;
use linux::cgroup::Cgroups;
use linux::mount::Mounts;
use machinery::clock::Clock;
use wire::certs::Identity;

use crate::backoff;
use crate::eviction::thresholds::Policy;
use crate::images::{gc, providers};
use crate::logs::rotate;

/// Everything a kubelet needs; handles and [`Settings`].
pub struct Config {
    pub settings: Settings,
    /// The kubelet's own identity (`system:node:<name>` in `system:nodes`).
    pub client: kube::Client,
    /// Informers over the same client; `Informers::new` in one process, `Informers::remote` across the network.
    pub informers: client::Informers,
    pub clock: Arc<dyn Clock>,
    pub mounts: Arc<dyn Mounts>,
    /// Without it pods get no control groups of their own.
    pub cgroups: Option<Arc<dyn Cgroups>>,
    pub server: Option<ServerConfig>,
}

/// The kubelet's HTTPS server.
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub identity: Identity,
    /// Who may sign client certificates.
    pub client_ca: String,
    /// Users that may do everything beside `system:masters`: the API server's kubelet client.
    pub allowed_users: Vec<String>,
}

/// Plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_name: String,
    /// Usually `<data-dir>/agent`.
    pub data_dir: PathBuf,
    pub cri_socket: PathBuf,
    /// The node's addresses, at most one a family, the primary first.
    pub node_ips: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Given at registration.
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub max_pods: i64,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,
    /// Below which the pods' groups are made, as in `kijabi-1a2b3c`.
    pub cgroup_parent: String,
    pub pod_pids_limit: Option<i64>,
    pub logs: rotate::Limits,
    pub eviction: Policy,
    pub image_gc: gc::Policy,
    /// Kernel parameters that pods may set beside the safe ones; a name may end with `*`.
    pub allowed_sysctls: Vec<String>,
    /// The longest that a container which ends again and again is held back.
    pub max_restart_period: Duration,
    /// Manifests of static pods.
    pub static_pods: Option<PathBuf>,
    /// Kept from pods; thousandths for CPU.
    pub reserved: BTreeMap<String, i64>,
    /// What the API server is told as the kubelet's port.
    pub port: u16,
    pub lease_duration: Duration,
    pub status_report_frequency: Duration,
    pub status_update_frequency: Duration,
    /// As in `v1.36.0+kijabi.0.1.0`.
    pub version: String,
    /// What containers run under that ask for no seccomp profile.
    pub seccomp_default: ProfileType,
    /// Programs that know credentials of images.
    pub credential_providers: Vec<providers::config::Settings>,
    /// Most images listed in the node's status.
    pub max_images: usize,
}

impl Settings {
    /// Upstream's defaults.
    pub fn new(node_name: &str, data_dir: impl Into<PathBuf>, cri_socket: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            data_dir: data_dir.into(),
            cri_socket: cri_socket.into(),
            node_ips: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            max_pods: 110,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cgroup_parent: String::new(),
            pod_pids_limit: None,
            logs: rotate::Limits::default(),
            eviction: Policy::default(),
            image_gc: gc::Policy::default(),
            allowed_sysctls: Vec::new(),
            max_restart_period: backoff::MAXIMUM,
            static_pods: None,
            reserved: BTreeMap::new(),
            port: 10250,
            lease_duration: Duration::from_secs(40),
            status_report_frequency: Duration::from_secs(300),
            status_update_frequency: Duration::from_secs(10),
            version: "v1.36.0".to_owned(),
            seccomp_default: ProfileType::Unconfined,
            credential_providers: Vec::new(),
            max_images: 50,
        }
    }
}
