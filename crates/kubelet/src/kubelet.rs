//! Putting the parts together, and taking them apart.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use client::{Informer, Selection};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::server::Limits;
use wire::tls::{ClientVerifier, ServerTls};

use crate::allocation::Allocations;
use crate::backoff::{self, Backoff};
use crate::cgroups::PodCgroups;
use crate::config::{Config, ServerConfig};
use crate::csi::{self, drivers::CsiHandler};
use crate::devices::{self, DeviceHandler, Devices};
use crate::dns;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::eviction::{self, Pressures};
use crate::housekeeping;
use crate::images::manager::ImageManager;
use crate::images::providers::Providers;
use crate::node::context::{NodeContext, NodeState};
use crate::node::machine::Machine;
use crate::node::{lease, reporter::Reporter};
use crate::objects::{ObjectCache, OnChange};
use crate::paths::Paths;
use crate::pods::mirror::Mirrors;
use crate::pods::worker::Command;
use crate::pods::{source, workers::Workers};
use crate::registry::{Handler, Registry};
use crate::runtime::client::Runtime;
use crate::runtime::events::{self, Changed};
use crate::server::{Server, auth::Guard};
use crate::status::manager::StatusManager;
use crate::volumes::tokens::Tokens;

/// A running kubelet.
pub struct Kubelet {
    node: Arc<NodeContext>,
    workers: Arc<Workers>,
    stop: CancellationToken,
    tasks: TaskTracker,
    address: Option<SocketAddr>,
}

impl Kubelet {
    /// Connects to the runtime, begins to listen, and starts everything else in the background.
    pub async fn start(config: Config) -> Result<Self> {
        let runtime = Runtime::connect(&config.settings.cri_socket).await?;
        Self::start_with(config, runtime).await
    }

    /// As [`Self::start`], over a connection that is made already.
    pub async fn start_with(config: Config, runtime: Runtime) -> Result<Self> {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let workers = Workers::new(tasks.clone());
        let listener = match &config.server {
            Some(server) => Some(listen(server).await?),
            None => None,
        };
        let Config {
            settings,
            client,
            informers,
            clock,
            mounts,
            cgroups,
            server,
        } = config;
        let machine = Machine::read(&settings);
        let cgroups = match cgroups {
            Some(cgroups) => Some(PodCgroups::new(
                cgroups,
                &settings.cgroup_parent,
                settings.pod_pids_limit,
                machine.cpus,
            )?),
            None => None,
        };
        let events = Events::new(client.clone(), &settings.node_name, clock.clone());
        let on_change: OnChange = {
            let workers = workers.clone();
            Arc::new(move |pods: &HashSet<String>| {
                pods.iter().for_each(|uid| workers.tell(uid, Command::Look))
            })
        };
        let pods: Informer<Pod> =
            informers.select(Selection::all().with_fields(&format!("spec.nodeName={}", settings.node_name)));
        let nodes: Informer<Node> =
            informers.select(Selection::all().with_fields(&format!("metadata.name={}", settings.node_name)));
        let mirrors = Arc::new(Mirrors::default());
        let paths = Paths::new(&settings.data_dir);
        let report: Arc<Notify> = Arc::default();
        let devices = Devices::new(paths.device_plugins(), report.clone());
        let tokens = Arc::new(Tokens::new(client.clone(), clock.clone()));
        let providers = Providers::new(
            settings.credential_providers.clone(),
            client.clone(),
            tokens.clone(),
            clock.clone(),
        );
        let node = Arc::new(NodeContext {
            started: clock.now(),
            paths,
            images: ImageManager::new(runtime.clone(), events.clone(), clock.clone(), providers),
            status: StatusManager::new(client.clone(), clock.clone(), tasks.clone(), mirrors.clone()),
            mirrors,
            pressures: Pressures::default(),
            images_at: tokio::sync::OnceCell::new(),
            tokens,
            csi: csi::Drivers::default(),
            devices,
            report,
            config_maps: ObjectCache::new(informers.clone(), on_change.clone()),
            secrets: ObjectCache::new(informers.clone(), on_change),
            services: informers.get(),
            allocations: Allocations::default(),
            cluster_dns: dns::Cluster {
                servers: settings.cluster_dns.clone(),
                domain: settings.cluster_domain.clone(),
            },
            state: parking_lot::RwLock::new(NodeState::default()),
            crashes: Backoff::new(
                backoff::INITIAL.min(settings.max_restart_period),
                settings.max_restart_period,
            ),
            settings,
            client,
            clock,
            runtime,
            events,
            mounts,
            cgroups,
            machine,
        });
        workers.attach(node.clone());
        let kubelet = Self {
            address: listener.as_ref().and_then(|(l, _)| l.local_addr().ok()),
            node,
            workers,
            stop,
            tasks,
        };
        kubelet.spawn_all(pods, nodes);
        if let (Some((listener, guard)), Some(server)) = (listener, server) {
            kubelet.serve(listener, guard, &server)?;
        }
        Ok(kubelet)
    }

    /// Where the HTTPS server listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn node(&self) -> &Arc<NodeContext> {
        &self.node
    }

    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Stops everything of the kubelet; the pods live on.
    pub async fn stop(self) {
        self.stop.cancel();
        self.workers.abandon();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn spawn_all(&self, pods: Informer<Pod>, nodes: Informer<Node>) {
        let (node, workers) = (&self.node, &self.workers);
        let node_changed = node.report.clone();
        let sweep = Arc::new(Notify::new());
        csi::release::recall(node);
        let (told, swept) = (workers.clone(), sweep.clone());
        let handlers: Vec<Arc<dyn Handler>> = vec![Arc::new(CsiHandler), Arc::new(DeviceHandler)];
        let registry = Registry::new(
            node.clone(),
            handlers,
            Arc::new(move || {
                // Pods wait for drivers to come, in and out.
                told.tell_all(&Command::Look);
                swept.notify_one();
            }),
        );
        self.spawn(registry.follow());
        self.spawn(devices::server::serve(node.devices.clone()));
        self.spawn(devices::pod_resources::serve(node.clone(), workers.clone()));
        let reporter = Reporter::new(node.clone(), workers.clone(), node_changed.clone());
        self.spawn(reporter.run(nodes));
        self.spawn(lease::renew(node.clone()));
        self.spawn(eviction::keep(
            node.clone(),
            workers.clone(),
            node_changed.clone(),
        ));
        let mirrored = node.clone();
        self.spawn(async move { mirrored.mirrors.keep(&mirrored).await });
        self.spawn(housekeeping::rotate_logs(node.clone(), workers.clone()));
        self.spawn(housekeeping::collect_images(node.clone(), workers.clone()));
        self.spawn(source::run(
            node.clone(),
            workers.clone(),
            pods,
            sweep.clone(),
            self.stop.clone(),
        ));
        let told = workers.clone();
        self.spawn(events::follow(
            node.runtime.clone(),
            self.stop.clone(),
            move |changed| match changed {
                Changed::Pod(uid) => told.tell(&uid, Command::Look),
                Changed::All => {
                    told.tell_all(&Command::Look);
                    // A runtime that was away may have come back with other news.
                    node_changed.notify_one();
                }
            },
        ));
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    fn serve(&self, listener: TcpListener, guard: Guard, config: &ServerConfig) -> Result<()> {
        let tls = ServerTls::new(&config.identity).map_err(Error::Tls)?;
        let server = Arc::new(Server::new(self.node.clone(), self.workers.clone(), guard));
        self.tasks.spawn(wire::server::serve(
            listener,
            tls,
            server,
            Limits::default(),
            self.stop.clone(),
        ));
        Ok(())
    }
}

async fn listen(server: &ServerConfig) -> Result<(TcpListener, Guard)> {
    let verifier = ClientVerifier::new(&server.client_ca).map_err(Error::Tls)?;
    let guard = Guard::new(verifier, server.allowed_users.iter().cloned());
    let listener = TcpListener::bind(server.listen)
        .await
        .map_err(|source| Error::Listen {
            address: server.listen,
            source,
        })?;
    Ok((listener, guard))
}
