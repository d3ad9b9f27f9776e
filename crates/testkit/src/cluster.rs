//! One cluster in one process.

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
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    pub nodes: usize,
    /// As in `--controllers`.
    pub controllers: Vec<String>,
    pub scheduler: bool,
    pub store: Arc<dyn store::Store>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            controllers: vec!["*".to_owned()],
            scheduler: true,
            store: Arc::new(store::Memory::new()),
        }
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
        let store = options.store;
        let mut config = Config::new(Arc::clone(&store), Arc::clone(&clock));
        config.authorizer = Arc::new(Union::new(vec![Arc::new(Masters), Arc::new(Rbac::default())]));
        config.admission = access::admission::plugins::default_chain();
        let services: ipnet::IpNet = "10.43.0.0/16".parse().expect("a range");
        let services = ServiceAllocator::load(&*store, &[services], 30000..=32767).await;
        config.hooks.push(services.expect("Services read").hooks());
        let server = Server::start(config).await.expect("the API server starts");
        let stop = CancellationToken::new();
        let admin = server.client(UserInfo::authenticated("admin", &["system:masters"]), "kubectl");
        let manager = UserInfo::authenticated("system:kube-controller-manager", &[]);
        let informers = Informers::new(server.client(manager, "kube-controller-manager"));
        let clients = server.clone();
        let mut controllers = controllers::Options::new(
            Arc::new(move |name: &str| {
                clients.client(
                    UserInfo::service_account("kube-system", name),
                    "kube-controller-manager",
                )
            }),
            informers.clone(),
            Arc::clone(&clock),
        );
        let serves_accounts = options
            .controllers
            .iter()
            .any(|c| c == "*" || c == "serviceaccount-controller");
        controllers.controllers = options.controllers;
        controllers.cluster_cidrs = vec!["10.42.0.0/16".parse().expect("a range")];
        controllers.root_ca = Some("certificate".to_owned());
        tokio::spawn(controllers::run(controllers, stop.clone()));
        if options.scheduler {
            let user = UserInfo::authenticated("system:kube-scheduler", &[]);
            let client = server.client(user, "kube-scheduler");
            let mut options = scheduler::Options::new(client, informers.clone(), Arc::clone(&clock));
            options.seed = 1;
            tokio::spawn(scheduler::Scheduler::new(options).run(stop.clone()));
        }
        let nodes = HollowNodes::start(admin.clone(), informers.clone(), Arc::clone(&clock), stop.clone());
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

    /// A client that may do everything.
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
        self.informers.stop();
        self.server.shutdown();
    }
}
