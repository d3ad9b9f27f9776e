//! One probe of one container as a state machine without clock or network.
//!
//! Follows upstream's `prober/worker.go`: results count only in unbroken runs of the thresholds' length; a
//! failed liveness probe and any ended startup probe hold until the container is another one; a container taken
//! over from an earlier kubelet keeps what was said about it until the first probe.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;

use super::results::{Outcome, ProbeKind};
use crate::backoff::{plus, since};

const TAKEN_OVER: SignedDuration = SignedDuration::from_secs(10);

/// What is known of the container when the machine is asked.
#[derive(Clone, Debug)]
pub struct View {
    /// The pod has ended.
    pub ended: bool,
    pub deleting: bool,
    /// Empty while there is none.
    pub container_id: String,
    pub running_since: Option<Timestamp>,
    /// Over, and will not start again.
    pub over: bool,
    pub started: bool,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Probe,
    /// Ask again at this time, or when the view changes.
    At(Timestamp),
    /// Ask again when the view changes.
    Hold,
    Stop,
}

/// A result to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub container_id: String,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub struct Machine {
    kind: ProbeKind,
    sidecar: bool,
    period: Duration,
    initial_delay: Duration,
    failure_threshold: u32,
    success_threshold: u32,
    kubelet_started: Timestamp,
    container_id: String,
    on_hold: bool,
    last: Option<Outcome>,
    run: u32,
    due: Timestamp,
}

impl Machine {
    pub fn new(kind: ProbeKind, spec: &Probe, sidecar: bool, kubelet_started: Timestamp) -> Self {
        let seconds = |value: Option<i32>, otherwise: i32| {
            Duration::from_secs(u64::try_from(value.filter(|v| *v > 0).unwrap_or(otherwise)).unwrap_or(0))
        };
        let count = |value: Option<i32>, otherwise: u32| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(otherwise)
        };
        Self {
            kind,
            sidecar,
            period: seconds(spec.period_seconds, 10),
            initial_delay: seconds(spec.initial_delay_seconds, 0),
            failure_threshold: count(spec.failure_threshold, 3),
            success_threshold: count(spec.success_threshold, 1),
            kubelet_started,
            container_id: String::new(),
            on_hold: false,
            last: None,
            run: 0,
            due: Timestamp::MIN,
        }
    }

    /// The container whose results are published, if any.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// Looks at the container: what to publish at once, and what to do.
    pub fn look(&mut self, view: &View, now: Timestamp) -> (Option<Publish>, Step) {
        if view.ended {
            return (None, Step::Stop);
        }
        if view.container_id.is_empty() {
            return (None, Step::Hold);
        }
        let mut publish = None;
        if self.container_id != view.container_id {
            self.container_id.clone_from(&view.container_id);
            self.on_hold = false;
            self.last = None;
            self.run = 0;
            self.due = Timestamp::MIN;
            publish = self.first_outcome(view);
        }
        let Some(running_since) = view.running_since else {
            let step = if view.over { Step::Stop } else { Step::Hold };
            return (self.publish(Outcome::Failure), step);
        };
        if self.on_hold {
            return (publish, Step::Hold);
        }
        if view.deleting && self.kind != ProbeKind::Readiness {
            return (self.publish(Outcome::Success), Step::Stop);
        }
        if view.started == (self.kind == ProbeKind::Startup) {
            // A startup probe is for what has not started, the others for what has.
            return (publish, Step::Hold);
        }
        let due = self.due.max(plus(running_since, self.initial_delay));
        if now < due {
            return (publish, Step::At(due));
        }
        (publish, Step::Probe)
    }

    /// A probe has ended.
    pub fn done(&mut self, outcome: Outcome, now: Timestamp) -> Option<Publish> {
        self.due = plus(now, self.period);
        if self.last == Some(outcome) {
            self.run += 1;
        } else {
            self.last = Some(outcome);
            self.run = 1;
        }
        let enough = match outcome {
            Outcome::Failure => self.failure_threshold,
            Outcome::Success => self.success_threshold,
            Outcome::Unknown => 1,
        };
        if self.run < enough {
            return None;
        }
        let failed_liveness = self.kind == ProbeKind::Liveness && outcome == Outcome::Failure;
        if failed_liveness || self.kind == ProbeKind::Startup {
            self.on_hold = true;
            self.run = 0;
        }
        self.publish(outcome)
    }

    /// A probe could not be made: neither a result nor an end of the run.
    pub fn failed_to_run(&mut self, now: Timestamp) {
        self.due = plus(now, self.period);
    }

    /// Readiness is asked for before its time, because something about the container changed.
    pub fn hurry(&mut self) {
        self.due = Timestamp::MIN;
    }

    fn first_outcome(&self, view: &View) -> Option<Publish> {
        let before = self
            .kubelet_started
            .checked_sub(TAKEN_OVER)
            .unwrap_or(Timestamp::MIN);
        if view.running_since.is_some_and(|since| since < before) {
            let known = self.kind == ProbeKind::Startup && self.sidecar && view.started;
            return known.then(|| self.publish(Outcome::Success)).flatten();
        }
        self.publish(self.kind.initial())
    }

    fn publish(&self, outcome: Outcome) -> Option<Publish> {
        Some(Publish {
            container_id: self.container_id.clone(),
            outcome,
        })
    }

    /// How long from `now` until `at`.
    pub fn wait(at: Timestamp, now: Timestamp) -> Duration {
        since(at, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + s).unwrap()
    }

    fn machine(kind: ProbeKind, spec: Value) -> Machine {
        Machine::new(kind, &serde_json::from_value(spec).unwrap(), false, at(0))
    }

    fn running(id: &str, since: i64, started: bool) -> View {
        View {
            ended: false,
            deleting: false,
            container_id: id.into(),
            running_since: Some(at(since)),
            over: false,
            started,
        }
    }

    #[test]
    fn thresholds_and_hold() {
        let mut m = machine(
            ProbeKind::Liveness,
            json!({"failureThreshold": 2, "periodSeconds": 5}),
        );
        let view = running("a", 0, true);
        let (publish, step) = m.look(&view, at(1));
        assert_eq!((publish.unwrap().outcome, step), (Outcome::Success, Step::Probe));
        assert_eq!(m.done(Outcome::Failure, at(1)), None);
        assert_eq!(m.look(&view, at(2)), (None, Step::At(at(6))));
        assert_eq!(m.look(&view, at(6)), (None, Step::Probe));
        assert_eq!(m.done(Outcome::Failure, at(6)).unwrap().outcome, Outcome::Failure);
        assert_eq!(
            m.look(&view, at(20)),
            (None, Step::Hold),
            "until the container is another"
        );
        let (publish, step) = m.look(&running("b", 20, true), at(20));
        assert_eq!((publish.unwrap().outcome, step), (Outcome::Success, Step::Probe));
    }

    #[test]
    fn a_success_breaks_the_run() {
        let mut m = machine(
            ProbeKind::Readiness,
            json!({"failureThreshold": 2, "successThreshold": 2}),
        );
        m.look(&running("a", 0, true), at(1));
        let results = [
            Outcome::Failure,
            Outcome::Success,
            Outcome::Failure,
            Outcome::Success,
            Outcome::Success,
        ];
        let published: Vec<_> = results
            .iter()
            .map(|r| m.done(*r, at(1)).map(|p| p.outcome))
            .collect();
        assert_eq!(published, [None, None, None, None, Some(Outcome::Success)]);
    }

    #[test]
    fn startup_comes_first_and_delays_count_from_the_start() {
        let mut startup = machine(ProbeKind::Startup, json!({"initialDelaySeconds": 7}));
        let mut liveness = machine(ProbeKind::Liveness, json!({}));
        let view = running("a", 0, false);
        assert_eq!(startup.look(&view, at(1)).1, Step::At(at(7)));
        assert_eq!(liveness.look(&view, at(1)).1, Step::Hold);
        assert_eq!(startup.look(&view, at(7)).1, Step::Probe);
        assert_eq!(
            startup.done(Outcome::Success, at(7)).unwrap().outcome,
            Outcome::Success
        );
        assert_eq!(startup.look(&running("a", 0, true), at(8)).1, Step::Hold);
        assert_eq!(liveness.look(&running("a", 0, true), at(8)).1, Step::Probe);
    }

    #[test]
    fn ends() {
        let mut m = machine(ProbeKind::Readiness, json!({}));
        let mut view = running("a", 0, true);
        view.running_since = None;
        assert_eq!(m.look(&view, at(1)).1, Step::Hold);
        view.over = true;
        let (publish, step) = m.look(&view, at(1));
        assert_eq!((publish.unwrap().outcome, step), (Outcome::Failure, Step::Stop));
        let mut m = machine(ProbeKind::Liveness, json!({}));
        let mut view = running("a", 0, true);
        view.deleting = true;
        assert_eq!(m.look(&view, at(1)).1, Step::Stop);
    }

    #[test]
    fn a_container_taken_over_is_not_judged_before_its_first_probe() {
        let mut m = machine(ProbeKind::Readiness, json!({}));
        assert_eq!(m.look(&running("a", -60, true), at(1)), (None, Step::Probe));
    }
}
