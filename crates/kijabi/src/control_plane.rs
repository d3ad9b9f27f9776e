//! The control plane in one process: store, API server, scheduler, controllers.

use crate::cli::Up;
use crate::instance::{Instance, write_atomically};
use crate::node::within;
use crate::pki::Pki;
use crate::progress::Progress;
use access::authentication::Authenticator;
use access::authentication::service_account::{Issuer, ServiceAccounts, SigningKey};
use access::authentication::x509::X509;
use anyhow::Context;
use apiserver::registry::ServiceAllocator;
use apiserver::{Advertise, Config, Server};
use client::leader::Candidate;
use client::{Informers, WorkqueueMetrics};
use machinery::clock::{Clock, SystemClock};
use machinery::user::UserInfo;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use store::Store;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::tls::ServerTls;

/// What the control plane is told beside the flags.
pub(crate) struct Settings<'a> {
    pub options: &'a Up,
    pub instance: &'a Instance,
    pub pki: &'a Pki,
    pub node_name: &'a str,
    /// The address the `kubernetes` Service leads to, and that Service's own.
    pub advertise: IpAddr,
    pub service_ip: IpAddr,
}

/// A running control plane.
pub(crate) struct ControlPlane {
    pub server: Server,
    pub clock: Arc<dyn Clock>,
    /// Shared by every component in this process.
    pub informers: Informers,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    tasks: Vec<(&'static str, JoinHandle<()>)>,
}

impl ControlPlane {
    /// Starts everything; returns when requests are answered.
    pub(crate) async fn start(
        settings: Settings<'_>,
        listener: TcpListener,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let Settings {
            options,
            instance,
            pki,
            ..
        } = settings;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let stop = CancellationToken::new();
        let store = crate::datastore::open(options, instance).await?;
        let store = {
            let shared = !options.datastore_endpoint.is_empty();
            crate::access::encrypted(store, &options.access, (instance, shared), &stop).await?
        };
        progress.step("store open");
        let mut config = server_config(&settings, &store, &clock, &stop).await?;
        let queues = Arc::new(WorkqueueMetrics::default());
        let told = Arc::clone(&queues);
        config.metrics.push(Arc::new(move |out| told.write(out)));
        let (first, last) = options.service_node_port_range;
        let services = ServiceAllocator::load(&*store, &[options.service_cidr], first..=last)
            .await
            .map_err(|error| anyhow::anyhow!("cannot read the stored Services: {}", error.message))?;
        config.hooks.push(services.hooks());
        let server = Server::start(config)
            .await
            .context("cannot start the API server")?;
        let tls = ServerTls::new(&pki.server)?;
        let serving = {
            let server = server.clone();
            tokio::spawn(async move { server.serve(listener, tls).await })
        };
        progress.step(format_args!(
            "API server ready on https://127.0.0.1:{}",
            options.https_listen_port
        ));

        // One set of informers for the process: decoded once, whoever asks.
        let reader = UserInfo::authenticated("system:kijabi:informers", &["system:masters"]);
        let informers = Informers::new(server.client(reader, "kijabi"));
        let mut tasks = vec![("the API server", serving)];
        let leases = Leases {
            server: server.clone(),
            clock: Arc::clone(&clock),
            identity: options
                .leader_elect
                .then(|| format!("{}_{}", settings.node_name, uuid::Uuid::new_v4())),
        };
        if !options.disable_controller_manager {
            let mut told = controller_options(&settings, &server, &informers, &clock);
            told.metrics = queues;
            controllers::check_names(&told.controllers)?;
            let run = move |leading| controllers::run(told.clone(), leading);
            tasks.push((
                "the controllers",
                leases.spawn("kube-controller-manager", stop.clone(), run),
            ));
        }
        if !options.disable_scheduler {
            let scheduler_client = server.client(
                UserInfo::authenticated("system:kube-scheduler", &[]),
                "kube-scheduler",
            );
            let (informers, clock) = (informers.clone(), Arc::clone(&clock));
            let host = settings.node_name.to_owned();
            let run = move |leading| {
                let (client, informers) = (scheduler_client.clone(), informers.clone());
                let mut scheduler = scheduler::Options::new(client, informers, Arc::clone(&clock));
                scheduler.host.clone_from(&host);
                scheduler::Scheduler::new(scheduler).run(leading)
            };
            tasks.push(("the scheduler", leases.spawn("kube-scheduler", stop.clone(), run)));
        }
        progress.step("scheduler and controllers running");
        Ok(Self {
            server,
            clock,
            informers,
            store,
            stop,
            tasks,
        })
    }

    /// Stops scheduler and controllers, then the API server, then the store.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.informers.stop();
        self.server.shutdown();
        for (name, task) in self.tasks {
            within(name, async {
                if let Err(error) = task.await {
                    tracing::error!(%error, "{name} ended badly");
                }
            })
            .await;
        }
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "closing the store");
        }
    }
}

/// Who may do what only one process of a cluster may do.
struct Leases {
    server: Server,
    clock: Arc<dyn Clock>,
    /// Without one nobody is asked: there is no other process.
    identity: Option<String>,
}

impl Leases {
    /// Runs something until `stop`: at once, or whenever this process holds its lease.
    fn spawn<F, R>(&self, name: &'static str, stop: CancellationToken, run: F) -> JoinHandle<()>
    where
        F: Fn(CancellationToken) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let Some(identity) = &self.identity else {
            return tokio::spawn(run(stop));
        };
        let user = UserInfo::authenticated(format!("system:{name}"), &[]);
        let client = self.server.client(user, name);
        let candidate = Candidate::new(client, name, identity, Arc::clone(&self.clock));
        tokio::spawn(async move { candidate.run(stop, run).await })
    }
}

async fn server_config(
    settings: &Settings<'_>,
    store: &Arc<encryption::Sealed>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> anyhow::Result<Config> {
    let Settings {
        options,
        instance,
        pki,
        ..
    } = settings;
    let issuer_url = format!("https://kubernetes.default.svc.{}", options.cluster_domain);
    let key = signing_key(&instance.server().join("tls/service-account.key"))?;
    let issuer = Arc::new(Issuer::new(&issuer_url, key, Arc::clone(clock)));
    let accounts = Arc::new(ServiceAccounts::new(
        vec![issuer_url.clone()],
        vec![issuer_url.clone()],
        vec![issuer.public_key().clone()],
        Arc::clone(clock),
    ));
    let access = &options.access;
    let known = crate::access::known(&access.authentication, &issuer_url, clock, stop).await?;
    let authorities = format!("{}\n{}", pki.authority, known.client_authorities);
    let x509: Arc<dyn Authenticator> = Arc::new(X509::new(&authorities, Arc::clone(clock))?);
    let mut authenticators = known.first;
    authenticators.extend([x509, Arc::clone(&accounts) as Arc<dyn Authenticator>]);
    authenticators.extend(known.last);
    let kubelets = wire::tls::client_config(&pki.authority, Some(&pki.kubelet_client))?;
    Ok(Config {
        authenticators,
        authorizer: crate::access::authorizer(&access.authorization, stop).await?,
        audit: crate::access::auditor(&access.audit, clock).await?,
        anonymous: known.anonymous,
        fairness: Some(access::fairness::Fairness::default()),
        admission: access::admission::plugins::chain(
            &options.enable_admission_plugins,
            &options.disable_admission_plugins,
        )?,
        issuer: Some(issuer),
        service_accounts: Some(accounts),
        audiences: vec![issuer_url],
        features: apiserver::Features::parse(options.feature_gates.iter().map(String::as_str))?,
        front_proxy: Some(apiserver::aggregation::FrontProxy {
            identity: pki.front_proxy.clone(),
            authority: pki.front_proxy_authority.clone(),
            client_authority: pki.authority.clone(),
        }),
        dial: Arc::new(apiserver::connect::Network::new(Some(kubelets))),
        hooks: vec![ServiceAllocator::new(&[options.service_cidr], node_ports(options)).hooks()],
        advertise: Some(Advertise {
            address: SocketAddr::new(settings.advertise, options.https_listen_port),
            service_address: settings.service_ip,
        }),
        encryption: Some(Arc::clone(store)),
        ..Config::new(Arc::clone(store) as Arc<dyn Store>, Arc::clone(clock))
    })
}

fn node_ports(options: &Up) -> std::ops::RangeInclusive<u16> {
    let (first, last) = options.service_node_port_range;
    first..=last
}

/// The key service account tokens are signed with; made at the first start.
fn signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    let pem = match std::fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pem = wire::certs::generate_key()?;
            write_atomically(path, pem.as_bytes(), 0o600)?;
            pem
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    SigningKey::from_pem(&pem).with_context(|| format!("{} is damaged", path.display()))
}

fn controller_options(
    settings: &Settings<'_>,
    server: &Server,
    informers: &Informers,
    clock: &Arc<dyn Clock>,
) -> controllers::Options {
    let identity = server.clone();
    let client_for: controllers::ClientFor = Arc::new(move |name: &str| {
        identity.client(
            UserInfo::service_account("kube-system", name),
            "kube-controller-manager",
        )
    });
    controllers::Options {
        cluster_cidrs: vec![settings.options.cluster_cidr],
        service_cidrs: vec![settings.options.service_cidr],
        controllers: settings.options.controllers.clone(),
        root_ca: Some(settings.pki.authority.clone()),
        cluster_signing: Some((settings.pki.authority.clone(), settings.pki.authority_key.clone())),
        ..controllers::Options::new(client_for, informers.clone(), Arc::clone(clock))
    }
}
