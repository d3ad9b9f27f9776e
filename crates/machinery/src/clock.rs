//! Wall time that is handed in, so that a whole control plane can run on a virtual clock.
//!
//! Timers are tokio's and follow `tokio::time::pause`; [`VirtualClock`] follows the same pause, so
//! timers and wall time never drift apart in a test.

use jiff::Timestamp;
use std::fmt::Debug;
use tokio::time::Instant;

/// Where wall time comes from. Everything that writes or compares a timestamp is given one.
pub trait Clock: Send + Sync + Debug + 'static {
    /// The present moment, with sub-second precision.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that starts at a chosen moment and moves with tokio's (pausable) time.
#[derive(Debug, Clone, Copy)]
pub struct VirtualClock {
    base: Timestamp,
    start: Instant,
}

impl VirtualClock {
    /// Starts at `base`. Must be called inside a tokio runtime.
    pub fn starting_at(base: Timestamp) -> Self {
        Self {
            base,
            start: Instant::now(),
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        // A test runs for simulated hours, far from the ends of jiff's range, so saturating never happens.
        self.base
            .saturating_add(
                jiff::SignedDuration::try_from(self.start.elapsed()).unwrap_or(jiff::SignedDuration::MAX),
            )
            .unwrap_or(Timestamp::MAX)
    }
}
