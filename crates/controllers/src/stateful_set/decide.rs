//! The next step of a StatefulSet: a pure function of the set, its revisions and its pods.
//!
//! Ordered sets take one step at a time, the lowest number first when growing, the highest when shrinking or
//! updating; parallel ones all at once. **Invariant:** at most one pod per number: a name is taken until its pod is
//! gone.

use super::identity::{self, is_wanted, new_pod, ordinal, revision};
use crate::int_or_percent::{Round, resolve};
use crate::pods::{self, Availability, availability};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// With its claims.
    Create(Box<Pod>),
    Delete(Arc<Pod>),
    /// Its claims may have been deleted while it waited.
    EnsureClaims(Arc<Pod>),
    Repair(Box<Pod>),
}

/// A revision: its name and its template.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revision<'a> {
    pub(super) name: &'a str,
    pub(super) template: &'a PodTemplateSpec,
}

pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) spec: &'a StatefulSetSpec,
    pub(super) current: Revision<'a>,
    pub(super) update: Revision<'a>,
    pub(super) now: Timestamp,
}

impl View<'_> {
    fn is_parallel(&self) -> bool {
        self.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        !pods::is_terminating(pod) && availability(pod, self.min_ready(), self.now) == Availability::Available
    }

    fn partition(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        rolling.and_then(|r| r.partition).unwrap_or(0)
    }

    fn is_rolling(&self) -> bool {
        let strategy = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|s| s.type_.as_deref());
        strategy != Some("OnDelete")
    }

    /// The pod to make for a number: below the partition the present revision stays.
    fn pod(&self, ordinal: i32) -> Pod {
        let first = identity::start(self.spec);
        let rolling = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        let old = self.is_rolling()
            && match rolling {
                Some(_) => ordinal < first + self.partition(),
                None => {
                    let status = self.set.status.as_ref();
                    ordinal < first + status.and_then(|s| s.current_replicas).unwrap_or(0)
                }
            };
        let of = if old { self.current } else { self.update };
        new_pod(self.set, self.spec, of.template, of.name, ordinal)
    }

    /// What to do now.
    pub(super) fn actions(&self, pods: &[Arc<Pod>]) -> Vec<Action> {
        if self.set.metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        let mut replicas: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        let mut condemned: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        for pod in pods {
            if let Some(number) = ordinal(self.set, pod) {
                let list = if is_wanted(self.spec, number) {
                    &mut replicas
                } else {
                    &mut condemned
                };
                list.insert(number, pod);
            }
        }
        let mut actions = Vec::new();
        let first = identity::start(self.spec);
        for number in first..first + self.spec.replicas.unwrap_or(1) {
            let stop = self.tend(number, replicas.get(&number).copied(), &mut actions);
            if stop && !self.is_parallel() {
                return actions;
            }
        }
        if actions.iter().any(|a| matches!(a, Action::Create(_))) {
            return actions;
        }
        let lowest_unavailable = replicas
            .values()
            .chain(condemned.values())
            .find(|p| !self.is_available(p))
            .and_then(|p| p.metadata.uid.as_deref());
        for pod in condemned.values().rev() {
            let is_it = pod.metadata.uid.as_deref() == lowest_unavailable;
            let blocked = pods::is_terminating(pod) || (!self.is_available(pod) && !is_it);
            match (self.is_parallel(), blocked) {
                (false, true) => return actions,
                (true, _) if pods::is_terminating(pod) => {}
                _ => {
                    actions.push(Action::Delete(Arc::clone(pod)));
                    if !self.is_parallel() {
                        return actions;
                    }
                }
            }
        }
        self.roll(&replicas, &mut actions);
        actions
    }

    /// Looks after one number; whether an ordered set has to wait for it.
    fn tend(&self, number: i32, pod: Option<&Arc<Pod>>, actions: &mut Vec<Action>) -> bool {
        let Some(pod) = pod else {
            actions.push(Action::Create(Box::new(self.pod(number))));
            return true;
        };
        if pods::is_finished(pod) {
            if !pods::is_terminating(pod) {
                actions.push(Action::Delete(Arc::clone(pod)));
            }
            return true;
        }
        if pods::phase(pod) == "Pending"
            && self
                .spec
                .volume_claim_templates
                .as_ref()
                .is_some_and(|t| !t.is_empty())
        {
            actions.push(Action::EnsureClaims(Arc::clone(pod)));
        }
        if !self.is_parallel() && !self.is_available(pod) {
            return true;
        }
        actions.extend(identity::repaired(self.set, pod).map(|p| Action::Repair(Box::new(p))));
        false
    }

    /// Takes pods of earlier revisions down, the highest number first, as many at a time as may be missing.
    fn roll(&self, replicas: &BTreeMap<i32, &Arc<Pod>>, actions: &mut Vec<Action>) {
        if !self.is_rolling() {
            return;
        }
        let rolling = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        let limit = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
            Some(value) => resolve(Some(value), self.spec.replicas.unwrap_or(1), Round::Down).max(1),
            None => 1,
        };
        let missing = replicas.values().filter(|p| !self.is_available(p)).count();
        let room = usize::try_from(limit).unwrap_or(1).saturating_sub(missing);
        let first = identity::start(self.spec) + self.partition();
        let outdated = replicas.range(first..).rev().map(|(_, pod)| *pod);
        let outdated = outdated.filter(|p| revision(p) != self.update.name && !pods::is_terminating(p));
        actions.extend(outdated.take(room).map(|p| Action::Delete(Arc::clone(p))));
    }

    /// The status, and when to look again because a pod becomes available by time alone.
    pub(super) fn status(&self, pods: &[Arc<Pod>], collisions: i32) -> (StatefulSetStatus, Option<Duration>) {
        let mut next: Option<Duration> = None;
        let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
        for pod in pods.iter().filter(|p| ordinal(self.set, p).is_some()) {
            replicas += 1;
            let running = pods::phase(pod) == "Running";
            match availability(pod, self.min_ready(), self.now) {
                Availability::In(left) if running => {
                    ready += 1;
                    next = Some(next.map_or(left, |n| n.min(left)));
                }
                Availability::Available if running => {
                    ready += 1;
                    available += 1;
                }
                _ => {}
            }
            if !pods::is_terminating(pod) {
                current += i32::from(revision(pod) == self.current.name);
                updated += i32::from(revision(pod) == self.update.name);
            }
        }
        let wanted = self.spec.replicas.unwrap_or(1);
        let done = self.is_rolling() && updated == wanted && ready == wanted && replicas == wanted;
        let current_name = if done { self.update.name } else { self.current.name };
        let status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: Some(ready),
            available_replicas: Some(available),
            current_replicas: Some(if done { updated } else { current }),
            updated_replicas: Some(updated),
            current_revision: Some(current_name.to_owned()),
            update_revision: Some(self.update.name.to_owned()),
            collision_count: Some(collisions),
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
        };
        (status, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A set on paper whose pods appear and disappear as the actions say.
    struct Paper {
        set: StatefulSet,
        pods: Vec<Arc<Pod>>,
        /// Names and templates; the last is the update's.
        revisions: Vec<(String, PodTemplateSpec)>,
    }

    impl Paper {
        fn new(spec: Value) -> Self {
            let mut set = json!({"metadata": {"name": "db", "namespace": "d", "uid": "s"}, "spec": spec});
            set["spec"]["selector"] = json!({});
            set["spec"]["template"] = json!({});
            Self {
                set: serde_json::from_value(set).expect("set"),
                pods: Vec::new(),
                revisions: vec![("r1".to_owned(), PodTemplateSpec::default())],
            }
        }

        fn view<R>(&self, with: impl FnOnce(&View<'_>) -> R) -> R {
            let name = self.set.status.as_ref().and_then(|s| s.current_revision.clone());
            let last = self.revisions.last().expect("a revision");
            let current = self
                .revisions
                .iter()
                .find(|(n, _)| Some(n) == name.as_ref())
                .unwrap_or(last);
            let revision = |r: &'_ (String, PodTemplateSpec)| (r.0.clone(), r.1.clone());
            let (current, update) = (revision(current), revision(last));
            with(&View {
                set: &self.set,
                spec: self.set.spec.as_ref().expect("spec"),
                current: Revision {
                    name: &current.0,
                    template: &current.1,
                },
                update: Revision {
                    name: &update.0,
                    template: &update.1,
                },
                now: Timestamp::UNIX_EPOCH,
            })
        }

        /// One step; what was done.
        fn step(&mut self) -> String {
            let actions = self.view(|v| v.actions(&self.pods));
            let mut words = Vec::new();
            for action in actions {
                match action {
                    Action::Create(pod) => {
                        let name = pod.metadata.name.clone().unwrap_or_default();
                        assert!(
                            !self.pods.iter().any(|p| p.metadata.name == pod.metadata.name),
                            "one pod per name"
                        );
                        words.push(format!("+{}", name.trim_start_matches("db-")));
                        self.pods.push(Arc::from(pod));
                    }
                    Action::Delete(gone) => {
                        let name = gone.metadata.name.clone().unwrap_or_default();
                        words.push(format!("-{}", name.trim_start_matches("db-")));
                        self.pods.retain(|p| p.metadata.name != gone.metadata.name);
                    }
                    Action::EnsureClaims(_) | Action::Repair(_) => {}
                }
            }
            let status = self.view(|v| v.status(&self.pods, 0).0);
            self.set.status = Some(status);
            words.join(" ")
        }

        fn make_ready(&mut self, which: impl Fn(&str) -> bool) {
            for pod in &mut self.pods {
                let ready = if which(pod.metadata.name.as_deref().unwrap_or("")) {
                    "True"
                } else {
                    "False"
                };
                let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
                let pod = Arc::make_mut(pod);
                pod.metadata.uid.clone_from(&pod.metadata.name);
                pod.status = Some(serde_json::from_value(status).expect("status"));
            }
        }

        /// Every step until nothing happens, all pods becoming ready in between.
        fn settle(&mut self) -> String {
            let mut all = Vec::new();
            for _ in 0..50 {
                let step = self.step();
                self.make_ready(|_| true);
                if step.is_empty() && self.step().is_empty() {
                    return all.join(", ");
                }
                all.push(step);
            }
            panic!("never settles: {all:?}");
        }

        fn spec(&mut self) -> &mut StatefulSetSpec {
            self.set.spec.as_mut().expect("spec")
        }
    }

    #[test]
    fn ordered_sets_grow_shrink_and_update_one_by_one() {
        let mut paper = Paper::new(json!({"replicas": 3}));
        assert_eq!(paper.settle(), "+0, +1, +2");
        paper
            .revisions
            .push(("r2".to_owned(), PodTemplateSpec::default()));
        assert_eq!(paper.settle(), "-2, +2, -1, +1, -0, +0");
        let status = paper.set.status.clone().expect("status");
        assert_eq!(
            (status.current_revision.as_deref(), status.current_replicas),
            (Some("r2"), Some(3))
        );
        paper.spec().replicas = Some(1);
        assert_eq!(paper.settle(), "-2, -1");
    }

    #[test]
    fn an_unready_pod_holds_up_the_others() {
        let mut paper = Paper::new(json!({"replicas": 3}));
        assert_eq!(paper.step(), "+0");
        paper.make_ready(|_| false);
        assert_eq!(paper.step(), "");
        paper.settle();
        paper.make_ready(|name| name != "db-1");
        paper
            .revisions
            .push(("r2".to_owned(), PodTemplateSpec::default()));
        assert_eq!(paper.step(), "", "one is missing already");
        paper.make_ready(|_| true);
        assert_eq!(paper.step(), "-2");
    }

    #[test]
    fn parallel_sets_do_all_at_once_but_update_within_limits() {
        let mut paper = Paper::new(json!({"replicas": 4, "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2, "partition": 1}}}));
        assert_eq!(paper.settle(), "+0 +1 +2 +3");
        paper
            .revisions
            .push(("r2".to_owned(), PodTemplateSpec::default()));
        assert_eq!(
            paper.settle(),
            "-3 -2, +2 +3, -1, +1",
            "number 0 is below the partition"
        );
        paper.spec().replicas = Some(1);
        assert_eq!(paper.settle(), "-3 -2 -1");
    }

    #[test]
    fn numbers_may_start_anywhere_and_ended_pods_are_replaced() {
        let mut paper = Paper::new(json!({"replicas": 2, "ordinals": {"start": 5}}));
        assert_eq!(paper.settle(), "+5, +6");
        let failed = Arc::make_mut(&mut paper.pods[0]);
        failed.status.get_or_insert_default().phase = Some("Failed".to_owned());
        assert_eq!(paper.step(), "-5");
        assert_eq!(paper.settle(), "+5");
        paper.spec().update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).ok();
        paper
            .revisions
            .push(("r2".to_owned(), PodTemplateSpec::default()));
        assert_eq!(paper.settle(), "");
    }
}
