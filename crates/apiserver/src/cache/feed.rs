//! Fan-out of events to many watchers: one queue a group of watchers, shared, with a cursor a watcher.
//!
//! An event stays in the queue until every watcher of the group has taken it, so a watcher costs a cursor and
//! no memory of its own. A watcher that falls more than [`CAPACITY`] events behind is told so and is closed by
//! its owner; the others never wait for it.
//!
//! **Invariant:** `slots[i].unseen` is the number of receivers whose cursor is at or before slot `i`.

use super::event::Event;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// How far a watcher may fall behind.
pub(super) const CAPACITY: usize = 10_000;

/// One group's queue.
#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: VecDeque<Slot>,
    /// The sequence number of the first slot.
    base: u64,
    receivers: u32,
    waiting: Vec<Option<Waker>>,
    free: Vec<usize>,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    event: Arc<Event>,
    unseen: u32,
}

/// Why a receiver gets nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The watcher was too slow.
    Lagged,
    /// The cache started over.
    Closed,
}

impl Feed {
    /// A receiver of everything pushed from now on.
    pub(super) fn subscribe(self: &Arc<Self>) -> Receiver {
        let mut state = self.state.lock();
        state.receivers += 1;
        let next = state.base + state.slots.len() as u64;
        let id = state.free.pop().unwrap_or_else(|| {
            state.waiting.push(None);
            state.waiting.len() - 1
        });
        drop(state);
        Receiver {
            feed: Arc::clone(self),
            next,
            id,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.state.lock().receivers == 0
    }

    /// Queues an event; nobody is woken yet.
    pub(super) fn push(&self, event: &Arc<Event>) {
        let mut state = self.state.lock();
        if state.receivers == 0 {
            return;
        }
        let unseen = state.receivers;
        state.slots.push_back(Slot {
            event: Arc::clone(event),
            unseen,
        });
        if state.slots.len() > CAPACITY {
            state.slots.pop_front();
            state.base += 1;
        }
    }

    /// Wakes whoever waits.
    pub(super) fn wake(&self) {
        let mut state = self.state.lock();
        let wakers: Vec<Waker> = state.waiting.iter_mut().filter_map(Option::take).collect();
        drop(state);
        for waker in wakers {
            waker.wake();
        }
    }

    /// Ends every receiver.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake();
    }
}

/// A watcher's place in a [`Feed`].
#[derive(Debug)]
pub(super) struct Receiver {
    feed: Arc<Feed>,
    next: u64,
    id: usize,
}

impl Receiver {
    /// Takes up to `most` events.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Poll<Result<(), Ended>> {
        let mut state = self.feed.state.lock();
        if self.next < state.base {
            return Poll::Ready(Err(Ended::Lagged));
        }
        // Less than the capacity, so it fits.
        let start = (self.next - state.base) as usize;
        let end = (start + most).min(state.slots.len());
        if start == end {
            if state.closed {
                return Poll::Ready(Err(Ended::Closed));
            }
            let place = &mut state.waiting[self.id];
            if !place.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *place = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        for slot in state.slots.range_mut(start..end) {
            slot.unseen -= 1;
            out.push(Arc::clone(&slot.event));
        }
        self.next += (end - start) as u64;
        state.trim();
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn trim(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.unseen == 0) {
            self.slots.pop_front();
            self.base += 1;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.feed.state.lock();
        let start = self.next.saturating_sub(state.base) as usize;
        let len = state.slots.len();
        for slot in state.slots.range_mut(start.min(len)..) {
            slot.unseen -= 1;
        }
        state.receivers -= 1;
        state.waiting[self.id] = None;
        state.free.push(self.id);
        state.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Change, Entry, Meta};
    use super::*;
    use bytes::Bytes;

    fn event(revision: u64) -> Arc<Event> {
        let entry = Entry::new(Bytes::new(), Meta::default(), revision, 1, Bytes::new());
        Arc::new(Event::new(Change::Modified, Arc::new(entry), None))
    }

    fn take(receiver: &mut Receiver) -> Result<Vec<u64>, Ended> {
        let mut out = Vec::new();
        match receiver.poll_take(&mut Context::from_waker(Waker::noop()), usize::MAX / 2, &mut out) {
            Poll::Ready(Err(ended)) => Err(ended),
            _ => Ok(out.iter().map(|e| e.revision()).collect()),
        }
    }

    #[tokio::test]
    async fn events_stay_until_all_have_them_and_the_slow_fall_off() {
        let feed = Arc::new(Feed::default());
        feed.push(&event(1));
        let (mut quick, mut slow) = (feed.subscribe(), feed.subscribe());
        feed.push(&event(2));
        assert_eq!(take(&mut quick), Ok(vec![2]), "what came before is not seen");
        assert_eq!(feed.state.lock().slots.len(), 1);
        assert_eq!(take(&mut slow), Ok(vec![2]));
        assert_eq!(feed.state.lock().slots.len(), 0);
        for revision in 0..=CAPACITY as u64 {
            feed.push(&event(revision));
            assert_eq!(take(&mut quick), Ok(vec![revision]));
        }
        assert_eq!(take(&mut slow), Err(Ended::Lagged));
        drop(slow);
        assert_eq!(feed.state.lock().slots.len(), 0);
        feed.push(&event(9));
        feed.close();
        assert_eq!(take(&mut quick), Ok(vec![9]));
        assert_eq!(take(&mut quick), Err(Ended::Closed));
        drop(quick);
        assert!(feed.is_unused());
    }
}
