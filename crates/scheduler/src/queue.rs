//! Pods that wait for a node.
//!
//! ```text
//!   add ──► Active ──pop──► InFlight ──fail──► Waiting ──event a plugin cares for──► Backoff ──time──► Active
//!    │                         │ └── such an event came meanwhile, or an error ──────► Backoff
//!    └─► Gated (gates set)     └──assumed──► gone
//! ```
//!
//! * Active pods come by priority, then by time.
//! * Back-off is 1 s doubling to 10 s. As upstream since 1.33, when nothing is active a pod that backs off because it
//!   was unschedulable (not because of an error) comes at once.
//! * What waits for five minutes without an event is tried again all the same.
//! * **Invariant:** an event between pop and fail is not lost: it is kept until the attempt ends.

use crate::framework::ClusterEvent;
use crate::pod_info::PodInfo;
use client::ObjectKey;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
const WAITS_AT_MOST: Duration = Duration::from_secs(300);

/// Pods by the node preemption promised them.
pub(crate) type Nominated = Arc<HashMap<String, Vec<Arc<PodInfo>>>>;

/// Whether a plugin wants a pod it refused to be tried again after an event.
pub(crate) type Hint = dyn Fn(&'static str, ClusterEvent) -> bool + Send + Sync;

pub(crate) struct SchedulingQueue {
    state: Mutex<State>,
    changed: Notify,
    hint: Box<Hint>,
}

#[derive(Default)]
struct State {
    pods: HashMap<ObjectKey, Queued>,
    active: BTreeMap<(Reverse<i32>, u64), ObjectKey>,
    backoff: BTreeMap<(Instant, u64), ObjectKey>,
    /// By when they failed.
    waiting: BTreeMap<(Instant, u64), ObjectKey>,
    /// What happened since the pod in flight was popped.
    meanwhile: Vec<ClusterEvent>,
    sequence: u64,
    nominated: Nominated,
}

struct Queued {
    info: Arc<PodInfo>,
    place: Place,
    order: u64,
    attempts: u32,
    /// When the last attempt failed.
    failed: Option<Instant>,
}

enum Place {
    Active,
    Backoff {
        until: Instant,
        error: bool,
    },
    Waiting {
        since: Instant,
        plugins: Vec<&'static str>,
    },
    Gated,
    InFlight,
}

impl SchedulingQueue {
    pub(crate) fn new(hint: Box<Hint>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            hint,
        }
    }

    /// A pod that wants a node came or changed.
    pub(crate) fn put(&self, info: Arc<PodInfo>, gated: bool, changed_spec: bool) {
        let mut state = self.state.lock();
        let key = info.key.clone();
        state.sequence += 1;
        let order = state.sequence;
        let Some(queued) = state.pods.get_mut(&key).filter(|q| q.info.uid() == info.uid()) else {
            state.remove(&key);
            let place = if gated { Place::Gated } else { Place::Active };
            let queued = Queued {
                info,
                place,
                order,
                attempts: 0,
                failed: None,
            };
            state.insert(key, queued);
            drop(state);
            return self.changed.notify_one();
        };
        let priority_changed = queued.info.priority != info.priority;
        let woken = match &queued.place {
            Place::Gated => !gated,
            Place::Waiting { .. } => changed_spec,
            Place::Active => priority_changed,
            Place::Backoff { .. } => false,
            Place::InFlight => {
                if changed_spec {
                    state.meanwhile.push(ClusterEvent::PodItself);
                }
                false
            }
        };
        if !woken {
            if let Some(queued) = state.pods.get_mut(&key) {
                queued.info = info;
            }
            return;
        }
        if let Some(mut queued) = state.remove(&key) {
            queued.info = info;
            queued.place = queued.after_backoff();
            state.insert(key, queued);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The pod is gone, bound, or not ours any more.
    pub(crate) fn delete(&self, key: &ObjectKey) -> bool {
        let mut state = self.state.lock();
        let removed = state.remove(key);
        if let Some(queued) = &removed {
            state.denominate(queued.info.uid());
        }
        removed.is_some()
    }

    /// Takes the next pod, which is in flight until [`Self::delete`] or [`Self::fail`].
    pub(crate) async fn pop(&self) -> Arc<PodInfo> {
        loop {
            let changed = self.changed.notified();
            let next = {
                let mut state = self.state.lock();
                if let Some(info) = state.pop() {
                    return info;
                }
                state.next_due()
            };
            match next {
                Some(at) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// As [`Self::pop`], if one is ready now.
    pub(crate) fn try_pop(&self) -> Option<Arc<PodInfo>> {
        self.state.lock().pop()
    }

    /// No node was found, for what these plugins said; or an error happened (`plugins` is empty).
    pub(crate) fn fail(&self, info: &PodInfo, plugins: Vec<&'static str>) {
        let mut state = self.state.lock();
        let Some(mut queued) = state.remove(&info.key) else {
            return;
        };
        if queued.info.uid() != info.uid() {
            let key = info.key.clone();
            return state.insert(key, queued);
        }
        queued.failed = Some(Instant::now());
        state.sequence += 1;
        queued.order = state.sequence;
        let error = plugins.is_empty();
        let woken = state
            .meanwhile
            .iter()
            .any(|e| plugins.iter().any(|p| (self.hint)(p, *e)));
        queued.place = if error || woken {
            Place::Backoff {
                until: queued.backoff_ends(),
                error,
            }
        } else {
            Place::Waiting {
                since: Instant::now(),
                plugins,
            }
        };
        state.insert(info.key.clone(), queued);
        drop(state);
        self.changed.notify_one();
    }

    /// A binding failed: the pod is back, after its back-off.
    pub(crate) fn retry(&self, info: Arc<PodInfo>) {
        let mut state = self.state.lock();
        if state.pods.contains_key(&info.key) {
            return;
        }
        state.sequence += 1;
        let queued = Queued {
            place: Place::Backoff {
                until: Instant::now() + FIRST_BACKOFF,
                error: true,
            },
            order: state.sequence,
            attempts: 1,
            failed: Some(Instant::now()),
            info,
        };
        state.insert(queued.info.key.clone(), queued);
        drop(state);
        self.changed.notify_one();
    }

    /// Something happened: wakes the pods it may help.
    pub(crate) fn wake(&self, event: ClusterEvent) {
        let mut state = self.state.lock();
        if state.pods.is_empty() {
            return;
        }
        // One attempt is in flight at a time, and the same event twice says no more than once.
        if !state.meanwhile.contains(&event) {
            state.meanwhile.push(event);
        }
        let cares = |key: &&ObjectKey| match state.pods.get(*key).map(|q| &q.place) {
            Some(Place::Waiting { plugins, .. }) => plugins.iter().any(|p| (self.hint)(p, event)),
            _ => false,
        };
        let woken: Vec<ObjectKey> = state.waiting.values().filter(cares).cloned().collect();
        if woken.is_empty() {
            return;
        }
        for key in woken {
            if let Some(mut queued) = state.remove(&key) {
                queued.place = queued.after_backoff();
                state.insert(key, queued);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Lets pods in that may be tried now: this one, or any.
    pub(crate) fn ungate(&self, pod: Option<&ObjectKey>, may_enqueue: &dyn Fn(&PodInfo) -> bool) {
        let mut state = self.state.lock();
        let one = pod.and_then(|key| state.pods.get(key));
        let all = state.pods.values().filter(|_| pod.is_none());
        let gated = one
            .into_iter()
            .chain(all)
            .filter(|q| matches!(q.place, Place::Gated));
        let mut free: Vec<(u64, ObjectKey)> = gated
            .filter(|q| may_enqueue(&q.info))
            .map(|q| (q.order, q.info.key.clone()))
            .collect();
        if free.is_empty() {
            return;
        }
        free.sort_unstable_by_key(|(order, _)| *order);
        for (_, key) in free {
            if let Some(mut queued) = state.remove(&key) {
                queued.place = queued.after_backoff();
                state.insert(key, queued);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn nominated(&self) -> Nominated {
        Arc::clone(&self.state.lock().nominated)
    }

    /// Remembers, or with `None` forgets, the node promised to a pod.
    pub(crate) fn nominate(&self, info: &Arc<PodInfo>, node: Option<&str>) {
        let mut state = self.state.lock();
        state.denominate(info.uid());
        if let Some(node) = node {
            let nominated = Arc::make_mut(&mut state.nominated);
            nominated
                .entry_ref(node)
                .or_insert_with(Vec::new)
                .push(Arc::clone(info));
        }
    }
}

impl Queued {
    fn backoff_ends(&self) -> Instant {
        let exponent = self.attempts.saturating_sub(1).min(16);
        let backoff = FIRST_BACKOFF.saturating_mul(1 << exponent).min(LAST_BACKOFF);
        self.failed.map_or_else(Instant::now, |at| at + backoff)
    }

    fn after_backoff(&self) -> Place {
        let until = self.backoff_ends();
        if self.failed.is_none() || until <= Instant::now() {
            Place::Active
        } else {
            Place::Backoff { until, error: false }
        }
    }
}

impl State {
    fn insert(&mut self, key: ObjectKey, queued: Queued) {
        match &queued.place {
            Place::Active => {
                self.active
                    .insert((Reverse(queued.info.priority), queued.order), key.clone());
            }
            Place::Backoff { until, .. } => {
                self.backoff.insert((*until, queued.order), key.clone());
            }
            Place::Waiting { since, .. } => {
                self.waiting.insert((*since, queued.order), key.clone());
            }
            Place::Gated | Place::InFlight => {}
        }
        self.pods.insert(key, queued);
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Queued> {
        let queued = self.pods.remove(key)?;
        match &queued.place {
            Place::Active => {
                self.active.remove(&(Reverse(queued.info.priority), queued.order));
            }
            Place::Backoff { until, .. } => {
                self.backoff.remove(&(*until, queued.order));
            }
            Place::Waiting { since, .. } => {
                self.waiting.remove(&(*since, queued.order));
            }
            Place::Gated | Place::InFlight => {}
        }
        Some(queued)
    }

    fn denominate(&mut self, uid: &str) {
        if self.nominated.values().flatten().any(|p| p.uid() == uid) {
            let nominated = Arc::make_mut(&mut self.nominated);
            nominated.retain(|_, pods| {
                pods.retain(|p| p.uid() != uid);
                !pods.is_empty()
            });
        }
    }

    fn pop(&mut self) -> Option<Arc<PodInfo>> {
        self.release_due();
        let key = match self.active.first_key_value() {
            Some((_, key)) => key.clone(),
            None => self.eager_backoff()?,
        };
        let mut queued = self.remove(&key)?;
        queued.place = Place::InFlight;
        queued.attempts = queued.attempts.saturating_add(1);
        self.meanwhile.clear();
        let info = Arc::clone(&queued.info);
        self.insert(key, queued);
        Some(info)
    }

    /// The pod whose back-off ends first, among those that were woken by an event.
    fn eager_backoff(&self) -> Option<ObjectKey> {
        let mut waiting = self.backoff.values();
        waiting
            .find(|key| {
                matches!(
                    self.pods.get(*key).map(|q| &q.place),
                    Some(Place::Backoff { error: false, .. })
                )
            })
            .cloned()
    }

    /// Makes active whose back-off ended or who waited too long.
    fn release_due(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for ((until, _), key) in &self.backoff {
            if *until > now {
                break;
            }
            due.push(key.clone());
        }
        for ((since, _), key) in &self.waiting {
            if *since + WAITS_AT_MOST > now {
                break;
            }
            due.push(key.clone());
        }
        for key in due {
            if let Some(mut queued) = self.remove(&key) {
                queued.place = Place::Active;
                self.insert(key, queued);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((until, _), _)| *until);
        let flush = self
            .waiting
            .first_key_value()
            .map(|((since, _), _)| *since + WAITS_AT_MOST);
        backoff.into_iter().chain(flush).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::testing::pod;
    use serde_json::json;

    impl SchedulingQueue {
        fn len(&self) -> usize {
            self.state.lock().pods.len()
        }
    }

    fn queue() -> SchedulingQueue {
        SchedulingQueue::new(Box::new(|plugin, event| {
            plugin == "Fit" && event == ClusterEvent::PodDeleted
        }))
    }

    fn with_priority(name: &str, priority: i32) -> Arc<PodInfo> {
        pod(name, json!({}), json!({"containers": [], "priority": priority}))
    }

    async fn name(queue: &SchedulingQueue) -> String {
        queue.pop().await.key.name.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn by_priority_then_by_time() {
        let queue = queue();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(with_priority(name, priority), false, false);
        }
        queue.put(with_priority("a", 0), false, true);
        for expected in ["b", "d", "a", "c"] {
            assert_eq!(name(&queue).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_events_that_matter_wake_and_none_is_lost() {
        let queue = queue();
        queue.put(with_priority("a", 0), false, false);
        let a = queue.pop().await;
        queue.fail(&a, vec!["Fit"]);
        queue.wake(ClusterEvent::NodeAdded);
        assert!(queue.try_pop().is_none());
        queue.wake(ClusterEvent::PodDeleted);
        let a = queue.try_pop().expect("woken, and nothing else to do");
        queue.wake(ClusterEvent::PodDeleted);
        queue.fail(&a, vec!["Fit"]);
        assert!(
            queue.try_pop().is_some(),
            "the event came while the pod was in flight"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn errors_back_off_and_silence_ends_after_five_minutes() {
        let queue = queue();
        queue.put(with_priority("a", 0), false, false);
        let mut a = queue.pop().await;
        for expected in [1, 2, 4, 8, 10, 10] {
            let start = Instant::now();
            queue.fail(&a, Vec::new());
            a = queue.pop().await;
            assert_eq!(start.elapsed().as_secs(), expected);
        }
        queue.fail(&a, vec!["Fit"]);
        let start = Instant::now();
        queue.pop().await;
        assert_eq!(start.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn gated_pods_wait_for_their_gates() {
        let queue = queue();
        queue.put(with_priority("a", 0), true, false);
        assert!(queue.try_pop().is_none());
        queue.put(with_priority("a", 0), false, true);
        assert_eq!(name(&queue).await, "a");
        queue.put(with_priority("b", 0), true, false);
        queue.put(with_priority("c", 0), true, false);
        queue.ungate(Some(&ObjectKey::new("d", "c")), &|_| true);
        queue.ungate(None, &|_| false);
        assert_eq!(name(&queue).await, "c");
        assert!(queue.try_pop().is_none());
        queue.ungate(None, &|_| true);
        assert_eq!(name(&queue).await, "b");
        assert!(queue.delete(&ObjectKey::new("d", "b")) && queue.delete(&ObjectKey::new("d", "c")));
        assert!(queue.delete(&ObjectKey::new("d", "a")));
        assert_eq!(queue.len(), 0);
    }
}
