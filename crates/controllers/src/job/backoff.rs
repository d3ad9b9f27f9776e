//! How long after a failure the next pod of a job may be made: 10 s, doubling, at most 10 min.
//!
//! Counted from the pods themselves: the failures since the last success. A restart of the controller forgets
//! nothing that the pods still say.

use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(600);

/// When the pod's last container ended, or what comes closest to that.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let ends = containers.into_iter().flatten().map(|c| {
        let ended = c.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|t| t.0)
    });
    let ends: Option<Vec<Timestamp>> = ends.collect();
    let of_containers = ends.and_then(|e| e.into_iter().max());
    let not_ready = || {
        let ready = pods::condition(pod, "Ready").filter(|c| c.status == "False")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    };
    let deleted = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        at.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    of_containers
        .or_else(not_ready)
        .or_else(deleted)
        .or(created)
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// How long to wait yet, after these failures in a row, the last of which was then.
pub(super) fn remaining(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let exponent = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
    let backoff = FIRST.saturating_mul(1 << exponent).min(LAST);
    let backoff = SignedDuration::try_from(backoff).unwrap_or(SignedDuration::MAX);
    Duration::try_from(backoff - now.duration_since(last)).unwrap_or(Duration::ZERO)
}

/// How long to wait yet for a job with these ended pods.
pub(super) fn of_job(succeeded: &[&Arc<Pod>], failed: &[&Arc<Pod>], now: Timestamp) -> Duration {
    let last_success = succeeded.iter().map(|p| finished_at(p)).max();
    let failures: Vec<Timestamp> = failed
        .iter()
        .map(|p| finished_at(p))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let last = failures.iter().max().copied().unwrap_or(now);
    remaining(failures.len(), last, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles() {
        let at = |second: i64| Timestamp::from_second(second).expect("time");
        for (failures, now, expected) in [
            (0, 0, 0),
            (1, 0, 10),
            (1, 4, 6),
            (2, 0, 20),
            (3, 41, 0),
            (9, 0, 600),
        ] {
            assert_eq!(
                remaining(failures, at(0), at(now)).as_secs(),
                expected,
                "{failures} {now}"
            );
        }
    }
}
