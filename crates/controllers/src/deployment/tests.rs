//! Whole rollouts on paper: the plan is carried out on a list of sets, the sets' pods come and go.

use super::annotations::{REVISION, number};
use super::decide::{Plan, decide};
use super::view::{actual, available, is_of_template, replicas};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

struct Paper {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
    born: i64,
}

impl Paper {
    fn new(spec: Value) -> Self {
        let mut deployment =
            json!({"metadata": {"name": "d", "namespace": "x", "uid": "u", "generation": 1}, "spec": spec});
        deployment["spec"]["selector"] = json!({"matchLabels": {"app": "a"}});
        deployment["spec"]["progressDeadlineSeconds"] = json!(600);
        deployment["spec"]["revisionHistoryLimit"] = json!(1);
        let mut paper = Self {
            deployment: serde_json::from_value(deployment).expect("deployment"),
            sets: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            born: 0,
        };
        paper.template("1");
        paper
    }

    fn template(&mut self, image: &str) {
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        let spec = self.deployment.spec.get_or_insert_default();
        spec.template = serde_json::from_value(template).expect("template");
    }

    /// One look; whether it led to anything.
    fn step(&mut self) -> bool {
        let spec = self.deployment.spec.clone().expect("spec");
        let sets = self.sets.clone();
        let run = |new: Option<&ReplicaSet>| {
            let others = sets
                .iter()
                .filter(|s| new.is_none_or(|n| n.metadata.name != s.metadata.name));
            others.map(|s| actual(s)).sum::<i32>() > 0
        };
        let plan = decide(&self.deployment, &spec, self.sets.clone(), run, self.now);
        self.carry_out(plan)
    }

    fn carry_out(&mut self, plan: Plan) -> bool {
        let mut changed = false;
        if let Some(mut set) = plan.create {
            self.born += 1;
            set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.born).expect("time")));
            set.metadata.generation = Some(1);
            self.sets.push(Arc::new(*set));
            changed = true;
        }
        for update in plan.updates {
            let at = self
                .sets
                .iter()
                .position(|s| s.metadata.name == update.set.metadata.name)
                .expect("known set");
            self.sets[at] = Arc::new(update.set);
            changed = true;
        }
        for gone in plan.deletes {
            self.sets.retain(|s| s.metadata.name != gone.metadata.name);
            changed = true;
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_owned(), revision);
            changed = true;
        }
        if let Some(status) = plan.status {
            changed |= super::status::differs(self.deployment.status.as_ref(), &status);
            self.deployment.status = Some(status);
        }
        changed
    }

    /// The sets' pods follow; those of `healthy` templates become available.
    fn pods(&mut self, healthy: bool) -> bool {
        let mut changed = false;
        for set in &mut self.sets {
            let new = is_of_template(set, &self.deployment.spec.as_ref().expect("spec").template);
            let size = replicas(set);
            let fine = if healthy || !new {
                size
            } else {
                available(set).min(size)
            };
            let generation = set.metadata.generation;
            let status = ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(fine),
                available_replicas: Some(fine),
                observed_generation: generation,
                ..ReplicaSetStatus::default()
            };
            if set.status.as_ref() != Some(&status) {
                Arc::make_mut(set).status = Some(status);
                changed = true;
            }
        }
        changed
    }

    fn totals(&self) -> (i32, i32) {
        let sum = |of: fn(&ReplicaSet) -> i32| self.sets.iter().map(|s| of(s)).sum();
        (sum(replicas), sum(available))
    }

    /// Until nothing moves, with a check after every look.
    fn settle(&mut self, healthy: bool, check: impl Fn(&Self)) {
        for _ in 0..500 {
            let moved = self.step();
            check(self);
            if !moved && !self.pods(healthy) {
                return;
            }
        }
        panic!("never settles: {:?}", self.shape());
    }

    fn shape(&self) -> Vec<i32> {
        self.sets.iter().map(|s| replicas(s)).collect()
    }

    fn condition(&self, kind: &str) -> String {
        let status = self.deployment.status.clone().unwrap_or_default();
        let found = super::status::find(&status, kind)
            .cloned()
            .unwrap_or_else(|| panic!("{kind}"));
        format!("{} {}", found.status, found.reason.unwrap_or_default())
    }
}

fn rolling(replicas: i32, surge: Value, unavailable: Value) -> Value {
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    json!({"replicas": replicas, "strategy": strategy, "template": {}})
}

#[test]
fn a_rolling_update_keeps_its_limits_and_ends() {
    for (count, surge, unavailable) in [(1, 1, 0), (3, 1, 1), (10, 3, 2), (10, 0, 1), (5, 5, 0), (4, 0, 4)] {
        let mut paper = Paper::new(rolling(count, json!(surge), json!(unavailable)));
        paper.settle(true, |_| {});
        assert_eq!(paper.shape(), [count]);
        assert_eq!(paper.condition("Available"), "True MinimumReplicasAvailable");
        for (version, revision) in [("2", "2"), ("3", "3")] {
            paper.template(version);
            paper.settle(true, |p| {
                let (size, available) = p.totals();
                assert!(size <= count + surge, "{:?}", p.shape());
                // Pods of a set that shrank are gone at once on paper.
                let kept: i32 = p
                    .sets
                    .iter()
                    .map(|s| super::view::available(s).min(replicas(s)))
                    .sum();
                assert!(
                    kept >= count - unavailable.max(i32::from(surge == 0)),
                    "{:?} {available}",
                    p.shape()
                );
            });
            assert_eq!(paper.condition("Progressing"), "True NewReplicaSetAvailable");
            assert_eq!(
                paper
                    .deployment
                    .metadata
                    .annotations
                    .as_ref()
                    .expect("annotations")[REVISION],
                revision
            );
        }
        assert_eq!(paper.sets.len(), 2, "one old set is kept");
        // Back to the kept one: its revision becomes the highest.
        paper.template("2");
        paper.settle(true, |_| {});
        assert_eq!(
            paper
                .deployment
                .metadata
                .annotations
                .as_ref()
                .expect("annotations")[REVISION],
            "4"
        );
        assert_eq!(paper.sets.len(), 2);
    }
}

#[test]
fn a_stuck_update_keeps_the_old_pods_and_times_out() {
    let mut paper = Paper::new(rolling(4, json!(1), json!(0)));
    paper.settle(true, |_| {});
    paper.template("broken");
    paper.settle(false, |p| assert!(p.totals().1 >= 4));
    assert_eq!(paper.shape(), [4, 1]);
    paper.now = Timestamp::from_second(601).expect("time");
    paper.settle(false, |_| {});
    assert_eq!(paper.condition("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(paper.condition("Available"), "True MinimumReplicasAvailable");
}

#[test]
fn scaling_while_stuck_is_in_proportion() {
    let mut paper = Paper::new(rolling(10, json!(3), json!(2)));
    paper.settle(true, |_| {});
    paper.template("broken");
    paper.settle(false, |_| {});
    assert_eq!(paper.shape(), [8, 5]);
    paper.deployment.spec.as_mut().expect("spec").replicas = Some(15);
    paper.step();
    assert_eq!(paper.shape(), [11, 7]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut paper = Paper::new(json!({"replicas": 3, "strategy": {"type": "Recreate"}, "template": {}}));
    paper.settle(true, |_| {});
    paper.template("2");
    paper.settle(true, |p| {
        let busy = p.sets.iter().filter(|s| replicas(s).max(actual(s)) > 0).count();
        assert!(busy <= 1, "{:?}", p.shape());
    });
    assert_eq!(paper.shape(), [0, 3]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut paper = Paper::new(rolling(2, json!(1), json!(0)));
    paper.settle(true, |_| {});
    paper.template("2");
    let spec = paper.deployment.spec.as_mut().expect("spec");
    (spec.paused, spec.replicas) = (Some(true), Some(5));
    paper.settle(true, |_| {});
    assert_eq!(paper.shape(), [5]);
    assert_eq!(
        number(&paper.sets[0], "deployment.kubernetes.io/desired-replicas"),
        Some(5)
    );
    assert_eq!(paper.condition("Progressing"), "Unknown DeploymentPaused");
    paper.deployment.spec.as_mut().expect("spec").paused = Some(false);
    paper.settle(true, |_| {});
    assert_eq!(paper.shape(), [0, 5]);
}

/// What may happen between two looks at a deployment.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Look,
    PodsFollow,
    /// Those of the present template do not become available.
    PodsAreStuck,
    Template(u8),
    Pause(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => Just(Happening::Look),
        3 => Just(Happening::PodsFollow),
        1 => Just(Happening::PodsAreStuck),
        1 => (0u8..4).prop_map(Happening::Template),
        1 => any::<bool>().prop_map(Happening::Pause),
    ]
}

fn share() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0i32..6).prop_map(Value::from),
        (0i32..=100).prop_map(|p| json!(format!("{p}%")))
    ]
}

/// Upstream's rounding: a surge up, what may be missing down; and one of the two is never zero.
fn limits(count: i32, surge: &Value, unavailable: &Value) -> (i32, i32) {
    let of = |value: &Value, up: bool| match value.as_str().and_then(|t| t.strip_suffix('%')) {
        Some(percent) => {
            let part = percent.parse::<i32>().expect("a number") * count;
            if up { (part + 99) / 100 } else { part / 100 }
        }
        None => i32::try_from(value.as_i64().expect("a number")).expect("small"),
    };
    match (of(surge, true), of(unavailable, false)) {
        (0, 0) => (0, 1),
        found => found,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_order_of_events_breaks_the_limits_of_a_rollout(
        count in 0i32..12,
        surge in share(),
        unavailable in share(),
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let (most, missing) = limits(count, &surge, &unavailable);
        let mut paper = Paper::new(rolling(count, surge, unavailable));
        paper.settle(true, |_| {});
        for happens in happenings {
            match happens {
                Happening::Look => drop(paper.step()),
                Happening::PodsFollow => drop(paper.pods(true)),
                Happening::PodsAreStuck => drop(paper.pods(false)),
                Happening::Template(version) => paper.template(&version.to_string()),
                Happening::Pause(paused) => paper.deployment.spec.as_mut().expect("spec").paused = Some(paused),
            }
            let size: i32 = paper.sets.iter().map(|s| replicas(s)).sum();
            prop_assert!(size <= count + most, "{:?} of {count}+{most}", paper.shape());
            let kept: i32 = paper.sets.iter().map(|s| available(s).min(replicas(s))).sum();
            prop_assert!(kept >= count - missing, "{kept} {:?} of {count}-{missing}", paper.shape());
        }
        paper.deployment.spec.as_mut().expect("spec").paused = Some(false);
        paper.settle(true, |_| {});
        let template = paper.deployment.spec.as_ref().expect("spec").template.clone();
        for set in &paper.sets {
            let wanted = if is_of_template(set, &template) { count } else { 0 };
            prop_assert_eq!(replicas(set), wanted);
        }
    }
}
