//! A priority level: its seats, and the queues before them.

use machinery::{Value, meta};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a request waits: a quarter of what it may take, as upstream.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The level does not queue.
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

/// All levels, for borrowing. They know each other, and keep nobody alive by it.
#[derive(Clone, Default)]
pub(super) struct Levels(Arc<RwLock<Vec<Weak<Level>>>>);

impl Levels {
    pub(super) fn set<'a>(&self, levels: impl Iterator<Item = &'a Arc<Level>>) {
        *self.0.write() = levels.map(Arc::downgrade).collect();
    }

    /// Seats that others have idle and lend, and seats that are borrowed already.
    fn to_lend(&self, but: &Level) -> (usize, usize) {
        let (mut idle, mut borrowed) = (0, 0);
        for level in self.0.read().iter().filter_map(Weak::upgrade) {
            borrowed += level.borrowed.load(Ordering::Relaxed);
            if !std::ptr::eq(&raw const *level, but) {
                idle += level.idle.load(Ordering::Relaxed);
            }
        }
        (idle, borrowed)
    }
}

#[derive(Default)]
pub(super) struct Level {
    state: Mutex<State>,
    others: RwLock<Levels>,
    uid: RwLock<Arc<str>>,
    /// Seats that are free and lent.
    idle: AtomicUsize,
    /// Seats taken above the level's own.
    borrowed: AtomicUsize,
}

#[derive(Default)]
struct State {
    exempt: bool,
    seats: usize,
    lendable: usize,
    /// `None`: as many as there are.
    may_borrow: Option<usize>,
    taken: usize,
    waiting: usize,
    queues: Vec<VecDeque<oneshot::Sender<Seat>>>,
    hand: usize,
    queue_length: usize,
    /// The queue whose turn it is.
    next: usize,
}

/// A running request's right to run.
pub struct Seat(Option<Arc<Level>>);

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seat")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.leave();
        }
    }
}

/// The shares of all seats a level has.
pub(super) fn shares(level: &Value) -> i64 {
    let of = |kind: &str| {
        level
            .get_path(&["spec", kind, "nominalConcurrencyShares"])
            .and_then(Value::as_i64)
    };
    of("limited").or_else(|| of("exempt")).unwrap_or(0)
}

impl Level {
    pub(super) fn uid(&self) -> Arc<str> {
        Arc::clone(&self.uid.read())
    }

    pub(super) fn join(&self, levels: &Levels) {
        *self.others.write() = levels.clone();
    }

    pub(super) fn configure(&self, object: &Value, seats: usize) {
        *self.uid.write() = meta::uid(object).into();
        let number = |path: &[&str]| {
            object
                .get_path(path)
                .and_then(Value::as_i64)
                .and_then(|number| usize::try_from(number).ok())
        };
        let limited = |field: &str| number(&["spec", "limited", field]);
        let queuing = |field: &str| number(&["spec", "limited", "limitResponse", "queuing", field]);
        let queues = object.get_str_path(&["spec", "limited", "limitResponse", "type"]) == Some("Queue");
        let mut state = self.state.lock();
        state.exempt = object.get_str_path(&["spec", "type"]) == Some("Exempt");
        state.seats = seats;
        state.lendable = seats * limited("lendablePercent").unwrap_or(0).min(100) / 100;
        state.may_borrow = limited("borrowingLimitPercent").map(|percent| seats * percent / 100);
        state.hand = queuing("handSize").unwrap_or(8).max(1);
        state.queue_length = queuing("queueLengthLimit").unwrap_or(50);
        let count = if queues {
            queuing("queues").unwrap_or(64).max(1)
        } else {
            0
        };
        // Queues are only made, never taken away from who waits in them.
        let count = count.max(if state.waiting > 0 { state.queues.len() } else { 0 });
        state.queues.resize_with(count, VecDeque::new);
        self.publish(&state);
    }

    /// Waits for a seat; `None` where none is needed.
    pub(super) async fn enter(self: &Arc<Self>, flow: (&str, &str)) -> Result<Option<Seat>, Rejection> {
        let waiting = {
            let mut state = self.state.lock();
            if state.exempt {
                return Ok(None);
            }
            if state.waiting == 0 && self.has_room(&state) {
                state.taken += 1;
                self.publish(&state);
                drop(state);
                return Ok(Some(Seat(Some(Arc::clone(self)))));
            }
            state.enqueue(flow)?
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(seat)) => Ok(Some(seat)),
            // The queue is gone only with the level, and then nobody waits for it.
            Ok(Err(_)) | Err(_) => Err(Rejection::TimeOut),
        }
    }

    fn has_room(&self, state: &State) -> bool {
        if state.taken < state.seats {
            return true;
        }
        let above = state.taken - state.seats;
        if state.may_borrow.is_some_and(|most| above >= most) {
            return false;
        }
        let (idle, borrowed) = self.others.read().to_lend(self);
        idle > borrowed
    }

    fn publish(&self, state: &State) {
        let free = state.seats.saturating_sub(state.taken).min(state.lendable);
        self.idle.store(free, Ordering::Relaxed);
        let above = state.taken.saturating_sub(state.seats);
        self.borrowed.store(above, Ordering::Relaxed);
    }

    fn leave(self: &Arc<Self>) {
        let mut free = 1;
        // A seat offered to somebody who has gone comes back at once, and goes to the next.
        while free > 0 {
            let offered = {
                let mut state = self.state.lock();
                state.taken = state.taken.saturating_sub(free);
                free = 0;
                let waiter = if self.has_room(&state) {
                    state.dequeue()
                } else {
                    None
                };
                if waiter.is_some() {
                    state.taken += 1;
                }
                self.publish(&state);
                waiter
            };
            let Some(waiter) = offered else { return };
            if let Err(mut seat) = waiter.send(Seat(Some(Arc::clone(self)))) {
                seat.0 = None;
                free = 1;
            }
        }
    }
}

impl State {
    fn enqueue(&mut self, flow: (&str, &str)) -> Result<oneshot::Receiver<Seat>, Rejection> {
        if self.queues.is_empty() {
            return Err(Rejection::ConcurrencyLimit);
        }
        for queue in &mut self.queues {
            let before = queue.len();
            queue.retain(|waiter| !waiter.is_closed());
            self.waiting -= before - queue.len();
        }
        let dealt = deal(flow, self.queues.len(), self.hand);
        let shortest = dealt.into_iter().min_by_key(|queue| self.queues[*queue].len());
        let Some(queue) = shortest.filter(|queue| self.queues[*queue].len() < self.queue_length) else {
            return Err(Rejection::QueueFull);
        };
        let (sender, receiver) = oneshot::channel();
        self.queues[queue].push_back(sender);
        self.waiting += 1;
        Ok(receiver)
    }

    /// The first of the queue whose turn it is.
    fn dequeue(&mut self) -> Option<oneshot::Sender<Seat>> {
        for _ in 0..self.queues.len() {
            let at = self.next % self.queues.len();
            self.next = at + 1;
            if let Some(waiter) = self.queues[at].pop_front() {
                self.waiting -= 1;
                return Some(waiter);
            }
        }
        None
    }
}

/// The queues a flow is dealt: always the same, and seldom all those of another flow.
fn deal(flow: (&str, &str), queues: usize, hand: usize) -> Vec<usize> {
    let mut entropy = BuildHasherDefault::<DefaultHasher>::default().hash_one(flow);
    let mut cards: Vec<usize> = (0..queues).collect();
    let mut dealt = Vec::with_capacity(hand);
    while dealt.len() < hand && !cards.is_empty() {
        let left = cards.len() as u64;
        // Less than the number of cards, which is a usize.
        dealt.push(cards.swap_remove((entropy % left) as usize));
        entropy /= left;
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::super::super::admission::plugins::testing::object;
    use super::*;

    fn level(spec: &str, seats: usize) -> Arc<Level> {
        let level = Arc::<Level>::default();
        let text = format!(r#"{{"metadata":{{"uid":"u"}},"spec":{{"type":"Limited","limited":{spec}}}}}"#);
        level.configure(&object(&text), seats);
        level
    }

    const QUEUE: &str = r#"{"lendablePercent":50,"borrowingLimitPercent":0,"limitResponse":{"type":"Queue","queuing":{"queues":4,"handSize":1,"queueLengthLimit":2}}}"#;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_seat_waits_its_turn() {
        let level = level(QUEUE, 1);
        let first = level.enter(("s", "a")).await.unwrap();
        let mut waiting = Vec::new();
        for flow in ["loud", "loud", "loud"] {
            let level = Arc::clone(&level);
            waiting.push(tokio::spawn(
                async move { level.enter(("s", flow)).await.map(|_| ()) },
            ));
            tokio::task::yield_now().await;
        }
        // Two wait in the flow's one queue; there is no room for a third.
        assert_eq!(waiting.pop().unwrap().await.unwrap(), Err(Rejection::QueueFull));
        drop(first);
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(()));
        }
        assert_eq!(level.state.lock().taken, 0);
        let _kept = level.enter(("s", "a")).await.unwrap();
        assert_eq!(level.enter(("s", "b")).await.map(|_| ()), Err(Rejection::TimeOut));
    }

    #[tokio::test]
    async fn a_level_without_queues_turns_away() {
        let level = level(
            r#"{"borrowingLimitPercent":0,"limitResponse":{"type":"Reject"}}"#,
            1,
        );
        let _kept = level.enter(("s", "a")).await.unwrap();
        assert_eq!(
            level.enter(("s", "a")).await.map(|_| ()),
            Err(Rejection::ConcurrencyLimit)
        );
    }

    #[tokio::test]
    async fn idle_seats_are_lent() {
        let lender = level(QUEUE, 4);
        let borrower = level(r#"{"limitResponse":{"type":"Reject"}}"#, 1);
        let all = Levels::default();
        all.set([&lender, &borrower].into_iter());
        lender.join(&all);
        borrower.join(&all);
        let mut taken = Vec::new();
        while let Ok(seat) = borrower.enter(("s", "a")).await {
            taken.push(seat);
        }
        assert_eq!(taken.len(), 1 + 2, "its own, and half of the lender's");
        // The lender has its own seats whatever it lent.
        for _ in 0..4 {
            taken.push(lender.enter(("s", "b")).await.unwrap());
        }
        drop(taken);
        assert_eq!(borrower.state.lock().taken + lender.state.lock().taken, 0);
    }

    #[tokio::test]
    async fn who_gave_up_takes_no_seat() {
        let level = level(QUEUE, 1);
        let first = level.enter(("s", "a")).await.unwrap();
        {
            let gone = level.enter(("s", "b"));
            tokio::pin!(gone);
            assert!(futures::poll!(&mut gone).is_pending());
        }
        drop(first);
        assert_eq!(level.state.lock().taken, 0);
        assert!(level.enter(("s", "c")).await.is_ok());
    }
}
