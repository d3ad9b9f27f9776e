//! The pod garbage collector: removes pods that nobody is left to remove.
//!
//! * pods on nodes that do not exist any more, after a quarantine of 40 s;
//! * pods that are to be deleted and never got a node;
//! * pods that are to be deleted on a node declared out of service;
//! * ended pods beyond a number (12,500), oldest first, evicted ones before others.
//!
//! Upstream looks every 20 s. Here an event that could matter starts the clock, so nothing runs at idle.

use crate::context::Context;
use crate::pods;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, Outcome};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(20);
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The only item of the queue: there is one thing to look at, everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Everything;

struct Shell {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Since when a node has been missing.
    missing: Mutex<HashMap<String, Instant>>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<Everything>("pod_garbage_collector");
    let adds = queue.clone();
    nodes.subscribe(move |event| match event {
        Event::Deleted(_) => adds.add(Everything),
        Event::Updated { new, .. } if is_out_of_service(new) => adds.add(Everything),
        _ => {}
    });
    let (adds, known) = (queue.clone(), nodes.clone());
    let (all, threshold) = (pods.clone(), context.options.terminated_pod_gc_threshold);
    pods.subscribe(move |event| {
        let pod = event.object();
        let name = pods::node_name(pod);
        let unplaced = pods::is_terminating(pod) && name.is_empty();
        let homeless = !name.is_empty() && known.has_synced() && known.find("", name).is_none();
        let on_dead_node =
            pods::is_terminating(pod) && known.find("", name).is_some_and(|n| is_out_of_service(&n));
        let too_many = pods::is_finished(pod) && all.len() > threshold;
        if !matches!(event, Event::Deleted(_)) && (unplaced || homeless || on_dead_node || too_many) {
            adds.add_after(
                Everything,
                if unplaced || on_dead_node {
                    Duration::ZERO
                } else {
                    PERIOD
                },
            );
        }
    });
    queue.add(Everything);
    let shell = Arc::new(Shell {
        context: context.clone(),
        nodes,
        pods,
        missing: Mutex::default(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.nodes.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, 1, synced, move |_| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile().await }
        })
        .await;
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let tainted = taints.into_iter().flatten().any(|t| t.key == OUT_OF_SERVICE);
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    tainted && !ready
}

/// The ended pods that are too many.
fn surplus(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    if threshold == 0 {
        return Vec::new();
    }
    let mut ended: Vec<&Arc<Pod>> = pods.iter().filter(|p| pods::is_finished(p)).collect();
    let count = ended.len().saturating_sub(threshold);
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    ended.sort_by_key(|p| {
        (
            Reverse(evicted(p)),
            p.metadata.creation_timestamp.as_ref().map(|t| t.0),
        )
    });
    ended.into_iter().take(count).cloned().collect()
}

impl Shell {
    async fn reconcile(&self) -> Result<Outcome, kube::Error> {
        let pods = self.pods.list();
        let now = self.context.now();
        for pod in surplus(&pods, self.context.options.terminated_pod_gc_threshold) {
            self.remove(&pod, None).await?;
        }
        let mut homeless: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in &pods {
            let name = pods::node_name(pod);
            match self.nodes.find("", name) {
                _ if name.is_empty() && pods::is_terminating(pod) => self.remove(pod, None).await?,
                Some(node) if pods::is_terminating(pod) && is_out_of_service(&node) => {
                    self.remove(pod, None).await?
                }
                None if !name.is_empty() => homeless.entry(name).or_default().push(pod),
                _ => {}
            }
        }
        let mut next = None;
        for (node, pods) in homeless {
            let left = self.quarantine_left(node);
            if !left.is_zero() {
                next = Some(next.map_or(left, |n: Duration| n.min(left)));
                continue;
            }
            if self.is_back(node).await? {
                continue;
            }
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": Time(now),
            });
            for pod in pods {
                self.remove(pod, Some(&condition)).await?;
            }
        }
        self.missing
            .lock()
            .retain(|node, _| self.nodes.find("", node).is_none());
        Ok(next.map_or(Outcome::Done, Outcome::After))
    }

    fn quarantine_left(&self, node: &str) -> Duration {
        let since = *self.missing.lock().entry_ref(node).or_insert_with(Instant::now);
        QUARANTINE.saturating_sub(since.elapsed())
    }

    /// Before pods are taken from a node for good the server is asked itself.
    async fn is_back(&self, node: &str) -> Result<bool, kube::Error> {
        let api = Api::<Node>::all(self.context.client.clone());
        Ok(api.get_opt(node).await?.is_some())
    }

    async fn remove(&self, pod: &Pod, condition: Option<&serde_json::Value>) -> Result<(), kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let api = Api::<Pod>::namespaced(self.context.client.clone(), namespace);
        if !pods::is_finished(pod) {
            let mut status = json!({"phase": "Failed"});
            if let Some(condition) = condition {
                status["conditions"] = json!([condition]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            match api
                .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        match api.delete(name, &now).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn the_oldest_ended_pods_are_too_many() {
        let pod = |name: &str, second: i64, phase: &str, reason: &str| {
            let created = Time(Timestamp::from_second(second).expect("time"));
            let pod = json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": phase, "reason": reason}});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("pod"))
        };
        let pods = [
            pod("a", 5, "Failed", ""),
            pod("b", 3, "Succeeded", ""),
            pod("c", 9, "Failed", "Evicted"),
            pod("d", 1, "Running", ""),
        ];
        let names: Vec<_> = surplus(&pods, 1)
            .iter()
            .map(|p| p.metadata.name.clone().unwrap_or_default())
            .collect();
        assert_eq!(names, ["c", "b"]);
        assert!(surplus(&pods, 3).is_empty());
    }
}
