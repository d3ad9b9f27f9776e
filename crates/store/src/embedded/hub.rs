//! Who watches what, and handing them what happened.
//!
//! The writer pushes each record into the queues of the watches it concerns, and wakes only
//! those. A queue is bounded: a watch that does not keep up loses its queue's new end, is marked as
//! lagging from a revision, and reads on from history (`feed`) until it has caught up. So a
//! writer never waits for a watch, and a watch that stands still costs a bounded queue.
//!
//! **Invariant:** a queue holds whole commits, so whole revisions, without a gap from `next` of its feed on.
//! **Invariant:** whoever holds the hub's lock sees `published` equal to the index's revision.

use super::record::Record;
use crate::KeyRange;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Hub {
    watched: Mutex<Watched>,
    published: AtomicI64,
    queue_records: usize,
    queue_bytes: usize,
}

/// Watches of one range share the matching. There is about one range per resource, so looking at each
/// is quicker than any tree.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    ranges: Vec<(KeyRange, Vec<Arc<Watcher>>)>,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Watcher {
    queue: Mutex<Queue>,
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    records: Vec<Arc<Record>>,
    bytes: usize,
    /// Records before this revision were seen or are not wanted.
    first: i64,
    /// Everything up to this revision is in the queue or was taken from it.
    up_to: i64,
    /// Not fed; has to read history from this revision on.
    lagging_from: Option<i64>,
    progress_asked: bool,
    closed: bool,
}

/// What a watch finds in its queue.
#[derive(Debug)]
pub(crate) enum Taken {
    Records { records: Vec<Arc<Record>>, up_to: i64 },
    Progress { up_to: i64 },
    Lagging { from: i64 },
    Nothing,
    Closed,
}

impl Hub {
    pub(crate) fn new(published: i64, queue_records: usize, queue_bytes: usize) -> Self {
        Self {
            watched: Mutex::default(),
            published: AtomicI64::new(published),
            queue_records,
            queue_bytes,
        }
    }

    /// Keeps commits from being published, and waits for one that is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock()
    }

    /// Hands one commit to the watches, which must already be in the index.
    pub(crate) fn publish(&self, watched: &mut Watched, records: &[Arc<Record>], revision: i64) {
        for (range, watchers) in &watched.ranges {
            let concerned: Vec<_> = records
                .iter()
                .filter(|record| range.contains(&record.key))
                .collect();
            if !concerned.is_empty() {
                for watcher in watchers {
                    watcher.push(&concerned, revision, self.queue_records, self.queue_bytes);
                }
            }
        }
        self.published.store(revision, Ordering::Release);
    }

    /// Starts a watch at a revision. Nothing once the hub is closed.
    pub(crate) fn register(&self, range: &KeyRange, from: i64, progress_asked: bool) -> Option<Arc<Watcher>> {
        let mut watched = self.watched.lock();
        if watched.closed {
            return None;
        }
        let published = self.published.load(Ordering::Acquire);
        let from = if from > 0 { from } else { published + 1 };
        let lagging_from = (from <= published).then_some(from);
        let queue = Queue {
            first: from,
            up_to: from - 1,
            lagging_from,
            progress_asked,
            ..Queue::default()
        };
        let watcher = Arc::new(Watcher {
            queue: Mutex::new(queue),
            changed: Notify::new(),
        });
        match watched.ranges.iter_mut().find(|(known, _)| known == range) {
            Some((_, watchers)) => watchers.push(watcher.clone()),
            None => watched.ranges.push((range.clone(), vec![watcher.clone()])),
        }
        Some(watcher)
    }

    pub(crate) fn unregister(&self, range: &KeyRange, watcher: &Arc<Watcher>) {
        let mut watched = self.watched.lock();
        let Some(place) = watched.ranges.iter().position(|(known, _)| known == range) else {
            return;
        };
        let watchers = &mut watched.ranges[place].1;
        watchers.retain(|known| !Arc::ptr_eq(known, watcher));
        if watchers.is_empty() {
            watched.ranges.swap_remove(place);
        }
    }

    /// A lagging watch has read history up to `up_to`. True if nothing has happened since, and it is fed again.
    pub(crate) fn resume(&self, watcher: &Watcher, up_to: i64) -> bool {
        let _watched = self.watched.lock();
        let mut queue = watcher.queue.lock();
        queue.up_to = up_to.max(queue.up_to);
        let caught_up = up_to >= self.published.load(Ordering::Acquire);
        queue.lagging_from = (!caught_up).then_some(up_to + 1);
        caught_up
    }

    /// Asks one watch to say how far it is.
    pub(crate) fn ask_progress(&self, watcher: &Watcher) {
        // With the lock, a revision that anybody has seen is in the queues it concerns.
        let watched = self.watched.lock();
        watcher.queue.lock().progress_asked = true;
        drop(watched);
        watcher.changed.notify_one();
    }

    pub(crate) fn take(&self, watcher: &Watcher) -> Taken {
        // Read first: records pushed later are beyond it, those up to it are in the queue.
        let published = self.published.load(Ordering::Acquire);
        let mut queue = watcher.queue.lock();
        if !queue.records.is_empty() {
            let fed = queue.lagging_from.is_none();
            let up_to = if fed {
                queue.up_to.max(published)
            } else {
                queue.up_to
            };
            queue.bytes = 0;
            queue.progress_asked &= !fed;
            return Taken::Records {
                records: std::mem::take(&mut queue.records),
                up_to,
            };
        }
        if queue.closed {
            return Taken::Closed;
        }
        if let Some(from) = queue.lagging_from {
            return Taken::Lagging { from };
        }
        if std::mem::take(&mut queue.progress_asked) {
            return Taken::Progress {
                up_to: queue.up_to.max(published),
            };
        }
        Taken::Nothing
    }

    /// Ends every watch, after what is in its queue.
    pub(crate) fn close(&self) {
        let mut watched = self.watched.lock();
        watched.closed = true;
        for watcher in watched.ranges.drain(..).flat_map(|(_, watchers)| watchers) {
            watcher.queue.lock().closed = true;
            watcher.changed.notify_one();
        }
    }
}

impl Watcher {
    /// Adds what concerns it of one commit, or marks it as lagging.
    fn push(&self, records: &[&Arc<Record>], revision: i64, most_records: usize, most_bytes: usize) {
        let mut queue = self.queue.lock();
        if queue.lagging_from.is_some() {
            return;
        }
        let wanted: Vec<_> = records
            .iter()
            .filter(|record| record.revision() >= queue.first)
            .collect();
        let Some(first) = wanted.first() else { return };
        let bytes: usize = wanted.iter().map(|record| record.weight()).sum();
        let full = queue.records.len() + wanted.len() > most_records || queue.bytes + bytes > most_bytes;
        if full && !queue.records.is_empty() {
            queue.lagging_from = Some(first.revision());
            return;
        }
        queue.bytes += bytes;
        queue
            .records
            .extend(wanted.into_iter().map(|record| Arc::clone(record)));
        queue.up_to = revision;
        drop(queue);
        self.changed.notify_one();
    }
}
