//! What a controller is given: a client with its own identity, the process's informers, the clock, an event
//! recorder, and what the command line says.

use client::informer::Object;
use client::{Informer, Informers, Outcome, Queue, Recorder, Source, WorkqueueMetrics};
use machinery::clock::Clock;
use std::future::Future;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Makes a client that acts as `system:serviceaccount:kube-system:<name>`.
pub type ClientFor = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// What all controllers are started with.
#[derive(Clone)]
pub struct Options {
    pub client_for: ClientFor,
    pub informers: Informers,
    pub clock: Arc<dyn Clock>,
    /// As upstream's `--controllers`: `*` for those on by default, names, and names with a `-` before them.
    pub controllers: Vec<String>,
    /// Where node ranges are cut from; none when somebody else does it.
    pub cluster_cidrs: Vec<ipnet::IpNet>,
    /// Parts of the cluster ranges that belong to Services and must not be given to nodes.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Prefix length of a node's IPv4 and IPv6 range.
    pub node_cidr_mask: (u8, u8),
    /// PEM of the certificates that clients in pods trust.
    pub root_ca: Option<String>,
    /// PEM of the certificate and key that certificate requests are signed with; none when somebody else does it.
    pub cluster_signing: Option<(String, String)>,
    pub node_monitor_grace_period: std::time::Duration,
    pub terminated_pod_gc_threshold: usize,
    /// Where the queues count.
    pub metrics: Arc<WorkqueueMetrics>,
}

impl Options {
    /// Upstream's defaults.
    pub fn new(client_for: ClientFor, informers: Informers, clock: Arc<dyn Clock>) -> Self {
        Self {
            client_for,
            informers,
            clock,
            controllers: vec!["*".to_owned()],
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_cidr_mask: (24, 64),
            root_ca: None,
            cluster_signing: None,
            node_monitor_grace_period: std::time::Duration::from_secs(50),
            terminated_pod_gc_threshold: 12500,
            metrics: Arc::default(),
        }
    }
}

/// One controller's surroundings. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: kube::Client,
    pub recorder: Recorder,
    pub options: Options,
    pub stop: CancellationToken,
}

impl Context {
    pub(crate) fn new(options: &Options, identity: &str, component: &str, stop: CancellationToken) -> Self {
        let client = (options.client_for)(identity);
        Self {
            recorder: Recorder::new(
                client.clone(),
                Source::counted(component),
                Arc::clone(&options.clock),
            ),
            client,
            options: options.clone(),
            stop,
        }
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.options.clock.now()
    }

    pub(crate) fn informer<K: Object>(&self) -> Informer<K> {
        self.options.informers.get()
    }

    /// A queue that counts under this name.
    pub(crate) fn queue<T: client::workqueue::Item>(&self, name: &'static str) -> Queue<T> {
        let metrics = &self.options.metrics;
        metrics.register(name);
        Queue::with_metrics(name, Arc::clone(metrics) as _)
    }

    /// Waits for `synced`, then drains the queue until told to stop.
    pub(crate) async fn work<T, F, R>(
        &self,
        queue: &Queue<T>,
        workers: usize,
        synced: impl Future<Output = ()>,
        reconcile: F,
    ) where
        T: client::workqueue::Item,
        F: Fn(T) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Outcome, kube::Error>> + Send + 'static,
    {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            () = synced => {}
        }
        queue.run(workers, self.stop.clone(), reconcile).await;
    }
}
