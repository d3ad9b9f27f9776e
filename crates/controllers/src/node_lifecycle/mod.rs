//! The node lifecycle controller: a node that is silent for too long is unknown, its pods are not ready, and taints
//! keep pods off it or drive them away ([`crate::taint_eviction`] does the driving).
//!
//! A node is heard through its lease or a heartbeat of its status. Each node has one timer, set for when its
//! grace ends; hearing it only moves the time it is compared with, so healthy nodes cost next to nothing.
//!
//! When all zones are silent nobody is driven away (upstream's master disruption mode).

mod decide;

use crate::context::Context;
use crate::pods;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_node};
use client::{Event, Informer, ObjectKey, Outcome, Queue, Selection};
use decide::{Evicting, ZoneState, condition, is_ready};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const LEASES: &str = "kube-node-lease";
const WORKERS: usize = 8;
/// A node that has never said anything has so long to begin.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

struct Shell {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    queue: Queue<ObjectKey>,
    /// When a node was last heard. Silence is measured by timers, as upstream does: setting the wall clock silences nobody.
    heard: Mutex<HashMap<String, Instant>>,
    /// When a zone's next node may be emptied.
    next_eviction: Mutex<HashMap<String, Instant>>,
    all_silent: AtomicBool,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    let leases = context
        .options
        .informers
        .select::<Lease>(Selection::in_namespace(LEASES));
    let queue = context.queue::<ObjectKey>("node_lifecycle_controller");
    let shell = Arc::new(Shell {
        pods_by_node: pods.index("node", by_node),
        nodes,
        leases,
        pods,
        queue: queue.clone(),
        heard: Mutex::default(),
        next_eviction: Mutex::default(),
        all_silent: AtomicBool::new(false),
        context: context.clone(),
    });
    let hears = Arc::clone(&shell);
    shell.nodes.subscribe(move |event| hears.node_event(event));
    let hears = Arc::clone(&shell);
    shell.leases.subscribe(move |event| hears.lease_event(event));
    let hears = Arc::clone(&shell);
    shell.pods.subscribe(move |event| hears.pod_event(event));
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.nodes.synced().await;
        ready.leases.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn node_reference(node: &Node) -> ObjectReference {
    ObjectReference {
        resource_version: None,
        ..reference(node)
    }
}

impl Shell {
    fn node_event(&self, event: &Event<Node>) {
        let node = event.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let heartbeat = |node: &Node| condition(node, "Ready").and_then(|c| c.last_heartbeat_time.clone());
        match event {
            Event::Added(_) => {
                self.hear(&name);
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.context
                    .recorder
                    .normal(&node_reference(node), "RegisteredNode", message);
            }
            Event::Deleted(_) => {
                self.heard.lock().remove(&name);
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.context
                    .recorder
                    .normal(&node_reference(node), "RemovingNode", message);
            }
            Event::Updated { old, new } => {
                if heartbeat(old) != heartbeat(new) {
                    self.hear(&name);
                }
                let statuses = |node: &Node| {
                    let conditions = decide::conditions(node).iter();
                    conditions
                        .map(|c| (c.type_.clone(), c.status.clone()))
                        .collect::<Vec<_>>()
                };
                if old.spec == new.spec
                    && statuses(old) == statuses(new)
                    && old.metadata.labels == new.metadata.labels
                {
                    return;
                }
            }
        }
        self.queue.add(ObjectKey::cluster(&name));
    }

    fn lease_event(&self, event: &Event<Lease>) {
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.renew_time.clone());
        let fresh = match event {
            Event::Added(_) => true,
            Event::Updated { old, new } => renewed(old) != renewed(new),
            Event::Deleted(_) => false,
        };
        if fresh {
            self.hear(event.object().metadata.name.as_deref().unwrap_or(""));
        }
    }

    /// A pod that is new to a node that is not ready. What a pod says of itself afterwards is its kubelet's to say: to
    /// contradict it every time would go on until one of the two gave in.
    fn pod_event(&self, event: &Event<Pod>) {
        let pod = event.object();
        let name = pods::node_name(pod);
        let known = match event {
            Event::Added(_) => "",
            Event::Updated { old, .. } => pods::node_name(old),
            Event::Deleted(_) => return,
        };
        if name == known || name.is_empty() {
            return;
        }
        if let Some(node) = self.nodes.find("", name)
            && condition(&node, "Ready").is_some()
            && !is_ready(&node)
        {
            self.queue.add(ObjectKey::cluster(name));
        }
    }

    fn hear(&self, name: &str) {
        self.heard.lock().insert(name.to_owned(), Instant::now());
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        let now = self.context.now();
        self.label(&node).await?;
        let grace = match condition(&node, "Ready") {
            Some(_) => self.context.options.node_monitor_grace_period,
            None => STARTUP_GRACE,
        };
        let heard = *self
            .heard
            .lock()
            .entry_ref(key.name.as_str())
            .or_insert_with(Instant::now);
        let silent_in = grace.saturating_sub(heard.elapsed());
        let mut node = node;
        if silent_in.is_zero()
            && let Some(conditions) = decide::silenced(&node, now)
        {
            let was_ready = is_ready(&node);
            let mut copy = (*node).clone();
            copy.status.get_or_insert_default().conditions = Some(conditions);
            let api = Api::<Node>::all(self.context.client.clone());
            let written = match api.replace_status(&key.name, &PostParams::default(), &copy).await {
                Ok(written) => written,
                Err(error) if error.is_not_found() => return Ok(Outcome::Done),
                Err(error) => return Err(error),
            };
            self.nodes.written(written.clone());
            node = Arc::new(written);
            if was_ready {
                let message = format!("Node {} status is now: NodeNotReady", key.name);
                self.context
                    .recorder
                    .normal(&node_reference(&node), "NodeNotReady", message);
            }
        }
        let wait = self.taint(&node, now).await?;
        if condition(&node, "Ready").is_some() && !is_ready(&node) {
            self.mark_pods_not_ready(&key.name, now).await?;
        }
        let next = if silent_in.is_zero() {
            None
        } else {
            Some(silent_in + Duration::from_millis(1))
        };
        Ok(match (next, wait) {
            (None, None) => Outcome::Done,
            (a, b) => Outcome::After(a.into_iter().chain(b).min().unwrap_or_default()),
        })
    }

    /// Sets the node's taints; how long to wait before it may be emptied.
    async fn taint(&self, node: &Arc<Node>, now: Timestamp) -> Result<Option<Duration>, kube::Error> {
        let all = self.nodes.list();
        let zones = decide::zones(all.iter().map(|n| &**n));
        let all_silent = !zones.is_empty() && zones.values().all(|(state, _)| *state == ZoneState::Full);
        if self.all_silent.swap(all_silent, Ordering::Relaxed) != all_silent {
            if !all_silent {
                // Whoever could not be heard because of us gets its time again.
                let (mut heard, now) = (self.heard.lock(), Instant::now());
                heard.values_mut().for_each(|at| *at = now);
            }
            all.iter().for_each(|n| self.queue.add(ObjectKey::of(&**n)));
        }
        let mut wait = None;
        let evicting = if all_silent {
            Evicting::Never
        } else if decide::needs_eviction(node) {
            wait = self.wait_for_turn(node, &zones);
            if wait.is_some() {
                Evicting::Later
            } else {
                Evicting::Now
            }
        } else {
            Evicting::Now
        };
        if let Some(taints) = decide::taints(node, evicting, now) {
            let name = node.metadata.name.as_deref().unwrap_or("");
            let version = &node.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
            let api = Api::<Node>::all(self.context.client.clone());
            match api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(written) => self.nodes.written(written),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(wait)
    }

    fn wait_for_turn(
        &self,
        node: &Node,
        zones: &std::collections::BTreeMap<String, (ZoneState, usize)>,
    ) -> Option<Duration> {
        let zone = decide::zone_of(node);
        let (state, size) = zones.get(&zone).copied().unwrap_or((ZoneState::Normal, 1));
        let Some(interval) = decide::eviction_interval(state, size) else {
            return Some(Duration::from_secs(5));
        };
        let now = Instant::now();
        let mut next = self.next_eviction.lock();
        let turn = next.entry(zone).or_insert(now);
        if *turn <= now {
            *turn = now + interval;
            return None;
        }
        Some(*turn - now)
    }

    async fn mark_pods_not_ready(&self, node: &str, now: Timestamp) -> Result<(), kube::Error> {
        for pod in self
            .pods_by_node
            .get(node)
            .into_iter()
            .filter(|p| pods::is_ready(p))
        {
            let key = ObjectKey::of(&*pod);
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(now)});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
            match api
                .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Ok(written) => {
                    self.pods.written(written);
                    self.context
                        .recorder
                        .warning(&reference(&*pod), "NodeNotReady", "Node is not ready");
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The older names of two labels follow the newer ones.
    async fn label(&self, node: &Node) -> Result<(), kube::Error> {
        const PAIRS: [(&str, &str); 2] = [
            ("kubernetes.io/os", "beta.kubernetes.io/os"),
            ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
        ];
        let Some(labels) = &node.metadata.labels else {
            return Ok(());
        };
        let differing = PAIRS
            .iter()
            .filter(|(new, old)| labels.contains_key(*new) && labels.get(*new) != labels.get(*old));
        let wanted: std::collections::BTreeMap<&str, &String> = differing
            .filter_map(|(new, old)| Some((*old, labels.get(*new)?)))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let api = Api::<Node>::all(self.context.client.clone());
        let name = node.metadata.name.as_deref().unwrap_or("");
        let patch = json!({"metadata": {"labels": wanted}});
        match api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(written) => {
                self.nodes.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
