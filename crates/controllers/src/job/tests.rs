//! Whole jobs on paper: plans are carried out on a list of pods, whose fate the test decides.

use super::decide::{FINALIZER, INDEX, INDEX_FAILURES, NewPod, is_over, is_tracked, plan, recount};
use super::new_pod;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

struct Paper {
    job: Job,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    born: usize,
}

impl Paper {
    fn new(mut spec: Value) -> Self {
        spec["template"] = json!({"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}});
        let job = json!({"metadata": {"name": "j", "namespace": "d", "uid": "u"}, "spec": spec});
        Self {
            job: serde_json::from_value(job).expect("job"),
            pods: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            born: 0,
        }
    }

    fn spec(&mut self) -> &mut k8s_openapi::api::batch::v1::JobSpec {
        self.job.spec.as_mut().expect("spec")
    }

    /// One look; whether it led to anything. Time passes where the job has to wait.
    fn step(&mut self) -> bool {
        let spec = self.job.spec.clone().expect("spec");
        let plan = plan(&self.job, &spec, &self.pods, self.now);
        let mut changed = false;
        for gone in &plan.change.delete {
            self.change(gone, |pod| {
                pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
                if plan.change.untrack_deleted {
                    pod.metadata.finalizers = None;
                }
            });
            changed = true;
        }
        for new in &plan.change.create {
            self.add(&spec, new);
            changed = true;
        }
        let mut status = plan.status;
        recount(&mut status, &self.pods);
        changed |= super::differs(self.job.status.as_ref(), &status);
        self.job.status = Some(status);
        for pod in &plan.untrack {
            self.change(pod, |pod| pod.metadata.finalizers = None);
            changed = true;
        }
        // What was deleted and is held by nothing is gone.
        self.pods
            .retain(|p| p.metadata.deletion_timestamp.is_none() || is_tracked(p));
        if !changed && let Some(wait) = plan.again.filter(|w| !w.is_zero() && w.as_secs() < 1000) {
            self.now += SignedDuration::try_from(wait).expect("short");
            return true;
        }
        changed
    }

    fn add(&mut self, spec: &k8s_openapi::api::batch::v1::JobSpec, new: &NewPod) {
        let mut pod = new_pod(&self.job, spec, new);
        self.born += 1;
        pod.metadata.name = Some(format!("p{}", self.born));
        pod.metadata.uid = Some(format!("u{}", self.born));
        pod.metadata.creation_timestamp = Some(Time(self.now));
        pod.status = Some(PodStatus {
            phase: Some("Running".to_owned()),
            ..PodStatus::default()
        });
        self.pods.push(Arc::new(pod));
    }

    fn change(&mut self, pod: &Pod, change: impl Fn(&mut Pod)) {
        let same = self.pods.iter_mut().find(|p| p.metadata.uid == pod.metadata.uid);
        change(Arc::make_mut(same.expect("known pod")));
    }

    /// Ends every running pod as the test says.
    fn end(&mut self, fate: impl Fn(&Pod) -> Option<&'static str>) {
        let now = self.now;
        for pod in &mut self.pods {
            let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
            if running && let Some(phase) = fate(pod) {
                let pod = Arc::make_mut(pod);
                pod.metadata.creation_timestamp = Some(Time(now));
                pod.status.get_or_insert_default().phase = Some(phase.to_owned());
            }
        }
    }

    /// Until the job is over or nothing moves.
    fn settle(&mut self, fate: impl Fn(&Pod) -> Option<&'static str>) {
        for _ in 0..300 {
            if is_over(&self.job) {
                return;
            }
            let moved = self.step();
            if !moved {
                let before = self.pods.clone();
                self.end(&fate);
                if self.pods == before {
                    return;
                }
            }
        }
        panic!("never settles: {:?}", self.job.status);
    }

    /// `condition reason succeeded/failed`
    fn outcome(&self) -> String {
        let status = self.job.status.clone().unwrap_or_default();
        let last = status.conditions.iter().flatten().next_back();
        let last = last.map_or("-".to_owned(), |c| {
            format!("{} {}", c.type_, c.reason.clone().unwrap_or_default())
        });
        format!(
            "{last} {}/{}",
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0)
        )
    }
}

fn index(pod: &Pod) -> String {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(INDEX))
        .cloned()
        .unwrap_or_default()
}

#[test]
fn enough_successes_complete_a_job() {
    for (completions, parallelism) in [(1, 1), (5, 2), (3, 10)] {
        let mut paper =
            Paper::new(json!({"completions": completions, "parallelism": parallelism, "backoffLimit": 6}));
        paper.settle(|_| Some("Succeeded"));
        assert_eq!(
            paper.outcome(),
            format!("Complete CompletionsReached {completions}/0")
        );
        assert_eq!(paper.born, completions);
        assert!(
            paper.pods.iter().all(|p| !is_tracked(p)),
            "every finalizer is gone"
        );
    }
}

#[test]
fn failures_wait_and_then_end_a_job() {
    let mut paper = Paper::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 2}));
    paper.settle(|_| Some("Failed"));
    assert_eq!(paper.outcome(), "Failed BackoffLimitExceeded 0/3");
    assert_eq!(
        paper.now.as_second(),
        10 + 20,
        "the second pod waited 10 s, the third 20 s"
    );
}

#[test]
fn every_pod_is_counted_once_whoever_deletes_it() {
    let mut paper = Paper::new(json!({"completions": 3, "parallelism": 3, "backoffLimit": 6}));
    paper.step();
    let victim = Arc::clone(&paper.pods[0]);
    paper.change(&victim, |pod| {
        pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))
    });
    assert!(
        victim
            .metadata
            .finalizers
            .as_ref()
            .is_some_and(|f| f.contains(&FINALIZER.to_owned()))
    );
    paper.settle(|_| Some("Succeeded"));
    assert_eq!(paper.outcome(), "Complete CompletionsReached 3/1");
}

#[test]
fn indexed_jobs_finish_each_index() {
    let mut paper = Paper::new(
        json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 6}),
    );
    paper.settle(|pod| {
        Some(
            if index(pod) == "3" && pod.metadata.name.as_deref() == Some("p4") {
                "Failed"
            } else {
                "Succeeded"
            },
        )
    });
    assert_eq!(paper.outcome(), "Complete CompletionsReached 5/1");
    assert_eq!(
        paper
            .job
            .status
            .as_ref()
            .and_then(|s| s.completed_indexes.as_deref()),
        Some("0-4")
    );
    let first = &paper.pods[0];
    assert_eq!(first.metadata.generate_name.as_deref(), Some("j-0-"));
    assert_eq!(
        first.spec.as_ref().and_then(|s| s.hostname.as_deref()),
        Some("j-0")
    );
}

#[test]
fn an_index_may_fail_alone() {
    let mut paper = Paper::new(
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "backoffLimit": 100, "backoffLimitPerIndex": 1}),
    );
    paper.settle(|pod| Some(if index(pod) == "1" { "Failed" } else { "Succeeded" }));
    assert_eq!(paper.outcome(), "Failed FailedIndexes 2/2");
    let status = paper.job.status.clone().unwrap_or_default();
    assert_eq!(
        (
            status.completed_indexes.as_deref(),
            status.failed_indexes.as_deref()
        ),
        (Some("0,2"), Some("1"))
    );
    let second = paper.pods.iter().rfind(|p| index(p) == "1").expect("second try");
    assert_eq!(
        second.metadata.annotations.as_ref().expect("annotations")[INDEX_FAILURES],
        "1"
    );
}

#[test]
fn a_success_policy_ends_a_job_early() {
    let mut paper = Paper::new(
        json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimit": 6,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}),
    );
    paper.settle(|pod| (index(pod) == "0").then_some("Succeeded"));
    assert_eq!(paper.outcome(), "Complete SuccessPolicy 1/0");
}

#[test]
fn a_failure_policy_ends_a_job_at_once() {
    let mut paper = Paper::new(json!({"completions": 3, "parallelism": 3, "backoffLimit": 6,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": [{"type": "Bad", "status": "True"}]}]}}));
    paper.step();
    let victim = Arc::clone(&paper.pods[0]);
    paper.change(&victim, |pod| {
        let condition = serde_json::from_value(json!({"type": "Bad", "status": "True"})).expect("condition");
        let status = pod.status.get_or_insert_default();
        (status.phase, status.conditions) = (Some("Failed".to_owned()), Some(vec![condition]));
    });
    paper.settle(|_| None);
    assert_eq!(paper.outcome(), "Failed PodFailurePolicy 0/3");
}

#[test]
fn suspension_and_deadline() {
    let mut paper = Paper::new(
        json!({"completions": 2, "parallelism": 2, "backoffLimit": 6, "suspend": true,
        "activeDeadlineSeconds": 50}),
    );
    paper.settle(|_| None);
    assert_eq!(paper.outcome(), "Suspended JobSuspended 0/0");
    assert!(paper.job.status.as_ref().is_some_and(|s| s.start_time.is_none()) && paper.pods.is_empty());
    paper.spec().suspend = Some(false);
    paper.step();
    assert_eq!(paper.outcome(), "Suspended JobResumed 0/0");
    paper.now += SignedDuration::from_secs(50);
    paper.settle(|_| None);
    assert_eq!(paper.outcome(), "Failed DeadlineExceeded 0/2");
}

#[test]
fn a_job_without_completions_ends_with_the_first_success() {
    let mut paper = Paper::new(json!({"parallelism": 3, "backoffLimit": 6}));
    paper.step();
    paper.end(|pod| (pod.metadata.name.as_deref() == Some("p1")).then_some("Succeeded"));
    paper.step();
    assert_eq!(paper.born, 3, "no new pods after a success");
    paper.settle(|_| Some("Succeeded"));
    assert_eq!(paper.outcome(), "Complete CompletionsReached 3/0");
}

/// What may happen between two looks at a job. The number chooses a pod.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Look,
    Succeeds(usize),
    Fails(usize),
    IsDeleted(usize),
    Parallelism(i32),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => Just(Happening::Look),
        4 => any::<usize>().prop_map(Happening::Succeeds),
        2 => any::<usize>().prop_map(Happening::Fails),
        1 => any::<usize>().prop_map(Happening::IsDeleted),
        1 => (0i32..5).prop_map(Happening::Parallelism),
    ]
}

fn runs(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}

/// A job whose pods end as they happen to, and what became of them.
#[derive(Default)]
struct Ledger {
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Ledger {
    fn happen(&mut self, paper: &mut Paper, happens: Happening) {
        let running: Vec<Arc<Pod>> = paper.pods.iter().filter(|p| runs(p)).cloned().collect();
        let choose =
            |number: usize| (!running.is_empty()).then(|| Arc::clone(&running[number % running.len()]));
        let uid = |pod: &Pod| pod.metadata.uid.clone().expect("uid");
        let end = |paper: &mut Paper, pod: &Pod, phase: &str| {
            paper.change(pod, |pod| {
                pod.status.get_or_insert_default().phase = Some(phase.to_owned())
            });
        };
        match happens {
            Happening::Look => drop(paper.step()),
            Happening::Parallelism(number) => paper.spec().parallelism = Some(number),
            Happening::Succeeds(number) => {
                if let Some(pod) = choose(number) {
                    end(paper, &pod, "Succeeded");
                    self.succeeded.insert(uid(&pod));
                }
            }
            Happening::Fails(number) => {
                if let Some(pod) = choose(number) {
                    end(paper, &pod, "Failed");
                    self.failed.insert(uid(&pod));
                }
            }
            Happening::IsDeleted(number) => {
                if let Some(pod) = choose(number) {
                    end(paper, &pod, "Failed");
                    paper.change(&pod, |pod| {
                        pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                    });
                    self.failed.insert(uid(&pod));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_order_of_ends_miscounts_a_job(
        completions in 1i32..8,
        parallelism in 1i32..5,
        indexed in any::<bool>(),
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let mut paper = Paper::new(json!({
            "completions": completions, "parallelism": parallelism, "completionMode": mode, "backoffLimit": 1000,
        }));
        let mut ledger = Ledger::default();
        for happens in happenings {
            if is_over(&paper.job) {
                break;
            }
            let before = paper.pods.iter().filter(|p| runs(p)).count();
            ledger.happen(&mut paper, happens);
            let now = paper.pods.iter().filter(|p| runs(p)).count();
            let most = paper.spec().parallelism.unwrap_or(0).min(completions);
            prop_assert!(now <= before.max(usize::try_from(most).expect("small")), "{now} of {most} run");
            let status = paper.job.status.clone().unwrap_or_default();
            let counted = status.succeeded.unwrap_or(0);
            prop_assert!(counted <= i32::try_from(ledger.succeeded.len()).expect("small"));
            if indexed {
                let running: Vec<String> = paper.pods.iter().filter(|p| runs(p)).map(|p| index(p)).collect();
                let different: BTreeSet<&String> = running.iter().collect();
                prop_assert_eq!(different.len(), running.len(), "one pod an index: {:?}", running);
            }
        }
        paper.spec().parallelism = Some(parallelism);
        for _ in 0..500 {
            if is_over(&paper.job) {
                break;
            }
            ledger.happen(&mut paper, Happening::Look);
            ledger.happen(&mut paper, Happening::Look);
            ledger.happen(&mut paper, Happening::Succeeds(0));
        }
        let status = paper.job.status.clone().unwrap_or_default();
        prop_assert!(is_over(&paper.job), "{:?}", status);
        prop_assert_eq!(status.succeeded.unwrap_or(0), completions);
        if indexed {
            let all: BTreeSet<i32> = (0..completions).collect();
            let done = super::indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
            prop_assert_eq!(done, all);
        }
        prop_assert!(paper.pods.iter().all(|p| !is_tracked(p)), "every finalizer is gone");
    }

    #[test]
    fn indexes_are_read_as_they_are_written(indexes in prop::collection::btree_set(0i32..200, 0..60)) {
        let text = super::indexes::write(&indexes);
        prop_assert_eq!(super::indexes::parse(&text, 200), indexes);
    }
}
