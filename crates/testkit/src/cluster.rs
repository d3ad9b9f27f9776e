//! One cluster in one process.

use crate::faults::Faults;
use crate::hollow::HollowNodes;
use access::authorization::{Masters, Union, rbac::Rbac};
use apiserver::registry::ServiceAllocator;
use apiserver::{Config, Server};
use client::Informers;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use machinery::clock::{Clock, VirtualClock};
use machinery::user::UserInfo;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a cluster is made of.
#[derive(Clone)]
pub struct Options {
    pub nodes: usize,
    /// As in `--controllers`.
    pub controllers: Vec<String>,
    pub scheduler: bool,
    pub store: Arc<dyn store::Store>,
    /// What goes wrong between scheduler, controllers and nodes on one side and the server on the other.
    pub faults: Option<Faults>,
    /// Where the scheduler's choices among equals are drawn from.
    pub seed: u64,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("nodes", &self.nodes)
            .field("controllers", &self.controllers)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            controllers: vec!["*".to_owned()],
            scheduler: true,
            store: Arc::new(store::Memory::new()),
            faults: None,
            seed: 1,
        }
    }
}

/// Makes a client for a user, with the component's name.
type Connect = Arc<dyn Fn(UserInfo, &'static str) -> kube::Client + Send + Sync>;

/// A component that can be stopped and started anew.
struct Running {
    informers: Informers,
    stop: CancellationToken,
}

impl Running {
    fn end(&self) {
        self.stop.cancel();
        self.informers.stop();
    }
}

/// A running cluster; it ends when dropped.
pub struct Cluster {
    pub server: Server,
    pub clock: Arc<dyn Clock>,
    pub informers: Informers,
    pub nodes: HollowNodes,
    admin: kube::Client,
    stop: CancellationToken,
    options: Options,
    connect: Connect,
    controllers: Mutex<Running>,
    scheduler: Mutex<Option<Running>>,
    /// What the nodes see; it ends with its last owner.
    seen_by_nodes: Informers,
}

impl Cluster {
    /// Starts a cluster. Its clock begins on the first of January 2026 and follows tokio's.
    pub async fn start(options: Options) -> Self {
        let log =
            tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env());
        // The first cluster of a process sets up the log for all.
        drop(log.with_test_writer().try_init());
        let base: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a timestamp");
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::starting_at(base));
        let store = Arc::clone(&options.store);
        let mut config = Config::new(Arc::clone(&store), Arc::clone(&clock));
        config.authorizer = Arc::new(Union::new(vec![Arc::new(Masters), Arc::new(Rbac::default())]));
        config.admission = access::admission::plugins::default_chain();
        let services: ipnet::IpNet = "10.43.0.0/16".parse().expect("a range");
        let services = ServiceAllocator::load(&*store, &[services], 30000..=32767).await;
        config.hooks.push(services.expect("Services read").hooks());
        let server = Server::start(config).await.expect("the API server starts");
        let stop = CancellationToken::new();
        let admin = server.client(UserInfo::authenticated("admin", &["system:masters"]), "kubectl");
        let (clients, faults) = (server.clone(), options.faults.clone());
        let connect: Connect = Arc::new(move |user, component| match &faults {
            Some(faults) => client::in_process_as(faults.before(clients.api_service()), user, component),
            None => clients.client(user, component),
        });
        let serves_accounts = options
            .controllers
            .iter()
            .any(|c| c == "*" || c == "serviceaccount-controller");
        let controllers = start_controllers(&options, &connect, &clock);
        let informers = controllers.informers.clone();
        // As in one process both share what they see, unless one of them may be restarted.
        let scheduler = options.scheduler.then(|| {
            let seen = match &options.faults {
                Some(_) => scheduler_informers(&connect),
                None => informers.clone(),
            };
            start_scheduler(&options, &connect, &clock, seen)
        });
        let kubelets = connect(
            UserInfo::authenticated("kubelets", &["system:masters"]),
            "kubelet",
        );
        // Of their own: they outlive the controllers.
        let seen = Informers::new(kubelets.clone());
        let nodes = HollowNodes::start(kubelets, seen.clone(), Arc::clone(&clock), stop.clone());
        for number in 0..options.nodes {
            nodes.add(&format!("node-{number}")).await;
        }
        let cluster = Self {
            server,
            clock,
            informers,
            nodes,
            admin,
            stop,
            options,
            connect,
            controllers: Mutex::new(controllers),
            scheduler: Mutex::new(scheduler),
            seen_by_nodes: seen,
        };
        if serves_accounts {
            let accounts = cluster.api::<ServiceAccount>("default");
            cluster
                .until("the account pods run as", || async {
                    accounts.get_opt("default").await.ok()?
                })
                .await;
        }
        cluster
    }

    /// Ends all controllers wherever they are, and starts them anew with nothing in their minds.
    pub fn restart_controllers(&self) {
        let mut running = self.controllers.lock();
        running.end();
        *running = start_controllers(&self.options, &self.connect, &self.clock);
    }

    /// Ends the scheduler wherever it is, and starts it anew.
    pub fn restart_scheduler(&self) {
        let mut running = self.scheduler.lock();
        if let Some(known) = running.take() {
            known.end();
        }
        let informers = scheduler_informers(&self.connect);
        *running = Some(start_scheduler(
            &self.options,
            &self.connect,
            &self.clock,
            informers,
        ));
    }

    /// A client that may do everything, and that no fault touches.
    pub fn admin(&self) -> kube::Client {
        self.admin.clone()
    }

    /// The objects of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), namespace)
    }

    /// Creates an object from JSON.
    pub async fn create<K>(&self, namespace: &str, object: serde_json::Value) -> K
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object of this kind");
        let created = self
            .api::<K>(namespace)
            .create(&PostParams::default(), &object)
            .await;
        created.expect("created")
    }

    /// Waits until `condition` gives something, at most ten (virtual) minutes.
    pub async fn until<T, F, R>(&self, what: &str, condition: F) -> T
    where
        F: Fn() -> R,
        R: Future<Output = Option<T>>,
    {
        let wait = async {
            let mut pause = Duration::from_millis(2);
            loop {
                if let Some(found) = condition().await {
                    return found;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        };
        match tokio::time::timeout(Duration::from_secs(600), wait).await {
            Ok(found) => found,
            Err(_) => panic!("never came: {what}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.controllers.lock().end();
        if let Some(scheduler) = &*self.scheduler.lock() {
            scheduler.end();
        }
        self.seen_by_nodes.stop();
        self.server.shutdown();
    }
}

fn start_controllers(options: &Options, connect: &Connect, clock: &Arc<dyn Clock>) -> Running {
    let manager = UserInfo::authenticated("system:kube-controller-manager", &[]);
    let informers = Informers::new(connect(manager, "kube-controller-manager"));
    let connect = Arc::clone(connect);
    let mut of_controllers = controllers::Options::new(
        Arc::new(move |name: &str| {
            connect(
                UserInfo::service_account("kube-system", name),
                "kube-controller-manager",
            )
        }),
        informers.clone(),
        Arc::clone(clock),
    );
    of_controllers.controllers.clone_from(&options.controllers);
    of_controllers.cluster_cidrs = vec!["10.42.0.0/16".parse().expect("a range")];
    of_controllers.root_ca = Some("certificate".to_owned());
    let stop = CancellationToken::new();
    tokio::spawn(controllers::run(of_controllers, stop.clone()));
    Running { informers, stop }
}

fn scheduler_informers(connect: &Connect) -> Informers {
    let reader = UserInfo::authenticated("system:kube-scheduler", &["system:masters"]);
    Informers::new(connect(reader, "kube-scheduler"))
}

fn start_scheduler(
    options: &Options,
    connect: &Connect,
    clock: &Arc<dyn Clock>,
    informers: Informers,
) -> Running {
    let user = UserInfo::authenticated("system:kube-scheduler", &[]);
    let client = connect(user, "kube-scheduler");
    let mut of_scheduler = scheduler::Options::new(client, informers.clone(), Arc::clone(clock));
    of_scheduler.seed = options.seed;
    let stop = CancellationToken::new();
    tokio::spawn(scheduler::Scheduler::new(of_scheduler).run(stop.clone()));
    Running { informers, stop }
}
