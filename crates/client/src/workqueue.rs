//! A queue of keys to look at: deduplicated, delayed, rate-limited per item; and the workers that drain it.
//!
//! * **Invariant:** an item is worked on by one worker at a time. Added while it is worked on, it comes again
//!   afterwards; added while it waits, it comes once.
//! * Failures come back after 5 ms · 2^n, at most 1000 s, as upstream's default controller rate limiter.
//!   There is no overall rate limit.
//! * A panic of one reconcile is logged, counts as a failure of that item, and nothing else happens.

use futures::FutureExt as _;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What can stand in a queue.
pub trait Item: Eq + Hash + Clone + Debug + Send + Sync + 'static {}
impl<T: Eq + Hash + Clone + Debug + Send + Sync + 'static> Item for T {}

/// What a reconcile asks for after it went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Look again after this time.
    After(Duration),
    /// Look again as after a failure, though nothing is worth a log line.
    Retry,
}

/// What a queue tells about itself, under upstream's `workqueue_*` names.
pub trait Metrics: Send + Sync {
    /// `workqueue_adds_total`, and how many items wait now: `workqueue_depth`.
    fn added(&self, queue: &'static str, depth: usize);
    /// `workqueue_queue_duration_seconds`: how long the item waited, and how many wait now.
    fn started(&self, queue: &'static str, waited: Duration, depth: usize);
    /// `workqueue_work_duration_seconds`: how long the work took.
    fn finished(&self, queue: &'static str, worked: Duration);
    /// `workqueue_retries_total`.
    fn retried(&self, queue: &'static str);
}

struct Silent;

impl Metrics for Silent {
    fn added(&self, _: &'static str, _: usize) {}
    fn started(&self, _: &'static str, _: Duration, _: usize) {}
    fn finished(&self, _: &'static str, _: Duration) {}
    fn retried(&self, _: &'static str) {}
}

/// What timers can tell apart.
const TICK: Duration = Duration::from_millis(1);
const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1000);

/// A queue; clones are the same queue.
pub struct Queue<T>(Arc<Shared<T>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<T> {
    name: &'static str,
    state: Mutex<State<T>>,
    changed: Notify,
    metrics: Arc<dyn Metrics>,
}

struct State<T> {
    ready: VecDeque<(T, Instant)>,
    /// Waiting in `ready`, or to be put there when their present work ends.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The earliest time each delayed item is due; entries of `delayed` that differ are void.
    due: HashMap<u64, T>,
    due_at: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
}

/// What became of an item that was added.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Added {
    /// It waited already.
    Already,
    /// It is worked on, and comes again afterwards.
    AfterPresentWork,
    Ready,
}

impl<T: Item> Queue<T> {
    pub fn new(name: &'static str) -> Self {
        Self::with_metrics(name, Arc::new(Silent))
    }

    pub fn with_metrics(name: &'static str, metrics: Arc<dyn Metrics>) -> Self {
        Self(Arc::new(Shared {
            name,
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                delayed: BinaryHeap::new(),
                due: HashMap::new(),
                due_at: HashMap::new(),
                sequence: 0,
                failures: HashMap::new(),
            }),
            changed: Notify::new(),
            metrics,
        }))
    }

    /// Look at the item as soon as a worker is free.
    pub fn add(&self, item: T) {
        let (added, depth) = {
            let mut state = self.0.state.lock();
            let added = state.make_ready(item);
            (added, state.ready.len())
        };
        if added == Added::Already {
            return;
        }
        self.0.metrics.added(self.0.name, depth);
        if added == Added::Ready {
            self.0.changed.notify_one();
        }
    }

    /// Look at the item after a time. Of several times the earliest holds.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let at = Instant::now() + delay;
        {
            let mut state = self.0.state.lock();
            if let Some((known, sequence)) = state.due_at.get(&item).copied() {
                if known <= at {
                    return;
                }
                state.due.remove(&sequence);
            }
            state.sequence += 1;
            let sequence = state.sequence;
            state.due.insert(sequence, item.clone());
            state.due_at.insert(item, (at, sequence));
            state.delayed.push(Reverse((at, sequence)));
        }
        self.0.changed.notify_one();
    }

    /// Look at the item again after a failure: later with every failure in a row.
    pub fn add_rate_limited(&self, item: T) {
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let exponent = (*failures).min(31);
            *failures = failures.saturating_add(1);
            FIRST_RETRY.saturating_mul(1 << exponent).min(LAST_RETRY)
        };
        self.0.metrics.retried(self.0.name);
        self.add_after(item, delay);
    }

    /// The item went well: its next failure is its first.
    pub fn forget(&self, item: &T) {
        self.0.state.lock().failures.remove(item);
    }

    /// How often the item has failed in a row.
    pub fn failures(&self, item: &T) -> u32 {
        self.0.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// How many items wait for a worker.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next item, which nobody else gets until [`Self::done`].
    pub async fn next(&self) -> T {
        loop {
            let changed = self.0.changed.notified();
            let (due, came, next, depth) = {
                let mut state = self.0.state.lock();
                let (due, came) = state.take_due();
                let next = state.ready.pop_front();
                if let Some((item, _)) = &next {
                    state.dirty.remove(item);
                    state.processing.insert(item.clone());
                }
                (due, came, next, state.ready.len())
            };
            for _ in 0..came {
                self.0.metrics.added(self.0.name, depth);
            }
            if let Some((item, since)) = next {
                self.0.metrics.started(self.0.name, since.elapsed(), depth);
                return item;
            }
            match due {
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// The work on an item ended.
    pub fn done(&self, item: &T) {
        let again = {
            let mut state = self.0.state.lock();
            state.processing.remove(item);
            let again = state.dirty.contains(item);
            if again {
                state.ready.push_back((item.clone(), Instant::now()));
            }
            again
        };
        if again {
            self.0.changed.notify_one();
        }
    }

    /// Drains the queue with at most `workers` reconciles at a time until `stop`, then waits for those under way.
    pub async fn run<F, R, E>(&self, workers: usize, stop: CancellationToken, reconcile: F)
    where
        F: Fn(T) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let reconcile = Arc::new(reconcile);
        let permits = Arc::new(Semaphore::new(workers));
        let tasks = TaskTracker::new();
        loop {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The semaphore is never closed.
                Ok(permit) = Arc::clone(&permits).acquire_owned() => permit,
            };
            let item = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                item = self.next() => item,
            };
            let queue = self.clone();
            let reconcile = Arc::clone(&reconcile);
            tasks.spawn(async move {
                let started = Instant::now();
                let result = AssertUnwindSafe(async { reconcile(item.clone()).await })
                    .catch_unwind()
                    .await;
                queue.settle(&item, result);
                queue.0.metrics.finished(queue.0.name, started.elapsed());
                queue.done(&item);
                drop(permit);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    fn settle<E: std::fmt::Display>(&self, item: &T, result: std::thread::Result<Result<Outcome, E>>) {
        match result {
            Ok(Ok(Outcome::Done)) => self.forget(item),
            Ok(Ok(Outcome::After(delay))) => {
                self.forget(item);
                // Who finds nothing to do yet and nothing left to wait for looks again a tick later: time has to pass.
                self.add_after(item.clone(), delay.max(TICK));
            }
            Ok(Ok(Outcome::Retry)) => self.add_rate_limited(item.clone()),
            Ok(Err(error)) => {
                tracing::debug!(queue = self.0.name, ?item, %error, "reconcile failed, will retry");
                self.add_rate_limited(item.clone());
            }
            Err(panic) => {
                let message = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                    .unwrap_or("unknown");
                tracing::error!(
                    queue = self.0.name,
                    ?item,
                    message,
                    "reconcile panicked, will retry"
                );
                self.add_rate_limited(item.clone());
            }
        }
    }
}

impl<T: Item> State<T> {
    fn make_ready(&mut self, item: T) -> Added {
        if !self.dirty.insert(item.clone()) {
            return Added::Already;
        }
        if self.processing.contains(&item) {
            return Added::AfterPresentWork;
        }
        self.ready.push_back((item, Instant::now()));
        Added::Ready
    }

    /// Moves what is due to `ready`; the time the next one is due, and how many were added.
    fn take_due(&mut self) -> (Option<Instant>, usize) {
        let now = Instant::now();
        let mut added = 0;
        while let Some(Reverse((at, sequence))) = self.delayed.peek().copied() {
            if at > now && self.due.contains_key(&sequence) {
                return (Some(at), added);
            }
            self.delayed.pop();
            if let Some(item) = self.due.remove(&sequence) {
                self.due_at.remove(&item);
                added += usize::from(self.make_ready(item) != Added::Already);
            }
        }
        (None, added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn an_item_waits_once_and_comes_again_if_added_while_worked_on() {
        let queue = Queue::new("test");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.len(), 1, "not given to a second worker");
        queue.done(&"a");
        assert_eq!((queue.next().await, queue.next().await), ("b", "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_holds() {
        let queue = Queue::new("test");
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 10);
        queue.done(&"a");
        let more = tokio::time::timeout(Duration::from_secs(3600), queue.next()).await;
        assert!(more.is_err(), "the other delays are void");
    }

    #[tokio::test(start_paused = true)]
    async fn time_passes_before_an_item_comes_again() {
        let queue = Queue::new("test");
        let (stop, looks) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let (stopping, counting, start) = (stop.clone(), Arc::clone(&looks), Instant::now());
        queue.add("a");
        let work = queue.run(1, stop, move |_| {
            if counting.fetch_add(1, Ordering::Relaxed) == 9 {
                stopping.cancel();
            }
            async { Ok::<_, String>(Outcome::After(Duration::ZERO)) }
        });
        work.await;
        assert_eq!(looks.load(Ordering::Relaxed), 10);
        assert!(
            start.elapsed() >= Duration::from_millis(9),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_up_to_a_limit() {
        let queue = Queue::new("test");
        let mut waited = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.next().await;
            queue.done(&"a");
            waited.push(start.elapsed().as_millis());
        }
        assert_eq!(waited[..4], [5, 10, 20, 40]);
        assert_eq!(waited[19], 1_000_000);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_of_its_item_only() {
        let queue = Queue::new("test");
        queue.add("bad");
        queue.add("good");
        let calls = Arc::new(AtomicU32::new(0));
        let stop = CancellationToken::new();
        let seen = Arc::clone(&calls);
        let end = stop.clone();
        queue
            .run(2, stop, move |item| {
                let seen = Arc::clone(&seen);
                let end = end.clone();
                async move {
                    let call = seen.fetch_add(1, Ordering::SeqCst);
                    assert!(item != "bad" || call > 1, "first time it panics");
                    if call == 2 {
                        end.cancel();
                    }
                    Ok::<_, std::convert::Infallible>(Outcome::Done)
                }
            })
            .await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }
}
