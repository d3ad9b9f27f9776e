//! What pods have been given of CPU and memory, apart from what their specs now ask for (in-place resize).
//!
//! ```text
//!  spec (desired) ──judge──► allocated ──worker──► actuated (what the runtime was told)
//! ```
//! **Invariants:** everything but the judge sees a pod with its *allocated* resources; an allocation changes only
//! while all others are known, so two pods never count on the same room. After a restart both are read back from
//! the pod's written status, so nothing is kept on disk.
//! Follows upstream's `pkg/kubelet/allocation` (KEP-1287) and its events and conditions.

pub mod amounts;
pub mod judge;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use parking_lot::Mutex;

use crate::pod::{PodExt, container_status};
use crate::quantity::ResourceList;
use amounts::Amounts;

pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";
pub const DEFERRED: &str = "Deferred";
pub const ERROR: &str = "Error";

/// The resources of a pod's containers and of the pod as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub containers: HashMap<String, ResourceRequirements>,
    pub pod: Option<ResourceRequirements>,
}

/// One of the two conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub reason: String,
    pub message: String,
    pub generation: Option<i64>,
}

#[derive(Default)]
struct Entry {
    allocated: Resources,
    /// As the runtime was last told, by container.
    actuated: HashMap<String, Amounts>,
    /// The object whose wish waits for room.
    waiting: Option<Arc<Pod>>,
    pending: Option<Note>,
    progress: Option<Note>,
}

#[derive(Default)]
pub struct Allocations {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Resources {
    pub fn of(pod: &Pod) -> Self {
        Self {
            containers: resizable(pod)
                .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
                .collect(),
            pod: pod.spec().resources.clone(),
        }
    }

    /// The pod as if it asked for just this.
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if same(self, &Self::of(pod)) {
            return pod.clone();
        }
        let mut changed = Pod::clone(pod);
        if let Some(spec) = &mut changed.spec {
            spec.resources.clone_from(&self.pod);
            let lists = [Some(&mut spec.containers), spec.init_containers.as_mut()];
            for container in lists.into_iter().flatten().flatten() {
                if let Some(resources) = self.containers.get(&container.name) {
                    container.resources = Some(resources.clone());
                }
            }
        }
        Arc::new(changed)
    }
}

impl Allocations {
    /// The pod with what it has, before it is admitted: as its status tells of running containers, otherwise as
    /// the spec says.
    pub fn recalled(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let mut resources = Resources::of(pod);
        for (name, wanted) in &mut resources.containers {
            if let Some(had) = running_resources(pod, name) {
                merge(&mut wanted.requests, had.requests.as_ref());
                merge(&mut wanted.limits, had.limits.as_ref());
            }
        }
        resources.apply(pod)
    }

    /// Notes what a pod was admitted with.
    pub fn admit(&self, allocated: &Pod) {
        let running = |c: &&Container| running_resources(allocated, &c.name).is_some();
        let actuated = resizable(allocated)
            .filter(running)
            .map(|c| (c.name.clone(), Amounts::of(allocated, c)));
        let entry = Entry {
            allocated: Resources::of(allocated),
            actuated: actuated.collect(),
            ..Entry::default()
        };
        self.entries.lock().insert(allocated.uid().to_owned(), entry);
    }

    /// The pod with what it was given.
    pub fn allocated(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.entries.lock().get(pod.uid()) {
            Some(entry) => entry.allocated.apply(pod),
            None => pod.clone(),
        }
    }

    /// The wish is granted; whether that was news.
    pub fn grant(&self, pod: &Pod) {
        self.change(pod.uid(), |entry| {
            entry.allocated = Resources::of(pod);
            entry.waiting = None;
            entry.pending = None;
            entry.progress = Some(Note {
                generation: pod.generation(),
                ..Note::default()
            });
        });
    }

    /// The wish must wait; returns whether that is to be told.
    pub fn defer(&self, pod: &Arc<Pod>, message: String) -> bool {
        let note = Note {
            reason: DEFERRED.to_owned(),
            message,
            generation: pod.generation(),
        };
        self.change(pod.uid(), |entry| {
            entry.waiting = Some(pod.clone());
            let news = entry
                .pending
                .as_ref()
                .is_none_or(|p| p.reason != note.reason || p.generation != note.generation);
            entry.pending = Some(note);
            news
        })
        .unwrap_or(false)
    }

    /// There is no wish (any more).
    pub fn settle(&self, uid: &str) {
        self.change(uid, |entry| {
            entry.waiting = None;
            entry.pending = None;
        });
    }

    /// Pods that wait for room.
    pub fn waiting(&self) -> Vec<Arc<Pod>> {
        self.entries
            .lock()
            .values()
            .filter_map(|e| e.waiting.clone())
            .collect()
    }

    pub fn actuated(&self, uid: &str) -> HashMap<String, Amounts> {
        self.entries
            .lock()
            .get(uid)
            .map(|e| e.actuated.clone())
            .unwrap_or_default()
    }

    pub fn set_actuated(&self, uid: &str, container: &str, amounts: Amounts) {
        self.change(uid, |entry| entry.actuated.insert(container.to_owned(), amounts));
    }

    /// A resize is under way, with what went wrong; returns whether that is news.
    pub fn in_progress(&self, pod: &Pod, error: Option<String>) -> bool {
        self.change(pod.uid(), |entry| {
            let before = entry.progress.clone();
            let note = entry.progress.get_or_insert_with(|| Note {
                generation: pod.generation(),
                ..Note::default()
            });
            if let Some(message) = error {
                note.reason = ERROR.to_owned();
                note.message = message;
            }
            before.as_ref() != entry.progress.as_ref()
        })
        .unwrap_or(false)
    }

    /// No resize is under way; returns the generation of the one that was.
    pub fn completed(&self, uid: &str) -> Option<Note> {
        self.change(uid, |entry| entry.progress.take()).flatten()
    }

    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    pub fn conditions(&self, uid: &str) -> Vec<PodCondition> {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(uid) else {
            return Vec::new();
        };
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let condition = |kind: &str, note: &Note| PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: some(&note.reason),
            message: some(&note.message),
            observed_generation: note.generation,
            ..PodCondition::default()
        };
        let pending = entry.pending.as_ref().map(|n| condition(PENDING, n));
        let progress = entry.progress.as_ref().map(|n| condition(IN_PROGRESS, n));
        pending.into_iter().chain(progress).collect()
    }

    fn change<T>(&self, uid: &str, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.entries.lock().get_mut(uid).map(change)
    }
}

/// Containers whose resources may change while they run.
pub fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.init_containers().iter().chain(pod.containers())
}

fn same(a: &Resources, b: &Resources) -> bool {
    let list = |a: Option<&ResourceList>, b: Option<&ResourceList>| {
        amounts::NAMES
            .iter()
            .all(|n| crate::quantity::amount(a, n) == crate::quantity::amount(b, n))
    };
    let one = |a: &ResourceRequirements, b: &ResourceRequirements| {
        list(a.requests.as_ref(), b.requests.as_ref()) && list(a.limits.as_ref(), b.limits.as_ref())
    };
    let none = ResourceRequirements::default();
    one(a.pod.as_ref().unwrap_or(&none), b.pod.as_ref().unwrap_or(&none))
        && a.containers.len() == b.containers.len()
        && a.containers
            .iter()
            .all(|(name, r)| b.containers.get(name).is_some_and(|other| one(r, other)))
}

/// What the written status says a running container has.
fn running_resources<'a>(pod: &'a Pod, name: &str) -> Option<&'a ResourceRequirements> {
    let status = pod.status();
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let found = lists
        .into_iter()
        .flatten()
        .find_map(|list| container_status(list, name))?;
    found
        .state
        .as_ref()
        .filter(|s| s.running.is_some())
        .and(found.resources.as_ref())
}

fn merge(wanted: &mut Option<ResourceList>, had: Option<&ResourceList>) {
    for name in amounts::NAMES {
        if let Some(value) = had.and_then(|h| h.get(name)) {
            wanted
                .get_or_insert_default()
                .insert(name.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(cpu: &str, status: Value) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"uid": "u", "generation": 2}, "status": status, "spec": {
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
            )
            .unwrap(),
        )
    }

    fn cpu(pod: &Pod) -> Option<i64> {
        crate::quantity::request(&pod.containers()[0], "cpu")
    }

    #[test]
    fn others_see_what_was_allocated() {
        let allocations = Allocations::default();
        let first = pod("100m", json!({}));
        allocations.admit(&allocations.recalled(&first));
        let wish = pod("0.2", json!({}));
        assert_eq!(cpu(&allocations.allocated(&wish)), Some(100));
        assert!(allocations.defer(&wish, "no room".into()));
        assert!(!allocations.defer(&wish, "no room".into()));
        assert_eq!(allocations.waiting().len(), 1);
        assert_eq!(allocations.conditions("u")[0].reason.as_deref(), Some("Deferred"));
        allocations.grant(&wish);
        assert_eq!(cpu(&allocations.allocated(&wish)), Some(200));
        assert_eq!(allocations.conditions("u")[0].type_, IN_PROGRESS);
        assert_eq!(allocations.completed("u").unwrap().generation, Some(2));
        assert!(allocations.conditions("u").is_empty() && allocations.waiting().is_empty());
    }

    #[test]
    fn a_restarted_kubelet_recalls_what_runs() {
        let status = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}, "resources": {"requests": {"cpu": "100m"}}}]});
        let allocations = Allocations::default();
        let recalled = allocations.recalled(&pod("200m", status));
        assert_eq!(cpu(&recalled), Some(100));
        allocations.admit(&recalled);
        assert_eq!(allocations.actuated("u")["c"].cpu_request, 100);
    }
}
