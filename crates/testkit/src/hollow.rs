//! Nodes that pretend: they register, renew their leases, and say of each pod what its annotation [`FATE`] asks for.

use client::informer::{Index, by_node};
use client::{Event, Informer, Informers, ObjectKey, Outcome, Queue};
use hashbrown::HashSet;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use machinery::clock::Clock;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What becomes of a pod: `run` (also when it says nothing), `succeed`, `fail`, or `wait`.
pub const FATE: &str = "testkit/fate";

const RENEW: Duration = Duration::from_secs(10);

/// The nodes of a cluster.
#[derive(Clone)]
pub struct HollowNodes(Arc<Shared>);

struct Shared {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    queue: Queue<ObjectKey>,
    /// Nodes that live.
    living: Mutex<HashSet<String>>,
    addresses: AtomicU32,
}

impl HollowNodes {
    pub(crate) fn start(
        client: kube::Client,
        informers: Informers,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        let pods = informers.get::<Pod>();
        let queue = Queue::new("hollow");
        let shared = Arc::new(Shared {
            client,
            clock,
            stop: stop.clone(),
            pods_by_node: pods.index("node", by_node),
            pods: pods.clone(),
            queue: queue.clone(),
            living: Mutex::default(),
            addresses: AtomicU32::new(1),
        });
        let adds = queue.clone();
        pods.subscribe(move |event| {
            if !matches!(event, Event::Deleted(_)) && !node_of(event.object()).is_empty() {
                adds.add(ObjectKey::of(&**event.object()));
            }
        });
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
        api.create(&PostParams::default(), &node)
            .await
            .expect("node created");
        let status = Patch::Strategic(json!({ "status": node.status }));
        api.patch_status(name, &PatchParams::default(), &status)
            .await
            .expect("node status written");
        self.revive(name);
    }

    /// The node falls silent: neither it nor its pods say anything any more.
    pub fn silence(&self, name: &str) {
        self.0.living.lock().remove(name);
    }

    /// The node speaks again.
    pub fn revive(&self, name: &str) {
        self.0.living.lock().insert(name.to_owned());
        for pod in self.0.pods_by_node.get(name) {
            self.0.queue.add(ObjectKey::of(&*pod));
        }
        let (shared, name) = (Arc::clone(&self.0), name.to_owned());
        tokio::spawn(async move {
            while shared.living.lock().contains(&name) && !shared.stop.is_cancelled() {
                if let Err(error) = shared.renew(&name).await {
                    tracing::debug!(node = name, %error, "lease not renewed");
                }
                tokio::select! {
                    () = tokio::time::sleep(RENEW) => {}
                    () = shared.stop.cancelled() => {}
                }
            }
        });
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

    async fn renew(&self, name: &str) -> Result<(), kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let spec = LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(self.clock.now())),
            ..LeaseSpec::default()
        };
        if api.get_opt(name).await?.is_none() {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            api.create(&PostParams::default(), &lease).await?;
            return Ok(());
        }
        let patch = json!({ "spec": spec });
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        let node = Api::<Node>::all(self.client.clone());
        let current = node.get(name).await?;
        let conditions = current.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        if !ready {
            let patch = json!({"status": {"conditions": [self.ready()]}});
            node.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
                .await?;
        }
        Ok(())
    }

    /// Does for one pod what a kubelet would.
    async fn live(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Outcome::Done);
        };
        if !self.living.lock().contains(node_of(&pod)) {
            return Ok(Outcome::Done);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let phase = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or("Pending");
        let ended = matches!(phase, "Succeeded" | "Failed");
        if pod.metadata.deletion_timestamp.is_some() {
            if !ended && pod.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()) {
                self.say(&api, &pod, "Failed").await?;
            }
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            return match api.delete(&key.name, &now).await {
                Err(error) if !client::error::ApiErrorExt::is_not_found(&error) => Err(error),
                _ => Ok(Outcome::Done),
            };
        }
        let annotations = pod.metadata.annotations.as_ref();
        let fate = annotations
            .and_then(|a| a.get(FATE))
            .map_or("run", String::as_str);
        match fate {
            _ if ended => {}
            "succeed" => self.say(&api, &pod, "Succeeded").await?,
            "fail" => self.say(&api, &pod, "Failed").await?,
            "wait" => {}
            _ if phase == "Running" && is_ready(&pod) => {}
            _ => self.say(&api, &pod, "Running").await?,
        }
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
        match api
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Err(error) if !client::error::ApiErrorExt::is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}
