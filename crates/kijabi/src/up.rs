//! `kijabi up`: a whole cluster on this machine, in the foreground.

use crate::cli::Up;
use crate::control_plane::{ControlPlane, Settings};
use crate::host;
use crate::instance::{Instance, Lock, Running, write_atomically};
use crate::node::Node;
use crate::pki::{Names, Pki};
use crate::progress::Progress;
use anyhow::{Context, bail};
use machinery::user::UserInfo;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A running cluster.
pub(crate) struct Cluster {
    control_plane: ControlPlane,
    node: Node,
    kubeconfig: PathBuf,
    dns: IpAddr,
    _lock: Lock,
}

/// Runs until a signal asks to stop. Pods live on.
pub(crate) async fn run(options: &Up) -> anyhow::Result<()> {
    let progress = Progress::start();
    let cluster = start(options, progress).await?;
    progress.step(format_args!("export KUBECONFIG={}", cluster.kubeconfig.display()));
    interrupted().await?;
    progress.step("stopping; pods live on (`kijabi down` stops them)");
    tokio::select! {
        () = cluster.stop() => Ok(()),
        // Asked twice: whoever asks is in a hurry, and every start is a recovery.
        again = interrupted() => again,
    }
}

/// Resolves when somebody asks this process to end.
pub(crate) async fn interrupted() -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Starts a cluster; returns when its node is ready.
pub(crate) async fn start(options: &Up, progress: Progress) -> anyhow::Result<Cluster> {
    if !rustix::process::geteuid().is_root() {
        bail!("kijabi needs root: it makes namespaces, mounts and control groups. Run it with sudo.");
    }
    check_ranges(options)?;
    let instance = Instance::create(&options.data_dir.data_dir)?;
    let lock = instance.lock()?;
    let data_dir = options.data_dir.data_dir.clone();
    let lacking = tokio::task::spawn_blocking(move || linux::check::lacking(&data_dir));
    let listener = listen(options).await?;
    let node_name = match &options.node_name {
        Some(name) => name.to_lowercase(),
        None => host::name()?,
    };
    let wrong = machinery::names::dns1123_subdomain(&node_name);
    if !wrong.is_empty() {
        bail!(
            "{node_name:?} is no node name: {}; choose one with --node-name",
            wrong.join("; ")
        );
    }
    let node_ip = match options.node_ip {
        Some(address) => address,
        None => host::address(options.cluster_cidr)?,
    };
    let service_ip = host::nth(options.service_cidr, 1)?;
    let dns = match options.cluster_dns {
        Some(address) if !options.service_cidr.contains(&address) => {
            bail!(
                "--cluster-dns {address} is not in --service-cidr {}",
                options.service_cidr
            )
        }
        Some(address) => address,
        None => host::nth(options.service_cidr, 10)?,
    };
    let lacking = lacking.await.context("the kernel's features were not tried")?;
    if !lacking.is_empty() {
        let lines: Vec<String> = lacking.iter().map(ToString::to_string).collect();
        bail!(
            "this machine lacks what pods need:\n{}\n`kijabi check` tells of everything",
            lines.join("\n")
        );
    }
    let names = Names {
        node_name: node_name.clone(),
        node_ip,
        service_ip,
        cluster_domain: options.cluster_domain.clone(),
        extra: options.tls_san.clone(),
    };
    let pki = Pki::load_or_create(&instance.server().join("tls"), &names, jiff::Timestamp::now())?;
    let server = format!("https://127.0.0.1:{}", options.https_listen_port);
    let kubeconfig = write_kubeconfig(options, &instance, &pki, &server)?;
    progress.step("certificates and kubeconfig ready");

    let settings = Settings {
        options,
        instance: &instance,
        pki: &pki,
        node_name: &node_name,
        advertise: node_ip,
        service_ip,
    };
    let control_plane = ControlPlane::start(settings, listener, &progress).await?;
    instance.write_running(&Running {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node_name: node_name.clone(),
        api_server: server,
        kubeconfig: kubeconfig.clone(),
        cluster_cidr: options.cluster_cidr.to_string(),
        service_cidr: options.service_cidr.to_string(),
    })?;
    let place = crate::node::Place {
        node_name: &node_name,
        node_ip,
        dns,
    };
    let node = match Node::start(options, &instance, &pki, &place, &control_plane, &progress).await {
        Ok(node) => node,
        Err(error) => {
            control_plane.stop().await;
            return Err(error);
        }
    };
    Ok(Cluster {
        control_plane,
        node,
        kubeconfig,
        dns,
        _lock: lock,
    })
}

impl Cluster {
    /// A client that may do everything.
    pub(crate) fn client(&self) -> kube::Client {
        self.control_plane.server.client(
            UserInfo::authenticated("system:admin", &["system:masters"]),
            "kijabi",
        )
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The address of cluster DNS.
    pub(crate) fn dns(&self) -> IpAddr {
        self.dns
    }

    /// Stops everything but the pods.
    pub(crate) async fn stop(self) {
        self.node.stop().await;
        self.control_plane.stop().await;
    }
}

/// Ranges that overlap lead to puzzles later: they are refused now.
fn check_ranges(options: &Up) -> anyhow::Result<()> {
    let (pods, services) = (options.cluster_cidr, options.service_cidr);
    if pods.contains(&services) || services.contains(&pods) {
        bail!("--cluster-cidr {pods} and --service-cidr {services} overlap");
    }
    if services.max_prefix_len() - services.prefix_len() < 4 {
        bail!("--service-cidr {services} is too small: cluster DNS alone needs the tenth address");
    }
    Ok(())
}

async fn listen(options: &Up) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(options.bind_address, options.https_listen_port);
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another server there? Choose another port with --https-listen-port")
    })
}

fn write_kubeconfig(options: &Up, instance: &Instance, pki: &Pki, server: &str) -> anyhow::Result<PathBuf> {
    let path = options
        .write_kubeconfig
        .clone()
        .unwrap_or_else(|| instance.root().join("kubeconfig.yaml"));
    let text = wire::certs::kubeconfig(
        "kijabi",
        "system:admin",
        server,
        &pki.authority,
        &pki.administrator,
    );
    write_atomically(&path, text.as_bytes(), options.write_kubeconfig_mode)?;
    Ok(path)
}
