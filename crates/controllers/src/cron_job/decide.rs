//! What a CronJob needs now: jobs to start and to delete, what to say, when to look again.

use super::schedule::Schedule;
use crate::owner::controller_ref;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::sync::Arc;
use std::time::Duration;

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) delete: Vec<Arc<Job>>,
    /// The job of this time.
    pub(super) create: Option<(Timestamp, Box<Job>)>,
    pub(super) status: CronJobStatus,
    pub(super) said: Vec<Said>,
    pub(super) again: Option<Duration>,
}

/// Upstream's margin, so that a look is never a moment too early.
const DELTA: Duration = Duration::from_millis(100);
const MANY: i64 = 100;

pub(super) fn plan(cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan {
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    note_jobs(cron, jobs, &mut plan);
    plan.delete = outdated(spec, jobs);
    if cron.metadata.deletion_timestamp.is_some() {
        plan.delete.clear();
        return plan;
    }
    let zone = match spec.time_zone.as_deref() {
        None | Some("") => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(error) => {
                plan.say(
                    true,
                    "UnknownTimeZone",
                    format!("invalid timeZone: {name:?}: {error}"),
                );
                return plan;
            }
        },
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    let schedule = match Schedule::parse(&spec.schedule, zone.clone()) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            plan.say(true, "UnparseableSchedule", message);
            return plan;
        }
    };
    plan.again = schedule.next(now).map(|next| until(next, now) + DELTA);
    let Some(due) = most_recent(cron, spec, &schedule, now, &mut plan) else {
        return plan;
    };
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if deadline.is_some_and(|d| due.checked_add(d).is_ok_and(|end| end < now)) {
        let due = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
        plan.say(
            true,
            "MissSchedule",
            format!("Missed scheduled time to start a job: {due}"),
        );
        return plan;
    }
    let job = new_job(cron, spec, due, &zone);
    let started = plan
        .status
        .last_schedule_time
        .as_ref()
        .is_some_and(|t| t.0 >= due);
    let exists = jobs.iter().any(|j| j.metadata.name == job.metadata.name);
    if started || exists {
        return plan;
    }
    let active = plan.status.active.as_ref().is_some_and(|a| !a.is_empty());
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if active => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.say(false, "JobAlreadyActive", message.to_owned());
            return plan;
        }
        Some("Replace") => plan
            .delete
            .extend(jobs.iter().filter(|j| ending(j).is_none()).cloned()),
        _ => {}
    }
    plan.create = Some((due, Box::new(job)));
    plan
}

impl Plan {
    fn say(&mut self, warning: bool, reason: &'static str, message: String) {
        self.said.push(Said {
            warning,
            reason,
            message,
        });
    }
}

/// `Complete` or `Failed`, and since when.
fn ending(job: &Job) -> Option<(&str, Timestamp)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    Some((
        &ended.type_,
        ended
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0),
    ))
}

/// Keeps the list of running jobs: ended ones leave it, so do those that are no more.
fn note_jobs(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let name = job.metadata.name.as_deref().unwrap_or("");
        let listed = active.iter().position(|r| r.uid == job.metadata.uid);
        match (ending(job), listed) {
            (None, None) => {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                let after = cron
                    .status
                    .as_ref()
                    .is_some_and(|s| s.last_schedule_time.is_some());
                if after {
                    plan.say(true, "UnexpectedJob", message);
                }
                active.push(reference(job));
            }
            (Some((kind, at)), Some(listed)) => {
                active.remove(listed);
                plan.say(
                    false,
                    "SawCompletedJob",
                    format!("Saw completed job: {name}, condition: {kind}"),
                );
                if kind == "Complete" {
                    note_success(&mut plan.status, job, at);
                }
            }
            (Some(("Complete", at)), None) => note_success(&mut plan.status, job, at),
            _ => {}
        }
    }
    let (known, missing): (Vec<_>, Vec<_>) = active
        .into_iter()
        .partition(|r| jobs.iter().any(|j| j.metadata.uid == r.uid));
    for gone in missing {
        let name = gone.name.unwrap_or_default();
        plan.say(false, "MissingJob", format!("Active job went missing: {name}"));
    }
    plan.status.active = Some(known).filter(|k| !k.is_empty());
}

fn note_success(status: &mut CronJobStatus, job: &Job, at: Timestamp) {
    let completed = job
        .status
        .as_ref()
        .and_then(|s| s.completion_time.as_ref())
        .map_or(at, |t| t.0);
    if status
        .last_successful_time
        .as_ref()
        .is_none_or(|t| t.0 < completed)
    {
        status.last_successful_time = Some(Time(completed));
    }
}

pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Ended jobs beyond what is to be kept, oldest first.
fn outdated(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut gone = Vec::new();
    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else {
            continue;
        };
        let mut ended: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|j| ending(j).is_some_and(|(k, _)| k == kind))
            .collect();
        ended.sort_by_key(|j| {
            (
                j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
                j.metadata.name.clone(),
            )
        });
        let count = ended.len().saturating_sub(limit);
        gone.extend(ended.into_iter().take(count).cloned());
    }
    gone
}

/// The latest time that has come and was not served.
fn most_recent(
    cron: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let mut earliest = plan.status.last_schedule_time.as_ref().map_or(created, |t| t.0);
    if let Some(seconds) = spec.starting_deadline_seconds {
        let limit = now
            .checked_sub(SignedDuration::from_secs(seconds))
            .unwrap_or(earliest);
        earliest = earliest.max(limit);
    }
    let first = schedule.next(earliest).filter(|t| *t <= now)?;
    if let Some(second) = schedule.next(first) {
        let between = second.duration_since(first).as_secs().max(1);
        if now.duration_since(first).as_secs() / between + 1 > MANY {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            plan.say(true, "TooManyMissedTimes", message.to_owned());
        }
    }
    // Looked for from now backwards, in ever larger windows: a year of missed minutes costs no more than an hour.
    let mut window = SignedDuration::from_mins(2);
    let mut latest = loop {
        let from = now.checked_sub(window).unwrap_or(earliest).max(earliest);
        if let Some(found) = schedule.next(from).filter(|t| *t <= now) {
            break found;
        }
        if from == earliest {
            break first;
        }
        window = window.checked_mul(2)?;
    };
    while let Some(next) = schedule.next(latest).filter(|t| *t <= now) {
        latest = next;
    }
    Some(latest)
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

fn new_job(cron: &CronJob, spec: &CronJobSpec, due: Timestamp, zone: &TimeZone) -> Job {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let name = cron.metadata.name.as_deref().unwrap_or("");
    let mut annotations = meta.annotations.unwrap_or_default();
    let stamp = due.to_zoned(zone.clone());
    let stamp = match spec.time_zone.as_deref() {
        None | Some("") => stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Some(_) => stamp.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    annotations.insert(
        "batch.kubernetes.io/cronjob-scheduled-timestamp".to_owned(),
        stamp,
    );
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cron(more: Value, last: Option<&str>) -> CronJob {
        let mut spec = json!({"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        for (key, value) in more.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        let meta =
            json!({"name": "c", "namespace": "d", "uid": "u", "creationTimestamp": "2026-01-01T00:00:30Z"});
        let status = json!({ "lastScheduleTime": last });
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).expect("cron job")
    }

    fn job(name: &str, ended: Option<&str>) -> Arc<Job> {
        let conditions: Vec<Value> = ended
            .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z"}))
            .into_iter()
            .collect();
        let job = json!({"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions, "startTime": "2026-01-01T00:00:00Z"}});
        Arc::new(serde_json::from_value(job).expect("job"))
    }

    /// `+job -deleted reasons again`
    fn check(cron: &CronJob, jobs: &[Arc<Job>], now: &str, expected: &str) {
        let now: Timestamp = now.parse().expect("time");
        let plan = plan(cron, &cron.spec, jobs, now);
        let created = plan
            .create
            .as_ref()
            .map(|(due, _)| format!("+{}", due.strftime("%H:%M")))
            .into_iter();
        let deleted = plan
            .delete
            .iter()
            .map(|j| format!("-{}", j.metadata.name.clone().unwrap_or_default()));
        let said = plan.said.iter().map(|s| s.reason.to_owned());
        let words: Vec<String> = created.chain(deleted).chain(said).collect();
        assert_eq!(words.join(" "), expected, "{now}");
        assert!(
            plan.again.is_none_or(|a| a <= Duration::from_secs(600) + DELTA),
            "{:?}",
            plan.again
        );
    }

    #[test]
    fn jobs_start_when_due() {
        let plain = cron(json!({}), None);
        check(&plain, &[], "2026-01-01T00:09:59Z", "");
        check(&plain, &[], "2026-01-01T00:10:00Z", "+00:10");
        check(&plain, &[], "2026-01-01T00:35:00Z", "+00:30");
        check(&plain, &[], "2027-01-01T00:05:00Z", "+00:00 TooManyMissedTimes");
        let served = cron(json!({}), Some("2026-01-01T00:30:00Z"));
        check(&served, &[], "2026-01-01T00:35:00Z", "");
        check(
            &cron(json!({"suspend": true}), None),
            &[],
            "2026-01-01T00:10:00Z",
            "",
        );
        let strict = cron(json!({"startingDeadlineSeconds": 60}), None);
        check(&strict, &[], "2026-01-01T00:10:30Z", "+00:10");
        check(&strict, &[], "2026-01-01T00:12:00Z", "");
        check(
            &cron(json!({"schedule": "nonsense"}), None),
            &[],
            "2026-01-01T00:10:00Z",
            "UnparseableSchedule",
        );
        check(
            &cron(json!({"timeZone": "No/Where"}), None),
            &[],
            "2026-01-01T00:10:00Z",
            "UnknownTimeZone",
        );
    }

    #[test]
    fn running_jobs_count() {
        let running = [job("r", None)];
        check(
            &cron(json!({"concurrencyPolicy": "Allow"}), None),
            &running,
            "2026-01-01T00:10:00Z",
            "+00:10",
        );
        check(
            &cron(json!({"concurrencyPolicy": "Forbid"}), None),
            &running,
            "2026-01-01T00:10:00Z",
            "JobAlreadyActive",
        );
        check(
            &cron(json!({"concurrencyPolicy": "Replace"}), None),
            &running,
            "2026-01-01T00:10:00Z",
            "+00:10 -r",
        );
    }

    #[test]
    fn ended_jobs_are_kept_by_number() {
        let limits = json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
        let jobs = [
            job("a", Some("Complete")),
            job("b", Some("Complete")),
            job("f", Some("Failed")),
        ];
        check(&cron(limits, None), &jobs, "2026-01-01T00:05:00Z", "-a -f");
    }
}
