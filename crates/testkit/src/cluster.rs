//! One cluster in one process.

use crate::clock::WallClock;
use crate::faults::{Component, Faults, refusal};
use crate::hollow::{Habits, HollowNodes};
use crate::usage::Usage;
use access::authentication::Authenticator;
use access::authorization::{Masters, Union, rbac::Rbac};
use apiserver::registry::ServiceAllocator;
use apiserver::{Config, Server};
use client::{ApiService, Body, Informer, Informers};
use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use machinery::clock::Clock;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use rand::RngExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, ServiceExt as _};

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
    pub habits: Habits,
    /// Who is let in through the network, if the server is served there.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
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
            habits: Habits::default(),
            authenticators: Vec::new(),
        }
    }
}

/// A component that can be stopped and started anew.
struct Running {
    informers: Informers,
    stop: CancellationToken,
    /// Ends with it: nothing it asks for afterwards is done.
    life: CancellationToken,
}

impl Running {
    fn end(&self) {
        self.life.cancel();
        self.stop.cancel();
        self.informers.stop();
    }
}

/// The way to whichever server runs; between two servers there is none.
#[derive(Clone)]
struct Door(Arc<Mutex<Option<(Server, CancellationToken)>>>);

impl Door {
    fn server(&self) -> Option<(Server, CancellationToken)> {
        self.0.lock().clone()
    }

    /// A service that survives its server. What was under way when a server ends is not answered by it.
    fn service(&self, usage: Option<(Usage, Informer<Pod>)>) -> ApiService {
        let door = self.clone();
        client::api_service(tower::service_fn(move |request: Request<Body>| {
            let (door, usage) = (door.clone(), usage.clone());
            async move {
                if let Some((usage, pods)) = &usage
                    && let Some(answer) = usage.answer(&request, pods)
                {
                    return Ok::<_, Infallible>(answer);
                }
                let closed = || refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
                let Some((server, life)) = door.server() else {
                    return Ok(closed());
                };
                let mut service = server.api_service();
                let answered = async {
                    // The server's router answers everything.
                    let ready = service.ready().await.unwrap_or_else(|never| match never {});
                    ready.call(request).await.unwrap_or_else(|never| match never {})
                };
                Ok(tokio::select! {
                    biased;
                    () = life.cancelled() => closed(),
                    answer = answered => answer,
                })
            }
        }))
    }
}

/// What a cluster consists of, as far as it can be restarted.
struct Plane {
    options: Options,
    wall: Arc<WallClock>,
    door: Door,
    usage: Usage,
    pods: Informer<Pod>,
    controllers: Mutex<Option<Running>>,
    scheduler: Mutex<Option<Running>>,
}

/// A running cluster; it ends when dropped.
pub struct Cluster {
    pub clock: Arc<dyn Clock>,
    pub informers: Informers,
    pub nodes: HollowNodes,
    pub usage: Usage,
    admin: kube::Client,
    stop: CancellationToken,
    plane: Arc<Plane>,
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
        let wall = Arc::new(WallClock::starting_at(base));
        let clock: Arc<dyn Clock> = Arc::clone(&wall) as Arc<dyn Clock>;
        let door = Door(Arc::default());
        let server = start_server(&options, &clock).await;
        *door.0.lock() = Some((server, CancellationToken::new()));
        let stop = CancellationToken::new();
        let direct = door.service(None);
        let admin = UserInfo::authenticated("admin", &["system:masters"]);
        let admin = client::in_process_as(direct.clone(), admin, "kubectl");
        let kubelets = UserInfo::authenticated("kubelets", &["system:masters"]);
        let service = match &options.faults {
            Some(faults) => faults.before(direct, Component::Nodes, CancellationToken::new()),
            None => direct,
        };
        let kubelets = client::in_process_as(service, kubelets, "kubelet");
        // Of their own: they outlive the controllers.
        let seen = Informers::new(kubelets.clone());
        let nodes = HollowNodes::start(
            kubelets,
            seen.clone(),
            Arc::clone(&clock),
            options.habits,
            stop.clone(),
        );
        let usage = Usage::new(Arc::clone(&clock));
        let plane = Arc::new(Plane {
            wall,
            door,
            usage: usage.clone(),
            pods: nodes.pods().clone(),
            controllers: Mutex::default(),
            scheduler: Mutex::default(),
            options,
        });
        let informers = plane.start_controllers();
        if plane.options.scheduler {
            // As in one process both share what they see, unless one of them may be restarted.
            let shared = plane.options.faults.is_none().then(|| informers.clone());
            plane.start_scheduler(shared);
        }
        if let Some(faults) = &plane.options.faults {
            let (announce, deaths) = tokio::sync::mpsc::unbounded_channel();
            faults.announce_deaths(announce);
            tokio::spawn(raise(Arc::downgrade(&plane), deaths, stop.clone()));
        }
        for number in 0..plane.options.nodes {
            nodes.add(&format!("node-{number}")).await;
        }
        let serves_accounts = plane
            .options
            .controllers
            .iter()
            .any(|c| c == "*" || c == "serviceaccount-controller");
        let cluster = Self {
            clock,
            informers,
            nodes,
            usage,
            admin,
            stop,
            plane,
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
        self.plane.start_controllers();
    }

    /// Ends the scheduler wherever it is, and starts it anew.
    pub fn restart_scheduler(&self) {
        self.plane.start_scheduler(None);
    }

    /// Ends the API server, with all that is under way, and starts another one on the same store after a while.
    pub async fn restart_server(&self, after: Duration) {
        let plane = &self.plane;
        if let Some((server, life)) = plane.door.0.lock().take() {
            life.cancel();
            server.shutdown();
        }
        tokio::time::sleep(after).await;
        let server = start_server(&plane.options, &self.clock).await;
        *plane.door.0.lock() = Some((server, CancellationToken::new()));
    }

    /// The API server that runs now.
    pub fn server(&self) -> Option<Server> {
        self.plane.door.server().map(|(server, _)| server)
    }

    /// Sets the wall clock forward, or back when negative; timers go on as before.
    pub fn set_clock(&self, by: SignedDuration) {
        self.plane.wall.jump(by);
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
        for component in [&self.plane.controllers, &self.plane.scheduler] {
            component.lock().iter().for_each(Running::end);
        }
        self.seen_by_nodes.stop();
        if let Some((server, life)) = self.plane.door.0.lock().take() {
            life.cancel();
            server.shutdown();
        }
    }
}

/// Starts those anew that have died, after a while of nobody doing their work.
async fn raise(plane: Weak<Plane>, mut deaths: UnboundedReceiver<Component>, stop: CancellationToken) {
    while let Some(component) = deaths.recv().await {
        let pause = Duration::from_millis(machinery::chance::rng().random_range(0..5_000));
        tokio::time::sleep(pause).await;
        let Some(plane) = plane.upgrade().filter(|_| !stop.is_cancelled()) else {
            return;
        };
        match component {
            Component::Controllers => drop(plane.start_controllers()),
            Component::Scheduler => plane.start_scheduler(None),
            Component::Nodes => {}
        }
    }
}

async fn start_server(options: &Options, clock: &Arc<dyn Clock>) -> Server {
    let store = Arc::clone(&options.store);
    let mut config = Config::new(Arc::clone(&store), Arc::clone(clock));
    config.authorizer = Arc::new(Union::new(vec![Arc::new(Masters), Arc::new(Rbac::default())]));
    config.authenticators.clone_from(&options.authenticators);
    config.admission = access::admission::plugins::default_chain();
    let services: ipnet::IpNet = "10.43.0.0/16".parse().expect("a range");
    let services = ServiceAllocator::load(&*store, &[services], 30000..=32767).await;
    config.hooks.push(services.expect("Services read").hooks());
    Server::start(config).await.expect("the API server starts")
}

impl Plane {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.wall) as Arc<dyn Clock>
    }

    /// The server as one life of a component sees it.
    fn service(&self, component: Component, life: &CancellationToken) -> ApiService {
        let direct = self.door.service(Some((self.usage.clone(), self.pods.clone())));
        match &self.options.faults {
            Some(faults) => faults.before(direct, component, life.clone()),
            None => direct,
        }
    }

    /// Ends the controllers that run, if any, and starts new ones.
    fn start_controllers(&self) -> Informers {
        let mut running = self.controllers.lock();
        running.iter().for_each(Running::end);
        let life = CancellationToken::new();
        let service = self.service(Component::Controllers, &life);
        let manager = UserInfo::authenticated("system:kube-controller-manager", &[]);
        let reader = client::in_process_as(service.clone(), manager, "kube-controller-manager");
        let informers = Informers::new(reader);
        let mut options = controllers::Options::new(
            Arc::new(move |name: &str| {
                let user = UserInfo::service_account("kube-system", name);
                client::in_process_as(service.clone(), user, "kube-controller-manager")
            }),
            informers.clone(),
            self.clock(),
        );
        options.controllers.clone_from(&self.options.controllers);
        options.cluster_cidrs = vec!["10.42.0.0/16".parse().expect("a range")];
        options.root_ca = Some("certificate".to_owned());
        let stop = CancellationToken::new();
        tokio::spawn(controllers::run(options, stop.clone()));
        *running = Some(Running {
            informers: informers.clone(),
            stop,
            life,
        });
        informers
    }

    /// Ends the scheduler that runs, if any, and starts a new one.
    fn start_scheduler(&self, shared: Option<Informers>) {
        let mut running = self.scheduler.lock();
        running.iter().for_each(Running::end);
        let life = CancellationToken::new();
        let service = self.service(Component::Scheduler, &life);
        let client_of = |groups: &[&str]| {
            let user = UserInfo::authenticated("system:kube-scheduler", groups);
            client::in_process_as(service.clone(), user, "kube-scheduler")
        };
        let informers = shared.unwrap_or_else(|| Informers::new(client_of(&["system:masters"])));
        let mut options = scheduler::Options::new(client_of(&[]), informers.clone(), self.clock());
        options.seed = self.options.seed;
        let stop = CancellationToken::new();
        tokio::spawn(scheduler::Scheduler::new(options).run(stop.clone()));
        *running = Some(Running {
            informers,
            stop,
            life,
        });
    }
}
