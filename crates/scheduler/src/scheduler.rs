//! The loop: pops, decides, assumes, hands over.

use crate::bind::Hands;
use crate::cache::Cache;
use crate::cycle::{Algorithm, Unfit};
use crate::diagnosis::Diagnosis;
use crate::events::Ears;
use crate::framework::{ClusterEvent, Plugin, Rejection};
use crate::plugins::{self, dynamic_resources};
use crate::pod_info::PodInfo;
use crate::preemption;
use crate::queue::SchedulingQueue;
use crate::snapshot::Snapshot;
use client::{Event, Informer, Informers, Recorder, Source};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSINode, CSIStorageCapacity, StorageClass};
use machinery::clock::Clock;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a scheduler is started with.
pub struct Options {
    /// Acts as `system:kube-scheduler`.
    pub client: kube::Client,
    pub informers: Informers,
    pub clock: Arc<dyn Clock>,
    /// Where ties between nodes are broken from.
    pub seed: u64,
    pub scheduler_name: String,
    /// How many of the nodes to look at; 0 leaves it to the cluster's size.
    pub percentage_of_nodes_to_score: usize,
    /// The machine's name, for events.
    pub host: String,
}

impl Options {
    /// Upstream's default profile.
    pub fn new(client: kube::Client, informers: Informers, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            informers,
            clock,
            seed: machinery::chance::rng().random(),
            scheduler_name: "default-scheduler".to_owned(),
            percentage_of_nodes_to_score: 0,
            host: "localhost".to_owned(),
        }
    }
}

/// So many bindings may be on their way at a time.
const IN_FLIGHT: usize = 512;
/// So long pods are decided in a row before others get a turn.
const TURN: Duration = Duration::from_millis(2);

/// The scheduler.
pub struct Scheduler {
    algorithm: Algorithm,
    cache: Arc<Mutex<Cache>>,
    queue: Arc<SchedulingQueue>,
    hands: Hands,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    budgets: Informer<PodDisruptionBudget>,
    random: SmallRng,
}

impl Scheduler {
    /// Subscribes to the informers. Must be called inside a tokio runtime.
    pub fn new(options: Options) -> Self {
        let source = Source::Series {
            instance: format!("{}-{}", options.scheduler_name, options.host),
            controller: options.scheduler_name.clone(),
        };
        let recorder = Recorder::new(options.client.clone(), source, Arc::clone(&options.clock));
        let context = plugins::Context {
            informers: options.informers.clone(),
            client: options.client.clone(),
            recorder: recorder.clone(),
            clock: Arc::clone(&options.clock),
        };
        let plugins: Vec<Arc<dyn Plugin>> = plugins::ALL.iter().map(|(_, make)| make(&context)).collect();
        let hinting = plugins.clone();
        let hint = move |plugin: &'static str, event| {
            let of = hinting.iter().find(|p| p.name() == plugin);
            of.is_none_or(|p| p.wakes(event))
        };
        let cache = Arc::new(Mutex::new(Cache::default()));
        let queue = Arc::new(SchedulingQueue::new(Box::new(hint)));
        let gating = plugins.clone();
        let ears = Arc::new(Ears {
            cache: Arc::clone(&cache),
            queue: Arc::clone(&queue),
            scheduler_name: options.scheduler_name.clone(),
            may_enqueue: Box::new(move |pod| gating.iter().all(|p| p.may_enqueue(pod))),
        });
        let (nodes, pods) = (options.informers.get::<Node>(), options.informers.get::<Pod>());
        let hears = Arc::clone(&ears);
        nodes.subscribe(move |event| hears.node(event));
        let hears = Arc::clone(&ears);
        pods.subscribe(move |event| hears.pod(event));
        let claims = options.informers.get::<ResourceClaim>();
        claims.subscribe(move |event| ears.claim(event));
        wake_on::<DeviceClass>(&options.informers, &queue, ClusterEvent::Devices);
        wake_on::<ResourceSlice>(&options.informers, &queue, ClusterEvent::Devices);
        wake_on::<Namespace>(&options.informers, &queue, ClusterEvent::Namespace);
        wake_on::<PersistentVolumeClaim>(&options.informers, &queue, ClusterEvent::Storage);
        wake_on::<PersistentVolume>(&options.informers, &queue, ClusterEvent::Storage);
        wake_on::<StorageClass>(&options.informers, &queue, ClusterEvent::Storage);
        wake_on::<CSINode>(&options.informers, &queue, ClusterEvent::Storage);
        wake_on::<CSIStorageCapacity>(&options.informers, &queue, ClusterEvent::Storage);
        Self {
            algorithm: Algorithm::new(
                plugins,
                options.percentage_of_nodes_to_score,
                SmallRng::seed_from_u64(options.seed),
            ),
            cache,
            queue,
            hands: Hands {
                recorder,
                client: options.client,
                clock: options.clock,
            },
            nodes,
            pods,
            claims,
            budgets: options.informers.get(),
            random: SmallRng::seed_from_u64(options.seed.wrapping_add(1)),
        }
    }

    /// Schedules until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = async {
                self.nodes.synced().await;
                self.pods.synced().await;
                // A claim that is not known yet holds devices that must not be given to another.
                self.claims.synced().await;
            } => {}
        }
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut snapshot = Snapshot::default();
        loop {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The semaphore is never closed.
                Ok(permit) = Arc::clone(&permits).acquire_owned() => permit,
            };
            let pod = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pod = self.queue.pop() => pod,
            };
            self.schedule_one(pod, permit, &mut snapshot);
            // Deciding does not wait, and a turn among busy tasks is precious: it is used for a while.
            let turn = Instant::now();
            while turn.elapsed() < TURN
                && let Ok(permit) = Arc::clone(&permits).try_acquire_owned()
                && let Some(pod) = self.queue.try_pop()
            {
                self.schedule_one(pod, permit, &mut snapshot);
            }
            tokio::task::yield_now().await;
        }
    }

    fn schedule_one(&mut self, pod: Arc<PodInfo>, permit: OwnedSemaphorePermit, snapshot: &mut Snapshot) {
        self.cache.lock().refresh(snapshot);
        let nominated = self.queue.nominated();
        match self.algorithm.schedule(&pod, snapshot, &nominated) {
            Ok(node) => {
                let name = Arc::clone(&node.name);
                let before = match self.algorithm.reserve(&pod, &node) {
                    Ok(before) => before,
                    Err((plugin, rejection)) => return self.not_reserved(pod, plugin, &rejection),
                };
                self.cache.lock().assume(Arc::clone(&pod), &name);
                self.queue.delete(&pod.key);
                let (hands, cache, queue) = (
                    self.hands.clone(),
                    Arc::clone(&self.cache),
                    Arc::clone(&self.queue),
                );
                let pods = self.pods.clone();
                tokio::spawn(async move {
                    let mut bound = Ok(());
                    for step in &before {
                        bound = step
                            .pre_bind()
                            .await
                            .map_err(|error| format!("running PreBind plugin: {error}"));
                        if bound.is_err() {
                            break;
                        }
                    }
                    if bound.is_ok() {
                        let done = hands.bind(&pod, &name).await;
                        bound = done.map_err(|error| format!("binding rejected: {error}"));
                    }
                    if bound.is_err() {
                        for step in before.iter().rev() {
                            step.unreserve().await;
                        }
                    }
                    drop(before);
                    if let Err(message) = bound {
                        binding_failed(&hands, &cache, &queue, &pods, pod, &message).await;
                    }
                    drop(permit);
                });
            }
            Err(unfit) => self.no_fit(pod, *unfit, snapshot),
        }
    }

    /// The node was right when it was judged, and somebody was faster: the pod tries again.
    fn not_reserved(&mut self, pod: Arc<PodInfo>, plugin: &'static str, rejection: &Rejection) {
        let message = rejection.reasons.join(", ");
        self.queue.fail(&pod, vec![plugin]);
        let hands = self.hands.clone();
        tokio::spawn(async move {
            hands.report_failure(&pod, "Unschedulable", &message, None).await;
        });
    }

    fn no_fit(&mut self, pod: Arc<PodInfo>, unfit: Unfit, snapshot: &Snapshot) {
        let mut unfit = unfit;
        let mut promise = None;
        if let Some(message) = unfit.error.take() {
            self.queue.fail(&pod, Vec::new());
            let hands = self.hands.clone();
            tokio::spawn(async move {
                hands.report_failure(&pod, "SchedulerError", &message, None).await;
            });
            return;
        }
        if unfit.diagnosis.pre_filter.is_some() {
            unfit.diagnosis.post_filter = self.refused_at_once(&unfit.diagnosis);
        }
        let said = self.post_filter(&unfit);
        if unfit.diagnosis.nodes > 0 && unfit.diagnosis.pre_filter.is_none() {
            let start = self.random.random_range(0..snapshot.nodes.len());
            let now = self.hands.clock.now();
            match preemption::plan(&pod, &unfit, snapshot, &self.budgets.list(), start, now) {
                Ok(plan) => {
                    promise = Some(plan.node.clone());
                    self.queue.nominate(&pod, Some(&plan.node));
                    let (hands, preemptor) = (self.hands.clone(), Arc::clone(&pod));
                    tokio::spawn(async move { hands.evict(&preemptor, &plan).await });
                }
                Err(message) => {
                    let said = said.map_or_else(String::new, |said| format!("{said}, "));
                    unfit.diagnosis.post_filter = format!("{said}preemption: {message}");
                    if pod.nominated_node().is_some() && !message.starts_with("not eligible") {
                        promise = Some(String::new());
                        self.queue.nominate(&pod, None);
                    }
                }
            }
        }
        let message = unfit.diagnosis.message();
        tracing::debug!(pod = %pod.key, message, "no fit");
        self.queue.fail(&pod, unfit.diagnosis.plugins);
        let hands = self.hands.clone();
        tokio::spawn(async move {
            hands
                .report_failure(&pod, "Unschedulable", &message, promise.as_deref())
                .await;
        });
    }
}

impl Scheduler {
    /// What is said of a pod that a plugin refused for all nodes at once, in upstream's words: its DynamicResources finds
    /// nothing noted of a pod that an earlier plugin refused, and nobody is asked after it.
    fn refused_at_once(&self, diagnosis: &Diagnosis) -> String {
        let position = |name: &str| self.algorithm.plugins.iter().position(|p| p.name() == name);
        let refusing = diagnosis.plugins.first().and_then(|name| position(name));
        if refusing < position(dynamic_resources::NAME) {
            return "not found".to_owned();
        }
        let nodes = diagnosis.nodes;
        format!(
            "no new claims to deallocate, preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful \
             for scheduling."
        )
    }

    /// Lets the plugins do what they can for a pod that fits nowhere; what they say of it.
    fn post_filter(&self, unfit: &Unfit) -> Option<String> {
        if unfit.diagnosis.nodes == 0 || unfit.diagnosis.pre_filter.is_some() {
            return None;
        }
        let mut said = Vec::new();
        for plugin in &self.algorithm.plugins {
            let filter = unfit.filters.iter().find(|(name, _)| *name == plugin.name());
            match filter.and_then(|(_, filter)| filter.post_filter()) {
                Some(done) => {
                    said.push(done.message);
                    if let Some(act) = done.act {
                        tokio::spawn(act);
                    }
                }
                None => said.extend(plugin.post_filter()),
            }
        }
        (!said.is_empty()).then(|| said.join(", "))
    }
}

async fn binding_failed(
    hands: &Hands,
    cache: &Mutex<Cache>,
    queue: &SchedulingQueue,
    pods: &Informer<Pod>,
    pod: Arc<PodInfo>,
    message: &str,
) {
    cache.lock().forget(&pod.key, pod.uid());
    queue.wake(ClusterEvent::PodDeleted);
    // Bound after all, replaced, or deleted: then there is nothing to try again.
    let current = pods
        .get(&pod.key)
        .filter(|p| p.metadata.uid.as_deref() == Some(pod.uid()));
    let Some(current) = current else { return };
    let bound = current
        .spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .is_some_and(|n| !n.is_empty());
    if bound || current.metadata.deletion_timestamp.is_some() {
        return;
    }
    tracing::debug!(pod = %pod.key, message, "binding failed");
    let pod = Arc::new(PodInfo::new(current));
    queue.retry(Arc::clone(&pod));
    hands.report_failure(&pod, "SchedulerError", message, None).await;
}

fn wake_on<K: client::informer::Object>(
    informers: &Informers,
    queue: &Arc<SchedulingQueue>,
    event: ClusterEvent,
) {
    let queue = Arc::clone(queue);
    informers.get::<K>().subscribe(move |what| {
        if !matches!(what, Event::Deleted(_)) {
            queue.wake(event);
        }
    });
}
