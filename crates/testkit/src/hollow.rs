//! Nodes that pretend: they register, renew their leases, and say of each pod what its annotation [`FATE`] asks for.
//!
//! **Invariant:** a node that has fallen silent goes on running what it ran, as a machine does that nobody can reach:
//! whoever starts a pod of the same name elsewhere meanwhile is told of ([`HollowNodes::twins`]).

use client::informer::{Index, by_node};
use client::{Event, Informer, Informers, ObjectKey, Outcome, Queue};
use hashbrown::HashMap;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use machinery::chance;
use machinery::clock::Clock;
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What becomes of a pod: `run` (also when it says nothing), `succeed` or `fail` at once, `work` (succeeds after up to
/// 40 seconds), `toil` (succeeds after 70), `flaky` (as `work`, but one in five fails), or `wait` (never starts).
pub const FATE: &str = "testkit/fate";

/// A kubelet reports its status so often although nothing changed.
const REPORT: Duration = Duration::from_secs(300);

/// How nodes behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How often a lease is renewed: a quarter of what the kubelet is told as the lease's duration.
    pub renew: Duration,
    /// How long a pod takes to start, at most.
    pub start: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            renew: Duration::from_secs(10),
            start: Duration::ZERO,
        }
    }
}

/// The nodes of a cluster.
#[derive(Clone)]
pub struct HollowNodes(Arc<Shared>);

struct Shared {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    habits: Habits,
    stop: CancellationToken,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    queue: Queue<ObjectKey>,
    /// Nodes that live, with the number of their life.
    living: Mutex<HashMap<String, u32>>,
    /// What runs where, by the pod's key: its node and uid, of all that run.
    running: Mutex<BTreeMap<ObjectKey, Vec<(String, String)>>>,
    /// When the next thing happens to a pod, by uid, and which.
    due: Mutex<HashMap<String, (Instant, &'static str)>>,
    twins: Mutex<Vec<String>>,
    addresses: AtomicU32,
    lives: AtomicU32,
}

impl HollowNodes {
    pub(crate) fn start(
        client: kube::Client,
        informers: Informers,
        clock: Arc<dyn Clock>,
        habits: Habits,
        stop: CancellationToken,
    ) -> Self {
        let pods = informers.get::<Pod>();
        let nodes = informers.get::<Node>();
        let queue = Queue::new("hollow");
        let shared = Arc::new(Shared {
            client,
            clock,
            habits,
            stop: stop.clone(),
            nodes,
            pods_by_node: pods.index("node", by_node),
            pods: pods.clone(),
            queue: queue.clone(),
            living: Mutex::default(),
            running: Mutex::default(),
            due: Mutex::default(),
            twins: Mutex::default(),
            addresses: AtomicU32::new(1),
            lives: AtomicU32::new(1),
        });
        let hears = Arc::clone(&shared);
        pods.subscribe(move |event| hears.hear(event));
        let worker = Arc::clone(&shared);
        tokio::spawn(async move {
            let run = queue.run(64, stop, move |key| {
                let shared = Arc::clone(&worker);
                async move { shared.live(&key).await }
            });
            run.await;
        });
        Self(shared)
    }

    /// Adds a node that lives.
    pub async fn add(&self, name: &str) {
        let resources = json!({"cpu": "32", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"});
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
            "status": {"allocatable": resources, "capacity": resources, "conditions": [self.0.ready()]},
        }))
        .expect("a node");
        let api = Api::<Node>::all(self.0.client.clone());
        // Over faults, as a kubelet registers: again until it is there.
        while let Err(error) = api.create(&PostParams::default(), &node).await {
            if client::error::ApiErrorExt::is_already_exists(&error) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let status = Patch::Strategic(json!({ "status": node.status }));
        while api
            .patch_status(name, &PatchParams::default(), &status)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.revive(name);
    }

    /// The node falls silent: neither it nor its pods say anything any more.
    pub fn silence(&self, name: &str) {
        self.0.living.lock().remove(name);
    }

    /// The machine is gone, and with it what ran there. Its object is somebody else's to delete.
    pub fn destroy(&self, name: &str) {
        self.silence(name);
        let mut running = self.0.running.lock();
        running
            .values_mut()
            .for_each(|all| all.retain(|(node, _)| node != name));
        running.retain(|_, all| !all.is_empty());
    }

    /// The node speaks again.
    pub fn revive(&self, name: &str) {
        let life = self.0.lives.fetch_add(1, Ordering::Relaxed);
        if self.0.living.lock().insert(name.to_owned(), life).is_some() {
            // Two of them would both renew; the older one ends when it finds itself replaced.
            tracing::trace!(node = name, "revived while it lived");
        }
        self.0.drop_forgotten(name);
        for pod in self.0.pods_by_node.get(name) {
            self.0.queue.add(ObjectKey::of(&*pod));
        }
        let (shared, name) = (Arc::clone(&self.0), name.to_owned());
        tokio::spawn(async move { shared.beat(&name, life).await });
    }

    /// Whether the node speaks.
    pub fn is_living(&self, name: &str) -> bool {
        self.0.living.lock().contains_key(name)
    }

    /// Pods that were started while another one of the same name still ran elsewhere.
    pub fn twins(&self) -> Vec<String> {
        self.0.twins.lock().clone()
    }

    pub(crate) fn pods(&self) -> &Informer<Pod> {
        &self.0.pods
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or("")
}

impl Shared {
    fn ready(&self) -> serde_json::Value {
        let now = Time(self.clock.now());
        json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    }

    /// Pods that are new to a living node, or changed, or gone.
    fn hear(&self, event: &Event<Pod>) {
        let pod = event.object();
        let node = node_of(pod);
        if node.is_empty() {
            return;
        }
        if !matches!(event, Event::Deleted(_)) {
            self.queue.add(ObjectKey::of(&**pod));
        } else if self.living.lock().contains_key(node) {
            self.stopped(pod);
        }
    }

    /// A node's heart, for one of its lives.
    async fn beat(&self, name: &str, life: u32) {
        let mut lease = None;
        let mut reported = Instant::now();
        while self.living.lock().get(name) == Some(&life) {
            match self.renew(name, lease.take()).await {
                Ok(renewed) => lease = Some(renewed),
                Err(error) => tracing::debug!(node = name, %error, "lease not renewed"),
            }
            if let Err(error) = self.report(name, &mut reported).await {
                tracing::debug!(node = name, %error, "status not reported");
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.habits.renew) => {}
            }
        }
    }

    /// Renews the lease as last written, or finds or makes it.
    async fn renew(&self, name: &str, known: Option<Lease>) -> Result<Lease, kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let duration = i32::try_from(self.habits.renew.as_secs() * 4).unwrap_or(40);
        let spec = LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(duration),
            renew_time: Some(MicroTime(self.clock.now())),
            ..LeaseSpec::default()
        };
        let known = match known {
            Some(known) => Some(known),
            None => api.get_opt(name).await?,
        };
        match known {
            Some(mut lease) => {
                lease.spec = Some(spec);
                api.replace(name, &PostParams::default(), &lease).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                api.create(&PostParams::default(), &lease).await
            }
        }
    }

    /// Says that the node is ready, if it is time to or somebody says otherwise.
    async fn report(&self, name: &str, reported: &mut Instant) -> Result<(), kube::Error> {
        let Some(node) = self.nodes.find("", name) else {
            return Ok(());
        };
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
        if ready && reported.elapsed() < REPORT {
            return Ok(());
        }
        let mut condition = self.ready();
        if ready && let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
        let patch = json!({"status": {"conditions": [condition]}});
        let api = Api::<Node>::all(self.client.clone());
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        *reported = Instant::now();
        Ok(())
    }

    /// Notes that a pod runs on its node, and whether one of the same name runs elsewhere.
    fn started(&self, pod: &Pod) {
        let (key, node) = (ObjectKey::of(pod), node_of(pod));
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        let mut running = self.running.lock();
        let all = running.entry(key.clone()).or_default();
        if all.iter().any(|(_, u)| u == uid) {
            return;
        }
        for (elsewhere, other) in all.iter() {
            self.twins.lock().push(format!(
                "pod {key} ({uid}) started on {node} while {other} of the same name runs on {elsewhere}"
            ));
        }
        all.push((node.to_owned(), uid.to_owned()));
    }

    /// Notes that a pod no longer runs.
    fn stopped(&self, pod: &Pod) {
        let key = ObjectKey::of(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        self.due.lock().remove(uid);
        let mut running = self.running.lock();
        if let Some(all) = running.get_mut(&key) {
            all.retain(|(_, u)| u != uid);
            if all.is_empty() {
                running.remove(&key);
            }
        }
    }

    /// What a node runs that the API no longer knows ends when the node hears of it.
    fn drop_forgotten(&self, node: &str) {
        let mut running = self.running.lock();
        for (key, all) in running.iter_mut() {
            let known = self.pods.get(key).and_then(|p| p.metadata.uid.clone());
            all.retain(|(on, uid)| on != node || known.as_ref() == Some(uid));
        }
        running.retain(|_, all| !all.is_empty());
    }

    /// How long until something happens to a pod, if it has not by now; `within` is drawn from when it is first asked for.
    fn wait_for(&self, pod: &Pod, what: &'static str, within: std::ops::Range<u64>) -> Duration {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let now = Instant::now();
        let mut due = self.due.lock();
        let known = due.get(&uid).filter(|(_, of)| *of == what).map(|(at, _)| *at);
        let at = known.unwrap_or_else(|| {
            let millis = if within.is_empty() {
                within.start
            } else {
                chance::rng().random_range(within)
            };
            let at = now + Duration::from_millis(millis);
            due.insert(uid, (at, what));
            at
        });
        at.saturating_duration_since(now)
    }

    /// Does for one pod what a kubelet would.
    async fn live(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Outcome::Done);
        };
        if !self.living.lock().contains_key(node_of(&pod)) {
            return Ok(Outcome::Done);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let phase = phase(&pod);
        let ended = matches!(phase, "Succeeded" | "Failed");
        if pod.metadata.deletion_timestamp.is_some() {
            if !ended && pod.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()) {
                self.say(&api, &pod, "Failed").await?;
            }
            self.stopped(&pod);
            // That very pod: a successor may have its name by now.
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(kube::api::Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            return match api.delete(&key.name, &now).await {
                Err(error)
                    if !client::error::ApiErrorExt::is_not_found(&error)
                        && !client::error::ApiErrorExt::is_conflict(&error) =>
                {
                    Err(error)
                }
                // A conflict is another pod of this name, or none: the watch will tell.
                Err(error) if client::error::ApiErrorExt::is_conflict(&error) => Ok(Outcome::Retry),
                _ => Ok(Outcome::Done),
            };
        }
        if ended {
            self.stopped(&pod);
            return Ok(Outcome::Done);
        }
        let annotations = pod.metadata.annotations.as_ref();
        let fate = annotations
            .and_then(|a| a.get(FATE))
            .map_or("run", String::as_str);
        let end = match fate {
            "wait" => return Ok(Outcome::Done),
            "succeed" | "fail" => Some(0..0),
            "work" | "flaky" => Some(1_000..40_000),
            "toil" => Some(70_000..70_000),
            _ => None,
        };
        let instantly = end.as_ref().is_some_and(|e| e.start == 0);
        let runs = phase == "Running" && is_ready(&pod);
        if !instantly && !runs {
            let start = u64::try_from(self.habits.start.as_millis()).unwrap_or(u64::MAX);
            let wait = self.wait_for(&pod, "start", 0..start);
            if !wait.is_zero() {
                return Ok(Outcome::After(wait));
            }
            self.started(&pod);
            self.say(&api, &pod, "Running").await?;
        }
        let Some(end) = end else { return Ok(Outcome::Done) };
        let wait = self.wait_for(&pod, "end", end);
        if !wait.is_zero() {
            return Ok(Outcome::After(wait));
        }
        let fails = fate == "fail" || (fate == "flaky" && chance::rng().random_range(0..5) == 0);
        self.stopped(&pod);
        self.say(&api, &pod, if fails { "Failed" } else { "Succeeded" })
            .await?;
        Ok(Outcome::Done)
    }

    async fn say(&self, api: &Api<Pod>, pod: &Pod, phase: &str) -> Result<(), kube::Error> {
        let known = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
        let ip = known.unwrap_or_else(|| {
            let number = self.addresses.fetch_add(1, Ordering::Relaxed);
            format!("10.42.{}.{}", number / 250, number % 250 + 1)
        });
        let ready = if phase == "Running" { "True" } else { "False" };
        let now = Time(self.clock.now());
        let conditions: Vec<_> = ["Initialized", "Ready", "ContainersReady"]
            .iter()
            .map(|kind| json!({"type": kind, "status": ready, "lastTransitionTime": now}))
            .collect();
        let status = json!({"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now, "conditions": conditions});
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let name = pod.metadata.name.as_deref().unwrap_or("");
        use client::error::ApiErrorExt as _;
        match api
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    phase.unwrap_or("Pending")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}
