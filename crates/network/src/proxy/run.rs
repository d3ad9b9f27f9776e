//! The shell of the proxy: hears of changes, asks the pure parts, carries their batches out.
//!
//! Level-triggered: an event only names a Service to look at again. Changes that come close together share
//! a batch; the first after a pause goes out at once.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::informer::{Index, Selection};
use client::{Informer, Informers, ObjectKey};
use compact_str::CompactString;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use linux::conntrack;
use linux::nftables::Batch;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::endpoints::{Endpoint, EndpointState, NodeFacts, endpoints};
use super::health::HealthServers;
use super::plan::{PortPlan, plan};
use super::service::{IpFamily, health_check_node_port, service_ports};
use super::stale::UdpFronts;
use super::state::State;
use super::table::{Shape, TableOptions};
use crate::{Host, Names};

/// How the proxy is to be.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    pub names: Names,
    pub node_name: String,
    pub node_ips: Vec<IpAddr>,
    pub families: Vec<IpFamily>,
    pub table: TableOptions,
    /// Batches follow each other no closer than this.
    pub min_interval: Duration,
}

/// A running proxy.
pub struct ProxyHandle {
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ProxyHandle {
    /// Waits until the rules for all Services known at the start are in the kernel.
    pub async fn synced(&mut self) {
        // The sender goes only with the task, and then nobody waits for rules any more.
        let _ = self.synced.wait_for(|synced| *synced).await;
    }

    /// Ends the proxy. The rules stay, so that Services go on working; [`crate::cleanup`] takes them away.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "service proxy ended badly");
        }
    }
}

/// Starts the proxy. Must be called inside a tokio runtime.
pub fn start(host: Host, informers: &Informers, options: ProxyOptions) -> ProxyHandle {
    let node = Selection::all().with_fields(&format!("metadata.name={}", options.node_name));
    let sources = Sources {
        services: informers.get(),
        slices: informers.get(),
        node: informers.select(node),
    };
    start_from(host, sources, options)
}

/// The informers the proxy listens to; of nodes, its own alone is enough.
pub struct Sources {
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    pub node: Informer<Node>,
}

/// Starts the proxy on informers of the caller's.
pub fn start_from(host: Host, sources: Sources, options: ProxyOptions) -> ProxyHandle {
    let stop = CancellationToken::new();
    let (tell, synced) = watch::channel(false);
    let states = options
        .families
        .iter()
        .map(|family| {
            (
                *family,
                State::new(Shape::new(&options.names, *family, options.table.clone())),
            )
        })
        .collect();
    let proxy = Proxy {
        host,
        slices: sources.slices.index("service", by_service),
        sources,
        states,
        health: HealthServers::new(options.node_name.clone()),
        options,
        changed: Arc::default(),
        node: NodeFacts::default(),
        rebuild: true,
    };
    let task = tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = proxy.run(tell) => {}
                () = stop.cancelled() => {}
            }
        }
    });
    ProxyHandle { synced, stop, task }
}

/// EndpointSlices by `namespace/name` of their Service.
pub(crate) fn by_service(slice: &EndpointSlice, values: &mut Vec<CompactString>) {
    if let Some(key) = service_of(slice) {
        values.push(compact_str::format_compact!("{}/{}", key.namespace, key.name));
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    const SERVICE_NAME: &str = "kubernetes.io/service-name";
    let name = slice
        .metadata
        .labels
        .as_ref()?
        .get(SERVICE_NAME)
        .filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref()?, name))
}

/// The Services to look at again.
#[derive(Default)]
struct Changed {
    services: Mutex<HashSet<ObjectKey>>,
    everything: std::sync::atomic::AtomicBool,
    wake: Notify,
}

impl Changed {
    fn service(&self, key: ObjectKey) {
        self.services.lock().insert(key);
        self.wake.notify_one();
    }

    fn everything(&self) {
        self.everything.store(true, std::sync::atomic::Ordering::Release);
        self.wake.notify_one();
    }

    fn take(&self) -> (HashSet<ObjectKey>, bool) {
        let everything = self.everything.swap(false, std::sync::atomic::Ordering::AcqRel);
        (std::mem::take(&mut *self.services.lock()), everything)
    }
}

struct Proxy {
    host: Host,
    sources: Sources,
    slices: Index<EndpointSlice>,
    states: Vec<(IpFamily, State)>,
    health: HealthServers,
    options: ProxyOptions,
    changed: Arc<Changed>,
    node: NodeFacts,
    /// The kernel may not hold what the states say.
    rebuild: bool,
}

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

impl Proxy {
    async fn run(mut self, synced: watch::Sender<bool>) {
        self.subscribe();
        self.sources.services.synced().await;
        self.sources.slices.synced().await;
        self.sources.node.synced().await;
        self.changed.everything();
        let mut retry = FIRST_RETRY;
        loop {
            self.changed.wake.notified().await;
            let begun = Instant::now();
            let pause = match self.sync().await {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    // The receiver may be gone; then nobody asks.
                    synced.send_replace(true);
                    self.options.min_interval
                }
                Err(error) => {
                    tracing::error!(%error, "service rules not written; all will be written anew");
                    self.rebuild = true;
                    self.changed.everything();
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    pause
                }
            };
            tokio::time::sleep_until(begun + pause).await;
        }
    }

    fn subscribe(&self) {
        let changed = self.changed.clone();
        self.sources
            .services
            .subscribe(move |event| changed.service(ObjectKey::of(event.object().as_ref())));
        let changed = self.changed.clone();
        self.sources.slices.subscribe(move |event| {
            if let client::Event::Updated { old, .. } = event
                && let Some(key) = service_of(old)
            {
                changed.service(key);
            }
            if let Some(key) = service_of(event.object()) {
                changed.service(key);
            }
        });
        let changed = self.changed.clone();
        self.sources.node.subscribe(move |event| {
            // A node's status is written every few minutes and is of no interest here.
            let same = matches!(event, client::Event::Updated { old, new } if zone(old) == zone(new));
            if !same {
                changed.everything();
            }
        });
    }

    async fn sync(&mut self) -> Result<(), linux::nftables::BatchError> {
        let (mut keys, everything) = self.changed.take();
        if everything {
            self.node = self.node_facts();
            keys.extend(
                self.sources
                    .services
                    .list()
                    .iter()
                    .map(|service| ObjectKey::of(service.as_ref())),
            );
            keys.extend(
                self.states
                    .iter()
                    .flat_map(|(_, state)| state.services())
                    .cloned(),
            );
        }
        let mut stale: Vec<(IpFamily, UdpFronts)> = self
            .states
            .iter()
            .map(|(family, _)| (*family, UdpFronts::default()))
            .collect();
        for key in &keys {
            self.look_at(key, &mut stale);
        }
        let begun = Instant::now();
        let mut batch = Batch::new();
        for (_, state) in &mut self.states {
            let part = if self.rebuild {
                state.rebuild()
            } else {
                state.take_changes()
            };
            batch.ops.extend(part.ops);
        }
        self.commit(batch).await?;
        self.rebuild = false;
        self.delete_gone().await;
        tracing::debug!(services = keys.len(), took = ?begun.elapsed(), "service rules written");
        self.delete_stale(stale).await;
        Ok(())
    }

    /// Brings the states up to date with one Service.
    fn look_at(&mut self, key: &ObjectKey, stale: &mut [(IpFamily, UdpFronts)]) {
        let service = self.sources.services.get(key);
        let slices = self
            .slices
            .get(&compact_str::format_compact!("{}/{}", key.namespace, key.name));
        let mut local_ready = HashSet::new();
        for ((family, state), (_, fronts)) in self.states.iter_mut().zip(stale) {
            let ports = service
                .as_ref()
                .map_or_else(Vec::new, |service| service_ports(service, *family));
            let by_port = endpoints(&slices, *family, &self.node.name);
            let none = Vec::new();
            let plans: Vec<PortPlan> = ports
                .iter()
                .map(|port| {
                    let list = by_port.get(&(port.name.clone(), port.proto)).unwrap_or(&none);
                    fronts.add(port, list);
                    plan(port, list, &self.node)
                })
                .collect();
            let here = |e: &&Endpoint| e.local && e.state == EndpointState::Ready;
            local_ready.extend(by_port.values().flatten().filter(here).map(|e| e.ip));
            state.set(key, &plans);
        }
        let port = service.as_deref().and_then(health_check_node_port);
        self.health.set(key, port, local_ready.len());
    }

    async fn commit(&self, batch: Batch) -> Result<(), linux::nftables::BatchError> {
        let ruleset = self.host.ruleset.clone();
        let joined = tokio::task::spawn_blocking(move || ruleset.commit(&batch)).await;
        joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Chains of endpoints that are gone. Not part of the batch before: an older kernel may need a moment to
    /// see that nothing points at them, and their staying does no harm.
    async fn delete_gone(&mut self) {
        for at in 0..self.states.len() {
            let (gone, batch) = self.states[at].1.take_gone();
            if let Err(error) = self.commit(batch).await {
                tracing::debug!(%error, "unused chains stay until the next change");
                self.states[at].1.put_back(gone);
            }
        }
    }

    async fn delete_stale(&self, stale: Vec<(IpFamily, UdpFronts)>) {
        for (family, fronts) in stale.into_iter().filter(|(_, fronts)| !fronts.is_empty()) {
            let conntrack = self.host.conntrack.clone();
            let family = match family {
                IpFamily::V4 => conntrack::IpFamily::V4,
                IpFamily::V6 => conntrack::IpFamily::V6,
            };
            let delete = move || {
                conntrack::delete_matching(conntrack.as_ref(), family, |connection| {
                    fronts.is_stale(connection)
                })
            };
            match tokio::task::spawn_blocking(delete).await {
                Ok(Ok(0)) => {}
                Ok(Ok(count)) => tracing::debug!(count, "stale UDP connections deleted"),
                Ok(Err(error)) => {
                    tracing::warn!(error = %error.chain(), "stale UDP connections not deleted");
                }
                Err(error) => tracing::error!(%error, "deleting stale UDP connections ended badly"),
            }
        }
    }

    fn node_facts(&self) -> NodeFacts {
        let node = self
            .sources
            .node
            .get(&ObjectKey::cluster(&self.options.node_name));
        NodeFacts {
            name: self.options.node_name.as_str().into(),
            zone: node.as_deref().map_or("", zone).into(),
            ips: self.options.node_ips.clone(),
        }
    }
}

fn zone(node: &Node) -> &str {
    const ZONE: &str = "topology.kubernetes.io/zone";
    node.metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(ZONE))
        .map_or("", String::as_str)
}
