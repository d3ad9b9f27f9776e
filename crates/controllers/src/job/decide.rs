//! The next step of a job: a pure function of the job, its pods and the time.
//!
//! ```text
//!   pod ended ─► its uid is written into status.uncounted ─► its finalizer goes ─► it is counted, its uid leaves
//! ```
//!
//! **Invariant:** a pod is counted exactly once: its uid is in the status before its finalizer goes, and leaves only
//! after. A terminal condition comes only when nothing is uncounted and no pod is terminating.

use super::policy::{self, Failure};
use super::{backoff, indexes};
use crate::pods::{is_active, is_finished, is_ready, is_terminating, phase};
use crate::replicaset::decide::least_worth;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const MAX_UNCOUNTED: usize = 500;
const MAX_CHANGES: usize = 500;

/// What to do with the job's pods, before the status is written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) create: Vec<NewPod>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Whether the deleted pods are not to be tracked any more: nobody needs to count them.
    pub(super) untrack_deleted: bool,
}

/// A pod to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NewPod {
    pub(super) index: Option<i32>,
    /// Failures of the index, counted and ignored, if the job counts them by index.
    pub(super) failures: Option<(i32, i32)>,
}

/// A whole step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) change: Change,
    pub(super) status: JobStatus,
    /// Pods that may go once the status is written.
    pub(super) untrack: Vec<Arc<Pod>>,
    pub(super) events: Vec<Said>,
    pub(super) again: Option<Duration>,
}

/// Something to say once the status is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

struct View<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    active: Vec<Arc<Pod>>,
    indexed: bool,
    completions: Option<i32>,
    parallelism: i32,
    replaces_only_failed: bool,
    now: Timestamp,
}

pub(super) fn plan(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let view = View::new(job, spec, pods, now);
    let mut plan = Plan {
        status: job.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    let tracked: HashSet<&str> = pods
        .iter()
        .filter(|p| is_tracked(p))
        .filter_map(|p| p.metadata.uid.as_deref())
        .collect();
    count_untracked(&mut plan.status, &tracked);
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(now));
    }
    let totals = view.totals(&plan.status);
    let mut ending = view.ending(&plan.status, &totals);
    if ending.is_none()
        && let Some(message) = view.success_by_policy(&totals)
    {
        ending = Some(condition("SuccessCriteriaMet", "SuccessPolicy", message, now));
    }
    let ended = ending.is_some();
    if ended {
        plan.change.delete.clone_from(&view.active);
    } else if job.metadata.deletion_timestamp.is_none() {
        plan.again = view.manage(&totals, &mut plan.change);
        let quiet = plan.change == Change::default();
        if view.active.is_empty() && quiet && plan.again.is_none() && view.is_complete(totals.succeeded) {
            let message = "Reached expected number of succeeded pods".to_owned();
            ending = Some(condition(
                "SuccessCriteriaMet",
                "CompletionsReached",
                message,
                now,
            ));
        } else {
            note_suspension(&mut plan, suspended, now);
        }
    }
    if !ended && let Some(left) = view.deadline_left(&plan.status) {
        plan.again = Some(plan.again.map_or(left, |a| a.min(left)));
    }
    view.track(&totals, ending.as_ref(), &mut plan);
    if let Some(ending) = ending {
        view.conclude(ending, &mut plan);
    }
    plan
}

/// The numbers that follow from the pods as they are after the change.
pub(super) fn recount(status: &mut JobStatus, pods: &[Arc<Pod>]) {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let active = || pods.iter().filter(|p| is_active(p));
    status.active = Some(number(active().count()));
    status.ready = Some(number(active().filter(|p| is_ready(p)).count()));
    status.terminating = Some(number(terminating(pods)));
}

fn terminating(pods: &[Arc<Pod>]) -> usize {
    pods.iter()
        .filter(|p| is_terminating(p) && !is_finished(p))
        .count()
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

pub(super) fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status.conditions.iter().flatten();
    conditions
        .filter(|c| c.status == "True")
        .find(|c| c.type_ == kind)
}

pub(super) fn is_over(job: &Job) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|s| find(s, "Complete").is_some() || find(s, "Failed").is_some())
}

fn condition(kind: &str, reason: &str, message: String, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn uncounted(status: &JobStatus) -> (HashSet<&str>, HashSet<&str>) {
    fn of(list: Option<&Vec<String>>) -> HashSet<&str> {
        list.into_iter().flatten().map(String::as_str).collect()
    }
    let uncounted = status.uncounted_terminated_pods.as_ref();
    (
        of(uncounted.and_then(|u| u.succeeded.as_ref())),
        of(uncounted.and_then(|u| u.failed.as_ref())),
    )
}

/// Pods in the status whose finalizer is gone are counted.
fn count_untracked(status: &mut JobStatus, tracked: &HashSet<&str>) {
    let list = status.uncounted_terminated_pods.get_or_insert_default();
    let settle = |uids: &mut Option<Vec<String>>| {
        let all = uids.take().unwrap_or_default();
        let before = all.len();
        let left: Vec<String> = all.into_iter().filter(|u| tracked.contains(u.as_str())).collect();
        let settled = i32::try_from(before - left.len()).unwrap_or(0);
        *uids = Some(left).filter(|l| !l.is_empty());
        settled
    };
    let (succeeded, failed) = (settle(&mut list.succeeded), settle(&mut list.failed));
    if succeeded > 0 {
        status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    }
    if failed > 0 {
        status.failed = Some(status.failed.unwrap_or(0) + failed);
    }
}

fn note_suspension(plan: &mut Plan, suspended: bool, now: Timestamp) {
    let known = plan
        .status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Suspended");
    let was = known.is_some_and(|c| c.status == "True");
    if was == suspended {
        return;
    }
    let (status, reason, event, message) = if suspended {
        ("True", "JobSuspended", "Suspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Resumed", "Job resumed")
    };
    let mut new = condition("Suspended", reason, message.to_owned(), now);
    new.status = status.to_owned();
    let conditions = plan.status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "Suspended");
    conditions.push(new);
    plan.status.start_time = (!suspended).then_some(Time(now));
    plan.events.push(Said {
        warning: false,
        reason: event,
        message: message.to_owned(),
    });
}

/// What the pods add up to.
struct Totals {
    succeeded: i32,
    failed: i32,
    succeeded_indexes: BTreeSet<i32>,
    /// Before this step.
    counted_indexes: BTreeSet<i32>,
    failed_indexes: Option<BTreeSet<i32>>,
    /// The failed pod of an index that waits to be replaced.
    to_replace: BTreeMap<i32, Arc<Pod>>,
}

impl<'a> View<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>], now: Timestamp) -> Self {
        let replacement = spec.pod_replacement_policy.as_deref();
        Self {
            job,
            spec,
            pods,
            active: pods.iter().filter(|p| is_active(p)).cloned().collect(),
            indexed: spec.completion_mode.as_deref() == Some("Indexed"),
            completions: spec.completions,
            parallelism: spec.parallelism.unwrap_or(1),
            replaces_only_failed: replacement == Some("Failed") || spec.pod_failure_policy.is_some(),
            now,
        }
    }

    /// The pod's index if it is one of the job's; `None` for jobs without indexes too.
    fn index(&self, pod: &Pod) -> Option<i32> {
        let text = pod.metadata.annotations.as_ref()?.get(INDEX)?;
        let index: i32 = text.parse().ok()?;
        (index >= 0 && index < self.completions.unwrap_or(0)).then_some(index)
    }

    fn belongs(&self, pod: &Pod) -> bool {
        !self.indexed || self.index(pod).is_some()
    }

    fn is_failed(&self, pod: &Pod) -> bool {
        phase(pod) == "Failed"
            || (!self.replaces_only_failed && is_terminating(pod) && phase(pod) != "Succeeded")
    }

    fn judge(&self, pod: &Pod) -> Failure {
        policy::judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    fn index_failures(&self, pod: &Pod, key: &str) -> i32 {
        let annotations = pod.metadata.annotations.as_ref();
        let text = annotations.and_then(|a| a.get(key));
        text.and_then(|t| t.parse().ok()).unwrap_or(0)
    }

    fn totals(&self, status: &JobStatus) -> Totals {
        let (in_succeeded, in_failed) = uncounted(status);
        let fresh = |pod: &&Arc<Pod>, known: &HashSet<&str>| {
            let uid = pod.metadata.uid.as_deref().unwrap_or("");
            is_tracked(pod) && !known.contains(uid) && self.belongs(pod)
        };
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let succeeded = self
            .pods
            .iter()
            .filter(|p| phase(p) == "Succeeded" && fresh(p, &in_succeeded))
            .count();
        let failed = self
            .pods
            .iter()
            .filter(|p| self.is_failed(p) && fresh(p, &in_failed) && self.judge(p) != Failure::Ignored)
            .count();
        let mut totals = Totals {
            succeeded: status.succeeded.unwrap_or(0) + number(succeeded + in_succeeded.len()),
            failed: status.failed.unwrap_or(0) + number(failed + in_failed.len()),
            succeeded_indexes: BTreeSet::new(),
            counted_indexes: BTreeSet::new(),
            failed_indexes: None,
            to_replace: BTreeMap::new(),
        };
        if self.indexed {
            self.total_indexes(status, &mut totals);
        }
        totals
    }

    fn total_indexes(&self, status: &JobStatus, totals: &mut Totals) {
        let completions = self.completions.unwrap_or(0);
        totals.counted_indexes =
            indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
        totals.succeeded_indexes.clone_from(&totals.counted_indexes);
        let tracked = || {
            self.pods
                .iter()
                .filter(|p| is_tracked(p))
                .filter_map(|p| Some((self.index(p)?, p)))
        };
        let done = tracked().filter(|(_, p)| phase(p) == "Succeeded");
        totals.succeeded_indexes.extend(done.map(|(index, _)| index));
        totals.succeeded = i32::try_from(totals.succeeded_indexes.len()).unwrap_or(i32::MAX);
        let Some(limit) = self.spec.backoff_limit_per_index else {
            return;
        };
        let mut failed = indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), completions);
        for (index, pod) in tracked().filter(|(_, p)| self.is_failed(p)) {
            let over = match self.judge(pod) {
                Failure::FailsIndex => true,
                Failure::Ignored => false,
                Failure::Counts | Failure::FailsJob(_) => self.index_failures(pod, INDEX_FAILURES) >= limit,
            };
            if over {
                failed.insert(index);
            }
        }
        let active: BTreeSet<i32> = self.active.iter().filter_map(|p| self.index(p)).collect();
        for (index, pod) in tracked().filter(|(_, p)| self.is_failed(p)) {
            if totals.succeeded_indexes.contains(&index) || failed.contains(&index) || active.contains(&index)
            {
                continue;
            }
            let rank = |p: &Pod| {
                let failures = self.index_failures(p, INDEX_FAILURES) + self.index_failures(p, INDEX_IGNORED);
                (failures, backoff::finished_at(p))
            };
            let known = totals.to_replace.entry(index).or_insert_with(|| Arc::clone(pod));
            if rank(known) <= rank(pod) {
                *known = Arc::clone(pod);
            }
        }
        totals.failed_indexes = Some(failed);
    }

    /// The condition the job ends with, if it does.
    fn ending(&self, status: &JobStatus, totals: &Totals) -> Option<JobCondition> {
        let now = self.now;
        if let Some(met) = find(status, "SuccessCriteriaMet").or_else(|| find(status, "FailureTarget")) {
            return Some(met.clone());
        }
        let failed =
            |reason: &str, message: &str| Some(condition("FailureTarget", reason, message.to_owned(), now));
        let by_policy = self
            .pods
            .iter()
            .filter(|p| self.is_failed(p))
            .find_map(|p| match self.judge(p) {
                Failure::FailsJob(message) => Some(message),
                _ => None,
            });
        if let Some(message) = by_policy {
            return failed("PodFailurePolicy", &message);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if totals.failed > limit || self.restarted_too_often(limit) {
            return failed(
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            );
        }
        if self.deadline_left(status).is_some_and(|left| left.is_zero()) {
            return failed(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            );
        }
        let failed_indexes = totals.failed_indexes.as_ref().map_or(0, BTreeSet::len);
        let most = self.spec.max_failed_indexes.and_then(|n| usize::try_from(n).ok());
        if most.is_some_and(|most| failed_indexes > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return failed("MaxFailedIndexesExceeded", message);
        }
        let completions = usize::try_from(self.completions.unwrap_or(0)).unwrap_or(0);
        if failed_indexes > 0 && failed_indexes + totals.succeeded_indexes.len() >= completions {
            return failed("FailedIndexes", "Job has failed indexes");
        }
        None
    }

    fn success_by_policy(&self, totals: &Totals) -> Option<String> {
        if !self.indexed {
            return None;
        }
        policy::success(
            self.spec.success_policy.as_ref(),
            self.completions.unwrap_or(0),
            &totals.succeeded_indexes,
        )
    }

    /// Pods that restart their containers themselves count by their restarts.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self
            .spec
            .template
            .spec
            .as_ref()
            .and_then(|s| s.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let running = self
            .pods
            .iter()
            .filter(|p| matches!(phase(p), "Running" | "Pending"));
        let statuses = running.filter_map(|p| p.status.as_ref());
        let restarts: i32 = statuses
            .flat_map(|s| {
                s.container_statuses
                    .iter()
                    .flatten()
                    .chain(s.init_container_statuses.iter().flatten())
            })
            .map(|c| c.restart_count)
            .sum();
        if limit == 0 {
            restarts > 0
        } else {
            restarts >= limit
        }
    }

    fn deadline_left(&self, status: &JobStatus) -> Option<Duration> {
        if self.spec.suspend == Some(true) {
            return None;
        }
        let allowed = SignedDuration::from_secs(self.spec.active_deadline_seconds?);
        let since = status.start_time.as_ref()?.0;
        Some(Duration::try_from(allowed - self.now.duration_since(since)).unwrap_or(Duration::ZERO))
    }

    fn is_complete(&self, succeeded: i32) -> bool {
        match self.completions {
            None => succeeded > 0,
            Some(completions) => succeeded >= completions,
        }
    }

    /// Brings the number of active pods to what it should be; when to look again if that has to wait.
    fn manage(&self, totals: &Totals, change: &mut Change) -> Option<Duration> {
        let active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        if self.spec.suspend == Some(true) {
            change.delete.clone_from(&self.active);
            change.untrack_deleted = true;
            return None;
        }
        let wanted = match self.completions {
            None if totals.succeeded > 0 => active,
            None => self.parallelism,
            Some(completions) => (completions - totals.succeeded).min(self.parallelism).max(0),
        };
        let surplus = usize::try_from(active - wanted).unwrap_or(0);
        change.delete = self.superfluous(surplus);
        if !change.delete.is_empty() {
            change.delete.truncate(MAX_CHANGES);
            change.untrack_deleted = true;
            return None;
        }
        let waiting = if self.replaces_only_failed {
            terminating(self.pods)
        } else {
            0
        };
        let waiting = i32::try_from(waiting).unwrap_or(i32::MAX);
        let missing = usize::try_from(wanted - waiting - active).unwrap_or(0);
        if missing == 0 {
            return None;
        }
        let per_index = totals.failed_indexes.is_some();
        if !per_index {
            let of =
                |wanted: &dyn Fn(&Pod) -> bool| self.pods.iter().filter(|p| wanted(p)).collect::<Vec<_>>();
            let succeeded = of(&|p| phase(p) == "Succeeded");
            let failed = of(&|p| self.is_failed(p));
            let left = backoff::of_job(&succeeded, &failed, self.now);
            if !left.is_zero() {
                return Some(left);
            }
        }
        let missing = missing.min(MAX_CHANGES);
        if !self.indexed {
            change.create = vec![NewPod::default(); missing];
            return None;
        }
        let mut wait = None::<Duration>;
        for index in self.pending_indexes(totals, missing) {
            let failed = totals.to_replace.get(&index);
            let failures = per_index.then(|| failed.map_or((0, 0), |pod| self.next_failures(pod)));
            let left = failed.map_or(Duration::ZERO, |pod| {
                let (counted, ignored) = failures.unwrap_or_default();
                let count = usize::try_from(counted + ignored).unwrap_or(0);
                backoff::remaining(count, backoff::finished_at(pod), self.now)
            });
            if per_index && !left.is_zero() {
                wait = Some(wait.map_or(left, |w| w.min(left)));
                continue;
            }
            change.create.push(NewPod {
                index: Some(index),
                failures,
            });
        }
        wait
    }

    fn next_failures(&self, replaced: &Pod) -> (i32, i32) {
        let counted = self.index_failures(replaced, INDEX_FAILURES);
        let ignored = self.index_failures(replaced, INDEX_IGNORED);
        if self.judge(replaced) == Failure::Ignored {
            (counted, ignored + 1)
        } else {
            (counted + 1, ignored)
        }
    }

    fn pending_indexes(&self, totals: &Totals, count: usize) -> Vec<i32> {
        let mut taken = totals.succeeded_indexes.clone();
        taken.extend(self.active.iter().filter_map(|p| self.index(p)));
        if self.replaces_only_failed {
            let leaving = self.pods.iter().filter(|p| is_terminating(p) && !is_finished(p));
            taken.extend(leaving.filter_map(|p| self.index(p)));
        }
        taken.extend(totals.failed_indexes.iter().flatten());
        let all = 0..self.completions.unwrap_or(0);
        all.filter(|index| !taken.contains(index)).take(count).collect()
    }

    /// Active pods to delete: those whose index another one has or nobody wants, then the least worth.
    fn superfluous(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let mut gone: Vec<Arc<Pod>> = Vec::new();
        let mut left: Vec<Arc<Pod>> = Vec::new();
        if self.indexed {
            let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
            for pod in &self.active {
                match self.index(pod) {
                    Some(index) => by_index.entry(index).or_default().push(Arc::clone(pod)),
                    None => gone.push(Arc::clone(pod)),
                }
            }
            for mut pods in by_index.into_values() {
                if pods.len() > 1 {
                    let worse = least_worth(&pods, &[], pods.len() - 1, self.now);
                    pods.retain(|p| !worse.iter().any(|w| w.metadata.uid == p.metadata.uid));
                    gone.extend(worse);
                }
                left.extend(pods);
            }
        } else {
            left.clone_from(&self.active);
        }
        if gone.len() < at_least {
            gone.extend(least_worth(&left, &[], at_least - gone.len(), self.now));
        }
        gone
    }

    /// Writes ended pods into the status, and says whose finalizers may go then.
    fn track(&self, totals: &Totals, ending: Option<&JobCondition>, plan: &mut Plan) {
        let over = self.job.metadata.deletion_timestamp.is_some() || ending.is_some();
        let failing = ending.is_some_and(|e| e.type_ != "SuccessCriteriaMet");
        let (in_succeeded, in_failed) = {
            let (s, f) = uncounted(&plan.status);
            let own = |set: HashSet<&str>| set.into_iter().map(str::to_owned).collect::<HashSet<String>>();
            (own(s), own(f))
        };
        let mut list = plan.status.uncounted_terminated_pods.take().unwrap_or_default();
        let mut new_indexes = totals.counted_indexes.clone();
        let mut added = in_succeeded.len() + in_failed.len();
        for pod in self.pods.iter().filter(|p| is_tracked(p)) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let failed = self.is_failed(pod);
            let succeeded = phase(pod) == "Succeeded";
            let awaited = self.index(pod).and_then(|i| totals.to_replace.get(&i));
            let delayed = awaited.is_some_and(|p| p.metadata.uid == pod.metadata.uid);
            if !(over || succeeded || (failed && !delayed)) {
                continue;
            }
            plan.untrack.push(Arc::clone(pod));
            if succeeded && !in_failed.contains(&uid) {
                if self.indexed {
                    new_indexes.extend(self.index(pod));
                } else if !in_succeeded.contains(&uid) {
                    list.succeeded.get_or_insert_default().push(uid);
                    added += 1;
                }
            } else if (failed || failing) && !in_failed.contains(&uid) && self.belongs(pod) {
                let counts = self.spec.pod_failure_policy.is_none() || self.judge(pod) != Failure::Ignored;
                if counts {
                    list.failed.get_or_insert_default().push(uid);
                    added += 1;
                }
            }
            if added + new_indexes.len() - totals.counted_indexes.len() >= MAX_UNCOUNTED {
                break;
            }
        }
        if self.indexed {
            plan.status.succeeded = Some(i32::try_from(new_indexes.len()).unwrap_or(i32::MAX));
            plan.status.completed_indexes = Some(indexes::write(&new_indexes)).filter(|t| !t.is_empty());
            plan.status.failed_indexes = totals.failed_indexes.as_ref().map(indexes::write);
        }
        plan.status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list.succeeded.filter(|l| !l.is_empty()),
            failed: list.failed.filter(|l| !l.is_empty()),
        });
    }

    /// The condition that the end is in sight, then, when all is counted and gone, the one that it is reached.
    fn conclude(&self, ending: JobCondition, plan: &mut Plan) {
        let noted = find(&plan.status, &ending.type_).is_some();
        if !noted {
            plan.status.conditions.get_or_insert_default().push(ending);
            return;
        }
        let (succeeded, failed) = uncounted(&plan.status);
        let pending = !succeeded.is_empty() || !failed.is_empty() || !plan.untrack.is_empty();
        if pending || !plan.change.delete.is_empty() || terminating(self.pods) > 0 {
            return;
        }
        let reason = ending.reason.clone().unwrap_or_default();
        let message = ending.message.clone().unwrap_or_default();
        let kind = if ending.type_ == "SuccessCriteriaMet" {
            "Complete"
        } else {
            "Failed"
        };
        let over = condition(kind, &reason, message.clone(), self.now);
        if kind == "Complete" {
            plan.status.completion_time.clone_from(&over.last_transition_time);
            let too_many = self
                .completions
                .is_some_and(|c| plan.status.succeeded.unwrap_or(0) > c);
            if too_many {
                plan.events.push(Said {
                    warning: true,
                    reason: "TooManySucceededPods",
                    message: "Too many succeeded pods running after completion count reached".to_owned(),
                });
            }
            plan.events.push(Said {
                warning: false,
                reason: "Completed",
                message: "Job completed".to_owned(),
            });
        } else {
            let reason = REASONS
                .iter()
                .find(|r| **r == reason)
                .copied()
                .unwrap_or("Failed");
            plan.events.push(Said {
                warning: true,
                reason,
                message,
            });
        }
        plan.status.conditions.get_or_insert_default().push(over);
        plan.again = None;
    }
}

/// Why jobs fail.
const REASONS: [&str; 5] = [
    "PodFailurePolicy",
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
];
