//! Starting and running the API server.

use crate::aggregation::{Aggregation, FrontProxy};
use crate::cache::Reflector;
use crate::connect::{Connector, Dial, NoNodes};
use crate::features::Features;
use crate::registry::hooks::Hooks;
use crate::registry::read::Reader;
use crate::registry::{Registry, store_error};
use crate::routes::Routes;
use crate::{boot, filters};
use access::Objects;
use access::admission::Chain;
use access::authentication::jwt::AnonymousAccess;
use access::authentication::service_account::{Issuer, ServiceAccounts};
use access::authentication::{Authenticator, Union};
use access::authorization::Authorizer;
use access::fairness::Fairness;
use client::{ApiService, InProcessIdentity};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use machinery::clock::Clock;
use machinery::gvk::GroupResource;
use machinery::user::UserInfo;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::body::Body;
use wire::server::{Handler, Limits};
use wire::tls::ServerTls;

/// History older than this is forgotten.
const COMPACT_EVERY: Duration = Duration::from_secs(300);

/// What a server is made of.
pub struct Config {
    pub store: Arc<dyn Store>,
    /// The store again, if it encrypts.
    pub encryption: Option<Arc<encryption::Sealed>>,
    pub clock: Arc<dyn Clock>,
    /// Which requests may run at once; all, without.
    pub fairness: Option<Fairness>,
    /// Asked in order.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub authorizer: Arc<dyn Authorizer>,
    pub admission: Chain,
    /// Who is told what was done; nobody, without.
    pub audit: Option<Arc<access::audit::Auditor>>,
    /// Whether those without a name are let in at all.
    pub anonymous: Arc<AnonymousAccess>,
    /// Side effects of some resources' writes: allocators.
    pub hooks: Vec<(GroupResource, Arc<dyn Hooks>)>,
    /// Makes service account tokens, and knows their bearers; also asked as an authenticator.
    pub issuer: Option<Arc<Issuer>>,
    pub service_accounts: Option<Arc<ServiceAccounts>>,
    /// Audiences this server is.
    pub audiences: Vec<String>,
    /// How nodes are reached.
    pub dial: Arc<dyn Dial>,
    /// Versions (`group/version`) served beside those that are done.
    pub runtime_config: Vec<String>,
    pub features: Features,
    /// The address and port the `kubernetes` Service sends to, and the Service's own address.
    pub advertise: Option<Advertise>,
    /// What other components of the process add to `/metrics`.
    pub metrics: Vec<MetricsSource>,
    /// How other API servers know us; without, they do not.
    pub front_proxy: Option<FrontProxy>,
}

/// Appends families of metrics in Prometheus' text form.
pub type MetricsSource = Arc<dyn Fn(&mut String) + Send + Sync>;

/// How pods reach the API server.
#[derive(Debug, Clone)]
pub struct Advertise {
    pub address: SocketAddr,
    pub service_address: IpAddr,
}

impl Config {
    /// A server on `store` that knows nobody and lets nobody in but in-process identities of `system:masters`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            encryption: None,
            clock,
            fairness: None,
            authenticators: Vec::new(),
            authorizer: Arc::new(access::authorization::Masters),
            admission: Chain::default(),
            audit: None,
            anonymous: Arc::default(),
            hooks: Vec::new(),
            issuer: None,
            service_accounts: None,
            audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            dial: Arc::new(NoNodes),
            runtime_config: Vec::new(),
            features: Features::default(),
            advertise: None,
            metrics: Vec::new(),
            front_proxy: None,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("watching the store")]
    Store(#[from] store::Error),
    #[error("making the objects every cluster has: {0}")]
    Boot(machinery::status::ApiError),
}

/// What handlers share.
pub struct Core {
    pub fairness: Option<Fairness>,
    pub registry: Arc<Registry>,
    pub routes: Arc<Routes>,
    pub authenticator: Union,
    pub authorizer: Arc<dyn Authorizer>,
    pub(crate) audit: Option<Arc<access::audit::Auditor>>,
    pub(crate) anonymous: Arc<AnonymousAccess>,
    pub issuer: Option<Arc<Issuer>>,
    pub service_accounts: Option<Arc<ServiceAccounts>>,
    pub audiences: Vec<String>,
    pub features: Features,
    pub connector: Connector,
    pub documents: crate::openapi::Documents,
    pub(crate) aggregation: Aggregation,
    pub(crate) metrics: Arc<crate::metrics::Metrics>,
    pub(crate) more_metrics: Vec<MetricsSource>,
    pub(crate) resource_metrics: crate::handlers::resource_metrics::ResourceMetrics,
    pub ready: std::sync::atomic::AtomicBool,
    pub shutdown: CancellationToken,
}

/// A running API server. Dropping it does not stop it; [`Server::shutdown`] does.
#[derive(Clone)]
pub struct Server {
    core: Arc<Core>,
    objects: Arc<dyn Objects>,
}

impl Server {
    /// Starts: watches the store, makes the objects every cluster has.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let shutdown = CancellationToken::new();
        let reflector = Reflector::start(
            Arc::clone(&config.store),
            config.encryption.clone(),
            shutdown.clone(),
        )
        .await?;
        let enabled = |group: &str, version: &str| {
            let name = if group.is_empty() {
                version.to_owned()
            } else {
                format!("{group}/{version}")
            };
            config.runtime_config.contains(&name)
        };
        let routes = Arc::new(Routes::built_in(&reflector, enabled));
        let registry = Arc::new(Registry::new(
            Arc::clone(&config.store),
            reflector,
            config.clock,
            config.admission,
            config.hooks,
            config.features,
            config.encryption,
        ));
        let objects: Arc<dyn Objects> = Arc::new(Reader {
            registry: Arc::clone(&registry),
            routes: Arc::clone(&routes),
        });
        let authenticator = Union::new(config.authenticators);
        authenticator.bind(Arc::clone(&objects));
        if let Some(accounts) = &config.service_accounts {
            accounts.bind(Arc::clone(&objects));
        }
        config.authorizer.bind(Arc::clone(&objects));
        registry.admission.bind(&objects, &config.authorizer);
        if let Some(fairness) = &config.fairness {
            fairness.bind(Arc::clone(&objects));
        }
        let core = Arc::new(Core {
            fairness: config.fairness,
            registry,
            routes,
            authenticator,
            authorizer: config.authorizer,
            audit: config.audit,
            anonymous: config.anonymous,
            issuer: config.issuer,
            service_accounts: config.service_accounts,
            audiences: config.audiences,
            features: config.features,
            connector: Connector::new(config.dial),
            documents: crate::openapi::Documents::default(),
            aggregation: Aggregation::new(config.front_proxy),
            metrics: Arc::default(),
            more_metrics: config.metrics,
            resource_metrics: Default::default(),
            ready: std::sync::atomic::AtomicBool::new(false),
            shutdown,
        });
        boot::run(&core, config.advertise.as_ref())
            .await
            .map_err(StartError::Boot)?;
        for hooks in core.registry.hooks.values() {
            hooks.start(&core);
        }
        crate::custom::start(&core).await.map_err(StartError::Boot)?;
        crate::aggregation::start(&core).await.map_err(StartError::Boot)?;
        core.ready.store(true, std::sync::atomic::Ordering::Release);
        tokio::spawn(compact(Arc::clone(&core)));
        Ok(Self { core, objects })
    }

    /// The router, for requests that carry their own [`InProcessIdentity`] or credentials.
    pub fn service(&self) -> InProcess {
        InProcess(Arc::clone(&self.core))
    }

    /// The router as the client crate's in-process transport takes it.
    pub fn api_service(&self) -> ApiService {
        let core = Arc::clone(&self.core);
        client::api_service(tower::service_fn(move |request: Request<client::Body>| {
            let core = Arc::clone(&core);
            async move { Ok::<_, Infallible>(filters::serve(core, request.map(Body::stream)).await) }
        }))
    }

    /// A client of this server as a user.
    pub fn client(&self, user: UserInfo, component: &str) -> kube::Client {
        client::in_process_as(self.api_service(), user, component)
    }

    /// What plugins read.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.objects)
    }

    /// Serves HTTPS until [`Server::shutdown`], and then until requests in flight are done.
    pub async fn serve(&self, listener: TcpListener, tls: ServerTls) {
        self.serve_with(listener, tls, Limits::default()).await;
    }

    pub async fn serve_with(&self, listener: TcpListener, tls: ServerTls, limits: Limits) {
        let handler: Arc<dyn Handler> = Arc::new(Network(Arc::clone(&self.core)));
        wire::server::serve(listener, tls, handler, limits, self.core.shutdown.clone()).await;
    }

    /// Ends every watch and connection; the store stays open.
    pub fn shutdown(&self) {
        self.core.ready.store(false, std::sync::atomic::Ordering::Release);
        self.core.shutdown.cancel();
    }
}

/// The router as a tower service.
#[derive(Clone)]
pub struct InProcess(Arc<Core>);

impl InProcess {
    /// Answers a request as `user`, whom nobody authenticates.
    pub async fn call_as(&self, user: Arc<UserInfo>, mut request: Request<Body>) -> Response<Body> {
        request.extensions_mut().insert(InProcessIdentity(user));
        filters::serve(Arc::clone(&self.0), request).await
    }
}

impl tower::Service<Request<Body>> for InProcess {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        filters::serve(Arc::clone(&self.0), request).map(Ok).boxed()
    }
}

/// The router behind the network.
struct Network(Arc<Core>);

impl Handler for Network {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        filters::serve(Arc::clone(&self.0), request).boxed()
    }
}

/// Forgets history as upstream does: what was newest five minutes ago is the oldest kept.
async fn compact(core: Arc<Core>) {
    let mut last = 0;
    loop {
        tokio::select! {
            biased;
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(COMPACT_EVERY) => {}
        }
        let newest = core.registry.reflector.revision() as i64;
        if last != 0 && newest > last {
            match core.registry.store.compact(last).await {
                // Another server may have compacted further.
                Ok(()) | Err(store::Error::Compacted { .. }) => {
                    core.registry.compacted.fetch_max(last as u64, Ordering::AcqRel);
                }
                Err(error) => tracing::warn!(error = %store_error(error), "compacting the store"),
            }
        }
        last = newest;
    }
}
