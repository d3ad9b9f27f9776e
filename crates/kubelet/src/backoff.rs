//! Exponential back-off per key, judged against the moment of the last failure.
//!
//! Follows upstream's `flowcontrol.Backoff` without jitter: ten seconds, doubling up to five minutes, forgotten
//! when the thing has been well for twice the maximum.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

pub const INITIAL: Duration = Duration::from_secs(10);
pub const MAXIMUM: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct Backoff<K> {
    initial: Duration,
    maximum: Duration,
    entries: Mutex<HashMap<K, Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

impl<K: Hash + Eq> Backoff<K> {
    pub fn new(initial: Duration, maximum: Duration) -> Self {
        Self {
            initial,
            maximum,
            entries: Mutex::default(),
        }
    }

    /// The present delay of `key`; zero when it has none.
    pub fn delay(&self, key: &K) -> Duration {
        self.entries.lock().get(key).map_or(Duration::ZERO, |e| e.delay)
    }

    /// Takes note of another failure that happened at `event`.
    pub fn next(&self, key: K, event: Timestamp, now: Timestamp) {
        let mut entries = self.entries.lock();
        let delay = match entries.get(&key) {
            Some(entry) if !self.expired(entry, event) => (entry.delay * 2).min(self.maximum),
            _ => self.initial,
        };
        entries.insert(key, Entry { delay, updated: now });
    }

    /// Whether `key`, which failed at `event`, must still wait at `now`; until when if so.
    pub fn waiting_since(&self, key: &K, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entries = self.entries.lock();
        let entry = entries.get(key)?;
        if self.expired(entry, event) {
            return None;
        }
        let until = plus(event, entry.delay);
        (now < until).then_some(until)
    }

    /// Whether `key` must still wait at `now`, counted from its last failure.
    pub fn waiting(&self, key: &K, now: Timestamp) -> Option<Timestamp> {
        let entries = self.entries.lock();
        let entry = entries.get(key)?;
        if self.expired(entry, now) {
            return None;
        }
        let until = plus(entry.updated, entry.delay);
        (now < until).then_some(until)
    }

    pub fn forget(&self, key: &K) {
        self.entries.lock().remove(key);
    }

    /// Drops what has been well for long.
    pub fn collect(&self, now: Timestamp) {
        self.entries
            .lock()
            .retain(|_, entry| !expired(entry, now, self.maximum));
    }

    fn expired(&self, entry: &Entry, event: Timestamp) -> bool {
        expired(entry, event, self.maximum)
    }
}

fn expired(entry: &Entry, event: Timestamp, maximum: Duration) -> bool {
    plus(entry.updated, maximum * 2) < event
}

/// `at` later by `by`; the end of time when that is past it.
pub fn plus(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

/// How long from `earlier` to `later`; zero when the order is the other.
pub fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn doubles_to_five_minutes_and_forgets_after_ten() {
        let backoff = Backoff::new(INITIAL, MAXIMUM);
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..7 {
            assert_eq!(backoff.waiting_since(&"c", at(now), at(now + 300)), None);
            backoff.next("c", at(now), at(now));
            delays.push(backoff.delay(&"c").as_secs());
            now += 300;
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let last = now - 300;
        assert_eq!(
            backoff.waiting_since(&"c", at(last), at(last + 299)),
            Some(at(last + 300))
        );
        // Well for more than twice the maximum: from the start again.
        backoff.next("c", at(last + 601), at(last + 601));
        assert_eq!(backoff.delay(&"c"), INITIAL);
    }
}
