//! When a shortage is one. Pure: observations and time in, what is due out.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::Pressure;
use super::signals::{Observations, Signal};
use crate::backoff::since;

/// How much must be left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Bytes(u64),
    Percent(f64),
}

impl Amount {
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Whole numbers of percent of what a machine has fit a float.
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub least: Amount,
    /// Soft: how long it must have been met.
    pub grace: Option<Duration>,
}

impl Threshold {
    pub const fn hard(signal: Signal, least: Amount) -> Self {
        Self {
            signal,
            least,
            grace: None,
        }
    }

    pub fn is_hard(&self) -> bool {
        self.grace.is_none()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub thresholds: Vec<Threshold>,
    /// What is freed beyond a threshold once it was met.
    pub minimum_reclaim: Vec<(Signal, Amount)>,
    /// How long a condition outlasts its signal.
    pub transition: Duration,
    /// Most seconds a pod is given at a soft threshold.
    pub max_pod_grace: i64,
}

impl Default for Policy {
    /// Upstream's, but for room on disks: 10 and 15 % of a large one that is shared with other work is much, so it
    /// is 5 % as with k3s.
    fn default() -> Self {
        use Amount::{Bytes, Percent};
        Self {
            thresholds: vec![
                Threshold::hard(Signal::MemoryAvailable, Bytes(100 << 20)),
                Threshold::hard(Signal::NodeFsAvailable, Percent(5.0)),
                Threshold::hard(Signal::NodeFsInodesFree, Percent(5.0)),
                Threshold::hard(Signal::ImageFsAvailable, Percent(5.0)),
                Threshold::hard(Signal::ImageFsInodesFree, Percent(5.0)),
            ],
            minimum_reclaim: Vec::new(),
            transition: Duration::from_secs(300),
            max_pod_grace: 0,
        }
    }
}

/// What was met since when.
#[derive(Debug, Default)]
pub struct Tracker {
    /// By position in the policy.
    since: HashMap<usize, Timestamp>,
    /// Freed pods keep a threshold met until the minimum is reclaimed too.
    acting: BTreeSet<usize>,
    last_bad: HashMap<Pressure, Timestamp>,
}

impl Tracker {
    /// The thresholds something must be done about, memory first.
    pub fn observe(&mut self, policy: &Policy, observed: &Observations, now: Timestamp) -> Vec<Threshold> {
        let mut due = Vec::new();
        for (i, threshold) in policy.thresholds.iter().enumerate() {
            let reclaim = self.acting.contains(&i);
            if !met(policy, threshold, observed, reclaim) {
                self.since.remove(&i);
                self.acting.remove(&i);
                continue;
            }
            self.last_bad.insert(threshold.signal.pressure(), now);
            let begin = *self.since.entry(i).or_insert(now);
            if threshold.grace.is_none_or(|grace| since(now, begin) >= grace) {
                self.acting.insert(i);
                due.push(*threshold);
            }
        }
        due.sort_by_key(|t| t.signal);
        due
    }

    /// The conditions to show, those of the last minutes among them.
    pub fn pressures(&self, policy: &Policy, observed: &Observations, now: Timestamp) -> BTreeSet<Pressure> {
        let bad_now = policy
            .thresholds
            .iter()
            .filter(|t| met(policy, t, observed, false))
            .map(|t| t.signal.pressure());
        let lately = self
            .last_bad
            .iter()
            .filter(|(_, at)| since(now, **at) < policy.transition)
            .map(|(pressure, _)| *pressure);
        bad_now.chain(lately).collect()
    }

    pub fn still_met(&self, policy: &Policy, threshold: Threshold, observed: &Observations) -> bool {
        met(policy, &threshold, observed, true)
    }
}

fn met(policy: &Policy, threshold: &Threshold, observed: &Observations, reclaim: bool) -> bool {
    let Some(seen) = observed.get(&threshold.signal) else {
        return false;
    };
    let mut least = threshold.least.of(seen.capacity);
    if reclaim {
        let more = policy
            .minimum_reclaim
            .iter()
            .find(|(signal, _)| *signal == threshold.signal);
        least += more.map_or(0, |(_, amount)| amount.of(seen.capacity));
    }
    seen.available < least
}

#[cfg(test)]
mod tests {
    use super::super::signals::Seen;
    use super::*;

    fn memory(available: u64) -> Observations {
        Observations::from([(
            Signal::MemoryAvailable,
            Seen {
                available,
                capacity: 1000,
            },
        )])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn soft_thresholds_wait_and_conditions_linger() {
        let soft = Threshold {
            signal: Signal::MemoryAvailable,
            least: Amount::Percent(10.0),
            grace: Some(Duration::from_secs(30)),
        };
        let policy = Policy {
            thresholds: vec![soft],
            ..Policy::default()
        };
        let mut tracker = Tracker::default();
        // Time, what is left: due? under pressure?
        for (time, left, due, pressed) in [
            (0, 500, false, false),
            (10, 99, false, true),
            (20, 100, false, true),
            (30, 99, false, true),
            (59, 99, false, true),
            (60, 99, true, true),
            (70, 500, false, true),
            (360, 500, false, false),
        ] {
            let found = tracker.observe(&policy, &memory(left), at(time));
            let pressures = tracker.pressures(&policy, &memory(left), at(time));
            assert_eq!(
                (!found.is_empty(), !pressures.is_empty()),
                (due, pressed),
                "{time}"
            );
        }
    }

    #[test]
    fn more_is_reclaimed_than_the_threshold() {
        let policy = Policy {
            thresholds: vec![Threshold::hard(Signal::MemoryAvailable, Amount::Bytes(100))],
            minimum_reclaim: vec![(Signal::MemoryAvailable, Amount::Bytes(50))],
            ..Policy::default()
        };
        let mut tracker = Tracker::default();
        let mut due = |left| !tracker.observe(&policy, &memory(left), at(0)).is_empty();
        assert!(!due(120) && due(99) && due(120) && !due(150) && !due(120));
    }
}
