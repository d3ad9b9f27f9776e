//! What was so a moment ago, for judging those who cannot have heard of the present yet.
//!
//! A component acts on what its watches have told it. Whatever happened within [`STALE`] may still be unknown to it, and
//! is no breach of a promise: a pod whose node fell silent a second ago is no reason against deleting another one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How old at most a component's knowledge is: a stalled watch, a refused list, slow requests in a row.
pub(super) const STALE: Duration = Duration::from_secs(60);

/// A number through time, by name.
#[derive(Debug, Default)]
pub(super) struct Tracks(BTreeMap<String, VecDeque<(Duration, i64)>>);

impl Tracks {
    pub(super) fn set(&mut self, name: &str, at: Duration, value: i64) {
        let track = self.0.entry(name.to_owned()).or_default();
        if track.back().is_none_or(|(_, last)| *last != value) {
            track.push_back((at, value));
        }
        while track.get(1).is_some_and(|(next, _)| *next + STALE < at) {
            track.pop_front();
        }
    }

    /// All values somebody may take for the present one.
    pub(super) fn recent(&self, name: &str, at: Duration) -> impl Iterator<Item = i64> {
        let track = self.0.get(name);
        let track = move || track.into_iter().flatten();
        let first = track()
            .filter(move |(since, _)| *since + STALE < at)
            .count()
            .saturating_sub(1);
        track().skip(first).map(|(_, value)| *value)
    }
}

/// Moments, by name.
#[derive(Debug, Default)]
pub(super) struct Moments(BTreeMap<String, VecDeque<Duration>>);

impl Moments {
    pub(super) fn note(&mut self, name: &str, at: Duration) {
        let moments = self.0.entry(name.to_owned()).or_default();
        moments.push_back(at);
        while moments.front().is_some_and(|first| *first + STALE < at) {
            moments.pop_front();
        }
    }

    /// How many there were that somebody may not know of.
    pub(super) fn recent(&self, name: &str, at: Duration) -> i64 {
        let moments = self.0.get(name).into_iter().flatten();
        let count = moments.filter(|moment| **moment + STALE >= at).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recent() {
        let second = Duration::from_secs;
        let mut tracks = Tracks::default();
        for (at, value) in [(0, 5), (10, 3), (100, 8)] {
            tracks.set("a", second(at), value);
        }
        let recent = |at| tracks.recent("a", second(at)).collect::<Vec<_>>();
        assert_eq!(recent(110), [3, 8]);
        assert_eq!(recent(161), [8]);
        let mut moments = Moments::default();
        [1, 50, 100]
            .into_iter()
            .for_each(|at| moments.note("a", second(at)));
        assert_eq!(moments.recent("a", second(110)), 2);
        assert_eq!(moments.recent("b", second(110)), 0);
    }
}
