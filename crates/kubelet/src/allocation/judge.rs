//! Whether a pod may have the resources it now asks for. Pure, but for carrying the verdict out.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::{Resources, same};
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::pods::admission::{self, Place};
use crate::pods::worker::Command;
use crate::pods::workers::Workers;
use crate::qos::{Class, class};
use crate::quantity::pod_requests;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing else is wished for than what is allocated.
    Same,
    Fits,
    Deferred(String),
}

/// `others`: the pods that are here, with what they were given.
pub fn judge(desired: &Pod, allocated: &Pod, place: &Place<'_>, others: &[Arc<Pod>]) -> Verdict {
    if same(&Resources::of(desired), &Resources::of(allocated)) {
        return Verdict::Same;
    }
    match admission::check_resources(desired, place, others.iter().map(|p| &**p)) {
        Ok(()) => Verdict::Fits,
        Err(refusal) => Verdict::Deferred(refusal.message),
    }
}

/// Judges one pod's wish, and gives the worker the pod with what it has from now on.
pub fn take(node: &NodeContext, workers: &Workers, desired: &Arc<Pod>) {
    let allocations = &node.allocations;
    let allocated = allocations.allocated(desired);
    let known = node.state.read().node.clone().unwrap_or_default();
    let place = Place::of(&known, &node.settings.node_name, node.allocatable());
    match judge(desired, &allocated, &place, &workers.pods()) {
        Verdict::Same => allocations.settle(desired.uid()),
        Verdict::Fits => {
            allocations.grant(desired);
            let text = summary("Pod resize started", desired, desired.generation(), "");
            node.events.pod(desired).normal("ResizeStarted", text);
        }
        Verdict::Deferred(message) => {
            if allocations.defer(desired, message.clone()) {
                let text = summary("Pod resize Deferred", desired, desired.generation(), &message);
                node.events.pod(desired).warning("ResizeDeferred", text);
            }
        }
    }
    workers.tell(desired.uid(), Command::Pod(node.allocations.allocated(desired)));
}

/// Something gave room: judges those that wait again, the most entitled first.
pub fn retry(node: &NodeContext, workers: &Workers) {
    let mut waiting = node.allocations.waiting();
    let grows = |pod: &Arc<Pod>| {
        let (now, then) = (pod_requests(&node.allocations.allocated(pod)), pod_requests(pod));
        super::amounts::NAMES.iter().any(|n| then.get(*n) > now.get(*n))
    };
    waiting.sort_by_cached_key(|pod| {
        (
            grows(pod),
            Reverse(pod.spec().priority.unwrap_or(0)),
            class(pod) != Class::Guaranteed,
            pod.generation(),
        )
    });
    for pod in waiting {
        if workers.knows(pod.uid()) {
            take(node, workers, &pod);
        }
    }
}

/// The text of the events about resizes: what the pod is to have, as JSON.
pub fn summary(words: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        let one =
            |c: &Container| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()});
        containers.iter().map(one).collect()
    };
    let mut summary = serde_json::Map::new();
    for (key, items) in [
        ("initContainers", list(pod.init_containers())),
        ("containers", list(pod.containers())),
    ] {
        if !items.is_empty() {
            summary.insert(key.to_owned(), Value::Array(items));
        }
    }
    summary.insert("generation".to_owned(), json!(generation.unwrap_or(0)));
    if !error.is_empty() {
        summary.insert("error".to_owned(), json!(error));
    }
    format!("{words}: {}", Value::Object(summary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_wish_waits_for_room() {
        let pod = |uid: &str, cpu: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
            .unwrap()
        };
        let (labels, allocatable) = (
            BTreeMap::new(),
            BTreeMap::from([("cpu".to_owned(), 1000), ("pods".to_owned(), 9)]),
        );
        let place = Place {
            name: "n",
            labels: &labels,
            taints: &[],
            allocatable: &allocatable,
        };
        let others = [Arc::new(pod("a", "500m")), Arc::new(pod("b", "300m"))];
        let verdict = |cpu: &str| judge(&pod("b", cpu), &others[1], &place, &others);
        assert_eq!(verdict("0.3"), Verdict::Same);
        assert_eq!(verdict("500m"), Verdict::Fits);
        let text = "Node didn't have enough resource: cpu, requested: 501, used: 500, capacity: 1000";
        assert_eq!(verdict("501m"), Verdict::Deferred(text.to_owned()));
    }
}
