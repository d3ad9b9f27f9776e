//! From what the metrics ask for to what is done: stabilised over time, held within rates and bounds.
//!
//! A memory of the last recommendations and changes is kept per autoscaler, as upstream in the process only: a restart
//! forgets it, and the window begins anew.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Recommendations to go lower are believed after so many seconds, unless the behaviour says otherwise.
const DOWNSCALE_STABILIZATION: i32 = 300;

/// What was recommended and done lately.
#[derive(Debug, Default)]
pub(super) struct Memory {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// A condition's reason and message, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

/// The number to scale to, with what `AbleToScale` and `ScalingLimited` say about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    pub(super) able: Word,
    pub(super) limited: Word,
}

/// What bounds a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) min: i32,
    pub(super) max: i32,
}

impl Memory {
    /// The first look remembers what there is, so that a restart does not scale down at once.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Remembers a change that was made.
    pub(super) fn scaled(
        &mut self,
        from: i32,
        to: i32,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let longest = [&behavior.scale_up, &behavior.scale_down]
            .into_iter()
            .flatten()
            .flat_map(|rules| rules.policies.iter().flatten())
            .map(|policy| policy.period_seconds)
            .max()
            .unwrap_or(0);
        let list = if to > from { &mut self.ups } else { &mut self.downs };
        list.retain(|(at, _)| *at > ago(now, longest));
        list.push((now, (to - from).abs()));
    }

    pub(super) fn normalize(
        &mut self,
        wanted: i32,
        bounds: Bounds,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        now: Timestamp,
    ) -> Normalized {
        let (stable, reason, message) = match behavior {
            None => self.stabilize(wanted, now),
            Some(behavior) => self.stabilize_both_ways(wanted, bounds.current, behavior, now),
        };
        let able = if stable == wanted {
            word(true, "ReadyForNewScale", "recommended size matches current size")
        } else {
            word(true, reason, message)
        };
        let (replicas, reason, message) = match behavior {
            None => limit(stable, bounds),
            Some(behavior) => self.limit_rates(stable, bounds, behavior, now),
        };
        Normalized {
            replicas,
            able,
            limited: word(replicas != stable, reason, message),
        }
    }

    fn stabilize(&mut self, wanted: i32, now: Timestamp) -> (i32, &'static str, &'static str) {
        let cutoff = ago(now, DOWNSCALE_STABILIZATION);
        self.recommendations.retain(|(at, _)| *at >= cutoff);
        let highest = self.recommendations.iter().map(|(_, n)| *n).max();
        self.recommendations.push((now, wanted));
        (
            highest.map_or(wanted, |h| h.max(wanted)),
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )
    }

    fn stabilize_both_ways(
        &mut self,
        wanted: i32,
        current: i32,
        behavior: &HorizontalPodAutoscalerBehavior,
        now: Timestamp,
    ) -> (i32, &'static str, &'static str) {
        let window = |rules: &Option<HPAScalingRules>, default| {
            let seconds = rules.as_ref().and_then(|r| r.stabilization_window_seconds);
            ago(now, seconds.unwrap_or(default))
        };
        let up = window(&behavior.scale_up, 0);
        let down = window(&behavior.scale_down, DOWNSCALE_STABILIZATION);
        let recent = |since: Timestamp| {
            self.recommendations
                .iter()
                .filter(move |(at, _)| *at > since)
                .map(|(_, n)| *n)
        };
        let lowest = recent(up).min().map_or(wanted, |n| n.min(wanted));
        let highest = recent(down).max().map_or(wanted, |n| n.max(wanted));
        let stable = current.max(lowest).min(highest);
        let oldest = up.min(down);
        self.recommendations.retain(|(at, _)| *at >= oldest);
        self.recommendations.push((now, wanted));
        if wanted >= current {
            (
                stable,
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
        } else {
            (
                stable,
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        }
    }

    fn limit_rates(
        &self,
        wanted: i32,
        bounds: Bounds,
        behavior: &HorizontalPodAutoscalerBehavior,
        now: Timestamp,
    ) -> (i32, &'static str, &'static str) {
        let Bounds { current, min, max } = bounds;
        if wanted > current {
            let rate = self
                .reach(current, behavior.scale_up.as_ref(), true, now)
                .max(current);
            let most = max.min(rate);
            if wanted > most {
                return if max > rate {
                    (most, "ScaleUpLimit", TOO_FAST_UP)
                } else {
                    (most, "TooManyReplicas", TOO_MANY)
                };
            }
        } else if wanted < current {
            let rate = self
                .reach(current, behavior.scale_down.as_ref(), false, now)
                .min(current);
            let least = min.max(rate);
            if wanted < least {
                return if min < rate {
                    (least, "ScaleDownLimit", TOO_FAST_DOWN)
                } else {
                    (least, "TooFewReplicas", TOO_FEW)
                };
            }
        }
        (wanted, "DesiredWithinRange", WITHIN)
    }

    /// How far the policies let the number go now.
    fn reach(&self, current: i32, rules: Option<&HPAScalingRules>, up: bool, now: Timestamp) -> i32 {
        let Some(rules) = rules else { return current };
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let changed = |list: &[(Timestamp, i32)], seconds: i32| -> i32 {
            let since = ago(now, seconds);
            list.iter().filter(|(at, _)| *at > since).map(|(_, n)| n).sum()
        };
        let reaches = rules.policies.iter().flatten().map(|policy| {
            let began = current - changed(&self.ups, policy.period_seconds)
                + changed(&self.downs, policy.period_seconds);
            let share = f64::from(policy.value) / 100.0;
            match (policy.type_.as_str(), up) {
                ("Percent", true) => rounded((f64::from(began) * (1.0 + share)).ceil()),
                ("Percent", false) => rounded((f64::from(began) * (1.0 - share)).trunc()),
                (_, true) => began.saturating_add(policy.value),
                (_, false) => began.saturating_sub(policy.value),
            }
        });
        // The greatest change is the highest number on the way up and the lowest on the way down.
        let highest = (select == "Min") != up;
        let found = if highest { reaches.max() } else { reaches.min() };
        found.unwrap_or(current)
    }
}

const TOO_FAST_UP: &str = "the desired replica count is increasing faster than the maximum scale rate";
const TOO_FAST_DOWN: &str = "the desired replica count is decreasing faster than the maximum scale rate";
const TOO_MANY: &str = "the desired replica count is more than the maximum replica count";
const TOO_FEW: &str = "the desired replica count is less than the minimum replica count";
const WITHIN: &str = "the desired count is within the acceptable range";

fn limit(wanted: i32, bounds: Bounds) -> (i32, &'static str, &'static str) {
    let rate = bounds.current.saturating_mul(2).max(4);
    let most = bounds.max.min(rate);
    if wanted < bounds.min {
        (bounds.min, "TooFewReplicas", TOO_FEW)
    } else if wanted > most && bounds.max > rate {
        (most, "ScaleUpLimit", TOO_FAST_UP)
    } else if wanted > most {
        (most, "TooManyReplicas", TOO_MANY)
    } else {
        (wanted, "DesiredWithinRange", WITHIN)
    }
}

/// The whole number nearest to zero beyond which `i32` does not reach; numbers of pods are far below.
pub(super) fn rounded(number: f64) -> i32 {
    // Saturates.
    number as i32
}

fn ago(now: Timestamp, seconds: i32) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(i64::from(seconds)))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

fn word(holds: bool, reason: &'static str, message: &'static str) -> Word {
    Word {
        holds,
        reason,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("time")
    }

    const BOUNDS: Bounds = Bounds {
        current: 3,
        min: 1,
        max: 20,
    };

    #[test]
    fn without_behaviour_going_down_waits_and_going_up_doubles() {
        let mut memory = Memory::default();
        memory.begin(3, at(0));
        let up = memory.normalize(10, BOUNDS, None, at(15));
        assert_eq!((up.replicas, up.limited.reason), (6, "ScaleUpLimit"));
        let down = memory.normalize(1, BOUNDS, None, at(30));
        assert_eq!(down.able.reason, "ScaleDownStabilized");
        let later = memory.normalize(1, BOUNDS, None, at(400));
        assert_eq!((later.replicas, later.able.reason), (1, "ReadyForNewScale"));
        let below = memory.normalize(0, BOUNDS, None, at(800));
        assert_eq!((below.replicas, below.limited.reason), (1, "TooFewReplicas"));
    }

    #[test]
    fn behaviour_says_how_fast() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"}}))
        .expect("behaviour");
        let mut memory = Memory::default();
        let up = memory.normalize(10, BOUNDS, Some(&behavior), at(0));
        assert_eq!((up.replicas, up.limited.reason), (5, "ScaleUpLimit"));
        memory.scaled(3, 5, Some(&behavior), at(0));
        let bounds = Bounds { current: 5, ..BOUNDS };
        let again = memory.normalize(10, bounds, Some(&behavior), at(30));
        assert_eq!(again.replicas, 5, "the minute's two are used up");
        let next = memory.normalize(10, bounds, Some(&behavior), at(61));
        assert_eq!(next.replicas, 7);
        let down = memory.normalize(1, bounds, Some(&behavior), at(70));
        assert_eq!((down.replicas, down.limited.reason), (5, "ScaleDownLimit"));
    }
}
