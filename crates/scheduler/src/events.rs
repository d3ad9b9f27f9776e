//! From what the informers say to what the cache and the queue should know.

use crate::cache::Cache;
use crate::devices::claims;
use crate::framework::ClusterEvent;
use crate::pod_info::PodInfo;
use crate::queue::SchedulingQueue;
use client::Event;
use k8s_openapi::api::core::v1::{Node, Pod, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use parking_lot::Mutex;
use std::sync::Arc;

/// Who hears the informers.
pub(crate) struct Ears {
    pub(crate) cache: Arc<Mutex<Cache>>,
    pub(crate) queue: Arc<SchedulingQueue>,
    pub(crate) scheduler_name: String,
    /// Whether the plugins let a pod into the active queue.
    pub(crate) may_enqueue: Box<dyn Fn(&PodInfo) -> bool + Send + Sync>,
}

/// What a pod is to the scheduler.
enum Role<'a> {
    Bound(&'a str),
    Waiting,
    /// Ended, or another scheduler's.
    Nothing,
}

impl Ears {
    fn role<'a>(&self, pod: &'a Pod) -> Role<'a> {
        let Some(spec) = &pod.spec else {
            return Role::Nothing;
        };
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Role::Nothing;
        }
        match spec.node_name.as_deref() {
            Some(node) if !node.is_empty() => Role::Bound(node),
            _ if pod.metadata.deletion_timestamp.is_some() => Role::Nothing,
            _ if spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.scheduler_name => {
                Role::Waiting
            }
            _ => Role::Nothing,
        }
    }

    pub(crate) fn pod(&self, event: &Event<Pod>) {
        match event {
            Event::Added(pod) => self.pod_is(None, pod),
            Event::Updated { old, new } => self.pod_is(Some(old), new),
            Event::Deleted(pod) => self.pod_gone(pod),
        }
    }

    fn pod_is(&self, old: Option<&Arc<Pod>>, pod: &Arc<Pod>) {
        let role = self.role(pod);
        if matches!(role, Role::Nothing) {
            // A pod that came to its end frees what it had.
            return self.pod_gone(pod);
        }
        let was_bound = old.is_some_and(|o| matches!(self.role(o), Role::Bound(_)));
        if was_bound && old.is_some_and(|old| !matters(old, pod)) {
            return;
        }
        let info = Arc::new(PodInfo::new(Arc::clone(pod)));
        match role {
            Role::Bound(node) => {
                let smaller = old.is_some_and(|o| o.spec != pod.spec);
                let was_waiting = self.queue.delete(&info.key);
                self.cache.lock().set_pod(info, node);
                if was_bound && smaller {
                    self.queue.wake(ClusterEvent::PodDeleted);
                }
                if !was_bound || was_waiting || labels_differ(old, pod) {
                    self.queue.wake(ClusterEvent::PodAdded);
                }
            }
            Role::Waiting => {
                // The answer to our own binding may be slower than another update of the pod.
                if self.cache.lock().is_assumed(&info.key) {
                    return;
                }
                let gated = !(self.may_enqueue)(&info);
                let changed = old.is_some_and(|o| {
                    o.spec != pod.spec || labels_differ(Some(o), pod) || generated(o) != generated(pod)
                });
                self.queue.put(info, gated, changed);
            }
            Role::Nothing => {}
        }
    }

    fn pod_gone(&self, pod: &Pod) {
        let key = client::ObjectKey::of(pod);
        self.queue.delete(&key);
        let removed = {
            let mut cache = self.cache.lock();
            cache.remove_pod(&key)
        };
        if removed.is_some() {
            self.queue.wake(ClusterEvent::PodDeleted);
        }
    }

    /// A claim may be what a pod was waiting for, or give its devices back. One that was made for a pod concerns the
    /// others only when it gives its devices back.
    pub(crate) fn claim(&self, event: &Event<ResourceClaim>) {
        let frees = match event {
            Event::Added(_) => false,
            Event::Updated { old, new } if old.status == new.status => return,
            Event::Updated { old, new } => claims::is_allocated(old) && !claims::is_allocated(new),
            Event::Deleted(claim) => claims::is_allocated(claim),
        };
        let claim = event.object();
        let gone = matches!(event, Event::Deleted(_));
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let owner = owners.find(|o| o.controller == Some(true) && o.kind == "Pod");
        match owner {
            Some(pod) if !gone => {
                let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
                let key = client::ObjectKey::new(namespace, &pod.name);
                self.queue.ungate(Some(&key), &*self.may_enqueue);
            }
            None if !gone => self.queue.ungate(None, &*self.may_enqueue),
            _ => {}
        }
        if frees || !gone && owner.is_none() {
            self.queue.wake(ClusterEvent::Devices);
        }
    }

    pub(crate) fn node(&self, event: &Event<Node>) {
        match event {
            Event::Added(node) => {
                self.cache.lock().set_node(Arc::clone(node));
                self.queue.wake(ClusterEvent::NodeAdded);
            }
            Event::Updated { old, new } => {
                let changes = node_changes(old, new);
                if changes.is_empty() && images(old) == images(new) {
                    return;
                }
                self.cache.lock().set_node(Arc::clone(new));
                changes.into_iter().for_each(|c| self.queue.wake(c));
            }
            Event::Deleted(node) => {
                let name = node.metadata.name.as_deref().unwrap_or("");
                self.cache.lock().remove_node(name);
            }
        }
    }
}

/// Whether a bound pod changed in something the plugins look at.
fn matters(old: &Pod, new: &Pod) -> bool {
    let resources = |pod: &Pod| -> Vec<_> {
        let status = pod.status.as_ref();
        let statuses = status
            .and_then(|s| s.container_statuses.as_ref())
            .into_iter()
            .flatten();
        statuses.map(|s| (s.name.clone(), s.resources.clone())).collect()
    };
    old.metadata.uid != new.metadata.uid
        || old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || resources(old) != resources(new)
}

/// The claims that were made for the pod.
fn generated(pod: &Pod) -> Option<&Vec<PodResourceClaimStatus>> {
    pod.status.as_ref()?.resource_claim_statuses.as_ref()
}

fn labels_differ(old: Option<&Arc<Pod>>, new: &Pod) -> bool {
    old.is_some_and(|o| o.metadata.labels != new.metadata.labels)
}

fn images(node: &Node) -> Option<&Vec<k8s_openapi::api::core::v1::ContainerImage>> {
    node.status.as_ref()?.images.as_ref()
}

fn node_changes(old: &Node, new: &Node) -> Vec<ClusterEvent> {
    let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone());
    let cordoned = |node: &Node| node.spec.as_ref().and_then(|s| s.unschedulable);
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    let pairs = [
        (
            allocatable(old) != allocatable(new),
            ClusterEvent::NodeAllocatable,
        ),
        (
            old.metadata.labels != new.metadata.labels,
            ClusterEvent::NodeLabels,
        ),
        (taints(old) != taints(new), ClusterEvent::NodeTaints),
        (cordoned(old) != cordoned(new), ClusterEvent::NodeUnschedulable),
    ];
    pairs
        .into_iter()
        .filter(|(changed, _)| *changed)
        .map(|(_, event)| event)
        .collect()
}
