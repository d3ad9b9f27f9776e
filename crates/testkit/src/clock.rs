//! A wall clock that can be set, over timers that cannot.

use jiff::{SignedDuration, Timestamp};
use machinery::clock::Clock;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::time::Instant;

/// Moves with tokio's (pausable) time, and jumps when told to, as a machine's clock does when it is set.
#[derive(Debug)]
pub(crate) struct WallClock {
    base: Timestamp,
    start: Instant,
    /// How far it has been set forward, in milliseconds.
    set: AtomicI64,
}

impl WallClock {
    /// Starts at `base`. Must be called inside a tokio runtime.
    pub(crate) fn starting_at(base: Timestamp) -> Self {
        Self {
            base,
            start: Instant::now(),
            set: AtomicI64::new(0),
        }
    }

    /// Sets the clock forward, or back when negative.
    pub(crate) fn jump(&self, by: SignedDuration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(0);
        self.set.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let set = SignedDuration::from_millis(self.set.load(Ordering::Relaxed));
        let passed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        // A test lasts hours, far from the ends of jiff's range.
        self.base
            .saturating_add(passed.saturating_add(set))
            .unwrap_or(Timestamp::MAX)
    }
}
