//! The node in one process: pod network, runtime, service proxy, kubelet, cluster DNS.

use crate::cli::Up;
use crate::control_plane::ControlPlane;
use crate::instance::Instance;
use crate::pki::Pki;
use crate::progress::Progress;
use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams};
use kubelet::Kubelet;
use kubelet::images::providers;
use linux::cgroup::KernelCgroups;
use machinery::user::UserInfo;
use network::pod::BridgeNetwork;
use network::proxy::service::IpFamily;
use network::proxy::table::TableOptions;
use network::proxy::{ProxyHandle, ProxyOptions};
use network::{Host, Names};
use runtime::Runtime;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Names and addresses of the node.
pub(crate) struct Place<'a> {
    pub node_name: &'a str,
    pub node_ip: IpAddr,
    /// The address cluster DNS is reached at.
    pub dns: IpAddr,
}

/// A running node.
pub(crate) struct Node {
    kubelet: Kubelet,
    runtime: Option<Runtime>,
    proxy: ProxyHandle,
    dns: dns::Server,
}

/// The packet mark that asks for masquerading; as upstream's.
const MARK: u32 = 0x4000;

impl Node {
    /// Starts everything; returns when the node is ready for pods.
    pub(crate) async fn start(
        options: &Up,
        instance: &Instance,
        pki: &Pki,
        place: &Place<'_>,
        control_plane: &ControlPlane,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let names = Names::new(instance.id())?;
        let host = Host::kernel()
            .context("cannot reach the kernel's network; `kijabi check` says what is missing")?;
        let pods = open_network(options, instance, &names, host.clone())?;
        let (runtime, socket) = match &options.container_runtime_endpoint {
            Some(socket) => (None, socket.clone()),
            None => {
                let started = Runtime::start(runtime_config(options, instance), Arc::new(pods.clone())).await;
                (
                    Some(started.context("cannot start the container runtime")?),
                    instance.cri_socket(),
                )
            }
        };
        progress.step("container runtime ready");
        let proxy = network::proxy::start(
            host,
            &control_plane.informers,
            ProxyOptions {
                names,
                node_name: place.node_name.to_owned(),
                node_ips: vec![place.node_ip],
                families: vec![if place.node_ip.is_ipv4() {
                    IpFamily::V4
                } else {
                    IpFamily::V6
                }],
                table: TableOptions {
                    cluster_cidrs: vec![options.cluster_cidr],
                    service_cidrs: vec![options.service_cidr],
                    node_port_addresses: Vec::new(),
                    mark: MARK,
                    masquerade_all: false,
                },
                min_interval: Duration::from_millis(20),
            },
        );
        let kubelet = Kubelet::start(kubelet_config(
            options,
            instance,
            pki,
            place,
            socket,
            control_plane,
        )?)
        .await
        .context("cannot start the kubelet")?;
        ready(control_plane, place.node_name).await?;
        progress.step(format_args!("node {} ready", place.node_name));
        let dns = start_dns(options, place, &pods, control_plane).await?;
        progress.step(format_args!("cluster DNS ready on {}", place.dns));
        Ok(Self {
            kubelet,
            runtime,
            proxy,
            dns,
        })
    }

    /// Stops everything but the pods.
    pub(crate) async fn stop(self) {
        within("cluster DNS", self.dns.stop()).await;
        within("the kubelet", self.kubelet.stop()).await;
        within("the service proxy", self.proxy.stop()).await;
        if let Some(runtime) = self.runtime {
            within("the container runtime", runtime.shutdown()).await;
        }
    }
}

/// Gives a component so long to stop. Pods and store lose nothing if it is then left behind.
pub(crate) async fn within(what: &str, stop: impl Future<Output = ()>) {
    const PATIENCE: Duration = Duration::from_secs(5);
    if tokio::time::timeout(PATIENCE, stop).await.is_err() {
        tracing::warn!(
            "{what} did not stop within {} s and is left behind",
            PATIENCE.as_secs()
        );
    }
}

/// The pod network of an instance; also what `down` takes away with.
pub(crate) fn open_network(
    options: &Up,
    instance: &Instance,
    names: &Names,
    host: Host,
) -> anyhow::Result<BridgeNetwork> {
    let state = network::pod::state_dir(&instance.agent());
    std::fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
    BridgeNetwork::open(
        host,
        network::pod::Options {
            names: names.clone(),
            state,
            cluster_cidrs: vec![options.cluster_cidr],
            service_cidrs: vec![options.service_cidr],
            mtu: None,
        },
    )
    .context("cannot open the pod network")
}

/// How the embedded runtime of an instance is told.
pub(crate) fn runtime_config(options: &Up, instance: &Instance) -> runtime::Config {
    let mut config = runtime::Config::new(
        instance.agent().join("runtime"),
        instance.cri_socket(),
        instance.id(),
    );
    config.registries.insecure.clone_from(&options.insecure_registry);
    config.registries.hosts = Some(options.registry_config_path.clone());
    config
}

/// The name of the control groups' root of an instance.
pub(crate) fn cgroup_parent(instance: &Instance) -> String {
    format!("kijabi-{}", instance.id())
}

fn kubelet_config(
    options: &Up,
    instance: &Instance,
    pki: &Pki,
    place: &Place<'_>,
    socket: std::path::PathBuf,
    control_plane: &ControlPlane,
) -> anyhow::Result<kubelet::Config> {
    let user = UserInfo::authenticated(format!("system:node:{}", place.node_name), &["system:nodes"]);
    let mut settings = kubelet::Settings::new(place.node_name, instance.agent(), socket);
    settings.node_ips = vec![place.node_ip.to_string()];
    settings.cluster_dns = vec![place.dns.to_string()];
    settings.cluster_domain.clone_from(&options.cluster_domain);
    settings.cgroup_parent = cgroup_parent(instance);
    settings.port = options.kubelet_port;
    settings.static_pods = Some(instance.agent().join("manifests"));
    if let Some(file) = &options.kubelet_config {
        configure(&mut settings, file).with_context(|| format!("--kubelet-config {}", file.display()))?;
    }
    if let (Some(config), Some(bin)) = (
        &options.image_credential_provider_config,
        &options.image_credential_provider_bin_dir,
    ) {
        settings.credential_providers = credential_providers(config, bin)
            .with_context(|| format!("--image-credential-provider-config {}", config.display()))?;
    }
    let cgroups = match KernelCgroups::detect() {
        Ok(cgroups) => Some(Arc::new(cgroups) as Arc<dyn linux::cgroup::Cgroups>),
        Err(error) => {
            tracing::warn!(%error, "no control groups: limits of pods are not enforced");
            None
        }
    };
    Ok(kubelet::Config {
        settings,
        client: control_plane.server.client(user, "kubelet"),
        informers: control_plane.informers.clone(),
        clock: Arc::clone(&control_plane.clock),
        mounts: Arc::new(linux::Kernel),
        cgroups,
        server: Some(kubelet::ServerConfig {
            listen: SocketAddr::new(options.bind_address, options.kubelet_port),
            identity: pki.kubelet_server.clone(),
            client_ca: pki.authority.clone(),
            allowed_users: vec!["kube-apiserver-kubelet-client".to_owned()],
        }),
    })
}

/// Takes a kubelet's configuration file over.
fn configure(settings: &mut kubelet::Settings, file: &std::path::Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).context("cannot be read")?;
    let value = serde_yaml_ng::from_str(&text).context("is no YAML")?;
    let unfollowed = kubelet::configuration::apply(settings, value).map_err(anyhow::Error::msg)?;
    if !unfollowed.is_empty() {
        tracing::warn!(file = %file.display(), fields = unfollowed.join(", "), "fields of the kubelet's configuration are not followed");
    }
    Ok(())
}

/// The programs that a configuration names.
fn credential_providers(
    path: &std::path::Path,
    bin: &std::path::Path,
) -> anyhow::Result<Vec<providers::config::Settings>> {
    let mut contents = Vec::new();
    for file in providers::config::files(path).map_err(anyhow::Error::msg)? {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        contents
            .push(serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))?);
    }
    providers::config::read(contents, bin).map_err(anyhow::Error::msg)
}

/// Waits for the node's `Ready` condition.
async fn ready(control_plane: &ControlPlane, name: &str) -> anyhow::Result<()> {
    use futures::TryStreamExt as _;
    use kube::runtime::{WatchStreamExt as _, watcher};
    let admin = UserInfo::authenticated("system:admin", &["system:masters"]);
    let api: Api<NodeObject> = Api::all(control_plane.server.client(admin, "kijabi"));
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = Box::pin(watcher(api, only).applied_objects());
    let wait = async {
        let mut last = String::from("it was never registered");
        while let Some(node) = changes.try_next().await? {
            let conditions = node
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            if let Some(condition) = conditions
                .into_iter()
                .find(|condition| condition.type_ == "Ready")
            {
                if condition.status == "True" {
                    return Ok(());
                }
                last = condition.message.unwrap_or_default();
            }
        }
        bail!("the node is not ready: {last}")
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .context("the node was not ready after 60 s")?
}

/// Serves DNS on the bridge, and makes it the `kube-dns` Service.
async fn start_dns(
    options: &Up,
    place: &Place<'_>,
    pods: &BridgeNetwork,
    control_plane: &ControlPlane,
) -> anyhow::Result<dns::Server> {
    // After a restart the node is Ready as of before, until the kubelet has told its range again.
    tokio::time::timeout(Duration::from_secs(60), pods.until_ready())
        .await
        .context("the pod network was not ready after 60 s")?;
    let listen = *pods
        .gateways()
        .first()
        .context("the pod network has no address on this node")?;
    let server = dns::Server::start(
        &control_plane.informers,
        dns::Options {
            listen: vec![SocketAddr::new(listen, 53)],
            cluster_domain: options.cluster_domain.clone(),
            resolv_conf: "/etc/resolv.conf".into(),
            cluster_dns: place.dns,
        },
    )
    .await
    .with_context(|| format!("cannot serve DNS on {listen}"))?;
    let admin = UserInfo::authenticated("system:admin", &["system:masters"]);
    let client = control_plane.server.client(admin, "kijabi");
    let apply = PatchParams::apply("kijabi").force();
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let port = |protocol: &str, name: &str| json!({"name": name, "port": 53, "protocol": protocol});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": place.dns.to_string(), "ports": [port("UDP", "dns"), port("TCP", "dns-tcp")]},
    });
    Api::<Service>::namespaced(client.clone(), "kube-system")
        .patch("kube-dns", &apply, &Patch::Apply(&service))
        .await
        .context("publishing cluster DNS")?;
    let slice_name = format!("kube-dns-{}", place.node_name);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": slice_name, "namespace": "kube-system", "labels": {
            "kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "kijabi",
        }},
        "addressType": if listen.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [listen.to_string()], "conditions": {"ready": true}, "nodeName": place.node_name}],
        "ports": [port("UDP", "dns"), port("TCP", "dns-tcp")],
    });
    Api::<EndpointSlice>::namespaced(client, "kube-system")
        .patch(&slice_name, &apply, &Patch::Apply(&slice))
        .await
        .context("publishing cluster DNS")?;
    Ok(server)
}
