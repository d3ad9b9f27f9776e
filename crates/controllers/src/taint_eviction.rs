//! The taint eviction controller: pods leave a node whose NoExecute taints they do not tolerate, at once or when the
//! time they tolerate them is over.
//!
//! Times are counted from when the taint was added (or the pod came, if later), which the taint says itself; so a
//! restart of the controller does not start them anew.

use crate::context::Context;
use crate::pods;
use client::events::reference;
use client::informer::{Index, by_node};
use client::taints::tolerates_one;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 32;

struct Shell {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("noexec_taint_pod");
    let shell = Arc::new(Shell {
        pods_by_node: pods.index("node", by_node),
        nodes,
        pods,
        context: context.clone(),
    });
    let (adds, of_node) = (queue.clone(), shell.pods_by_node.clone());
    shell.nodes.subscribe(move |event| {
        let changed = match event {
            Event::Added(node) => !driving(node).is_empty(),
            Event::Updated { old, new } => driving(old) != driving(new),
            Event::Deleted(_) => false,
        };
        if changed {
            let name = event.object().metadata.name.as_deref().unwrap_or("");
            of_node
                .get(name)
                .iter()
                .for_each(|p| adds.add(ObjectKey::of(&**p)));
        }
    });
    let (adds, all) = (queue.clone(), shell.nodes.clone());
    shell.pods.subscribe(move |event| {
        let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.tolerations.clone());
        let relevant = match event {
            Event::Added(_) => true,
            Event::Updated { old, new } => {
                pods::node_name(old) != pods::node_name(new) || tolerations(old) != tolerations(new)
            }
            Event::Deleted(_) => false,
        };
        let name = pods::node_name(event.object());
        if relevant && !name.is_empty() && all.find("", name).is_some_and(|n| !driving(&n).is_empty()) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let adds = queue.clone();
    let worker = Arc::clone(&shell);
    context
        .work(
            &queue,
            WORKERS,
            async move {
                shell.nodes.synced().await;
                shell.pods.synced().await;
                // Pods that were heard of before their tainted nodes.
                for pod in shell.pods.list() {
                    let node = shell.nodes.find("", pods::node_name(&pod));
                    if node.is_some_and(|n| !driving(&n).is_empty()) {
                        adds.add(ObjectKey::of(&*pod));
                    }
                }
            },
            move |key| {
                let shell = Arc::clone(&worker);
                async move { shell.reconcile(&key).await }
            },
        )
        .await;
}

/// The node's taints that drive pods away.
fn driving(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    taints
        .into_iter()
        .flatten()
        .filter(|t| t.effect == "NoExecute")
        .collect()
}

/// When a pod has to leave.
#[derive(Debug, PartialEq)]
enum Leaves {
    Never,
    Now,
    In(Duration),
}

fn leaves(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Leaves {
    if taints.is_empty() {
        return Leaves::Never;
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or(&[]);
    let mut limit: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|t| tolerates_one(t, taint)) else {
            return Leaves::Now;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            limit = Some(limit.map_or(seconds, |l| l.min(seconds)));
        }
    }
    let Some(limit) = limit else { return Leaves::Never };
    let added = taints
        .iter()
        .filter_map(|t| t.time_added.as_ref().map(|t| t.0))
        .min();
    let came = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let since = added.into_iter().chain(came).max().unwrap_or(now);
    let left = SignedDuration::from_secs(limit.max(0)) - now.duration_since(since);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Leaves::In(left),
        _ => Leaves::Now,
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key).filter(|p| pods::is_active(p)) else {
            return Ok(Outcome::Done);
        };
        let Some(node) = self.nodes.find("", pods::node_name(&pod)) else {
            return Ok(Outcome::Done);
        };
        let now = self.context.now();
        match leaves(&pod, &driving(&node), now) {
            Leaves::Never => Ok(Outcome::Done),
            Leaves::In(left) => Ok(Outcome::After(left)),
            Leaves::Now => {
                self.evict(key, &pod).await?;
                Ok(Outcome::Done)
            }
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), kube::Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.context
            .recorder
            .normal(&reference(pod), "TaintManagerEviction", message);
        let disruption = pods::Disruption {
            reason: "DeletionByTaintManager",
            message: "Taint manager: deleting due to NoExecute taint",
        };
        pods::disrupt(&self.context, &self.pods, pod, &disruption).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    #[test]
    fn when_pods_leave() {
        let taint = |key: &str| Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            time_added: Some(Time(Timestamp::from_second(1000).expect("time"))),
            ..Taint::default()
        };
        let check = |tolerations: serde_json::Value, created: i64, now: i64, expected: Leaves| {
            let created = Time(Timestamp::from_second(created).expect("time"));
            let pod = json!({"metadata": {"creationTimestamp": created}, "spec": {"containers": [], "tolerations": tolerations}});
            let pod: Pod = serde_json::from_value(pod).expect("pod");
            let now = Timestamp::from_second(now).expect("time");
            assert_eq!(
                leaves(&pod, &[&taint("a"), &taint("b")], now),
                expected,
                "{tolerations}"
            );
        };
        let a = json!({"key": "a", "operator": "Exists", "tolerationSeconds": 300});
        let b = json!({"key": "b", "operator": "Exists"});
        check(json!([]), 0, 1000, Leaves::Now);
        check(json!([a]), 0, 1000, Leaves::Now);
        check(json!([a, b]), 0, 1100, Leaves::In(Duration::from_secs(200)));
        check(json!([a, b]), 1050, 1100, Leaves::In(Duration::from_secs(250)));
        check(json!([a, b]), 0, 1300, Leaves::Now);
        check(json!([{"operator": "Exists"}]), 0, 9000, Leaves::Never);
    }
}
