//! A deployment's status and conditions, with upstream's reasons and messages.

use super::view::{View, actual, available, name, replicas};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn reason(condition: Option<&DeploymentCondition>) -> &str {
    condition.and_then(|c| c.reason.as_deref()).unwrap_or("")
}

/// Puts a condition, unless one of the same status and reason is there.
pub(super) fn put(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(known) = find(status, &condition.type_)
        && known.status == condition.status
    {
        if known.reason == condition.reason {
            return;
        }
        condition.last_transition_time = known.last_transition_time.clone();
    }
    remove(status, &condition.type_.clone());
    status.conditions.get_or_insert_default().push(condition);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// Whether all pods are of the present template and available.
pub(super) fn is_complete(view: &View<'_>, status: &DeploymentStatus) -> bool {
    let is_all = |n: Option<i32>| n.unwrap_or(0) == view.replicas;
    is_all(status.updated_replicas)
        && is_all(status.replicas)
        && is_all(status.available_replicas)
        && status.observed_generation >= view.deployment.metadata.generation
}

/// The numbers, and whether the deployment is available.
pub(super) fn calculate(view: &View<'_>, now: Timestamp) -> DeploymentStatus {
    let old = view.deployment.status.clone().unwrap_or_default();
    let sum = |of: fn(&ReplicaSet) -> i32| view.all().map(|s| of(s)).sum::<i32>();
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let terminating = view
        .all()
        .map(|s| s.status.as_ref().and_then(|s| s.terminating_replicas))
        .sum::<Option<i32>>();
    let total_available = sum(available);
    let mut status = DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: Some(sum(actual)),
        updated_replicas: Some(view.new.as_ref().map_or(0, |s| actual(s))),
        ready_replicas: Some(sum(ready)),
        available_replicas: Some(total_available),
        unavailable_replicas: Some((sum(replicas) - total_available).max(0)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let condition = if total_available >= view.replicas - view.max_unavailable() {
        let message = "Deployment has minimum availability.".to_owned();
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    put(&mut status, condition);
    status
}

/// The status while rolling out: also progress, its deadline, and failures of the sets. With when to look again.
pub(super) fn rollout(view: &View<'_>, now: Timestamp) -> (DeploymentStatus, Option<Duration>) {
    let old = view.deployment.status.clone().unwrap_or_default();
    let mut status = calculate(view, now);
    let present = find(&old, PROGRESSING).cloned();
    let subject = match &view.new {
        Some(set) => format!("ReplicaSet {:?}", name(set)),
        None => format!(
            "Deployment {:?}",
            view.deployment.metadata.name.as_deref().unwrap_or("")
        ),
    };
    let deadline = view.progress_deadline();
    match deadline {
        None => remove(&mut status, PROGRESSING),
        Some(deadline) => {
            let done =
                status.replicas == status.updated_replicas && reason(present.as_ref()) == NEW_SET_AVAILABLE;
            if !done {
                judge_progress(view, &old, &mut status, present.as_ref(), &subject, deadline, now);
            }
        }
    }
    match failure_of_sets(view) {
        Some(failure) => put(&mut status, failure),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    if status.conditions.as_ref().is_some_and(Vec::is_empty) {
        status.conditions = None;
    }
    let next = match (deadline, find(&status, PROGRESSING)) {
        (Some(deadline), Some(progress))
            if !is_complete(view, &status) && reason(Some(progress)) != TIMED_OUT =>
        {
            progress
                .last_update_time
                .as_ref()
                .map(|t| until(t.0, deadline, now) + Duration::from_secs(1))
        }
        _ => None,
    };
    (status, next)
}

fn judge_progress(
    view: &View<'_>,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    present: Option<&DeploymentCondition>,
    subject: &str,
    deadline: i32,
    now: Timestamp,
) {
    if is_complete(view, status) {
        let message = format!("{subject} has successfully progressed.");
        put(
            status,
            condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now),
        );
    } else if is_progressing(old, status) {
        let mut progress = condition(
            PROGRESSING,
            "True",
            "ReplicaSetUpdated",
            format!("{subject} is progressing."),
            now,
        );
        if let Some(present) = present {
            if present.status == "True" {
                progress.last_transition_time = present.last_transition_time.clone();
            }
            // Its time of update must move on although status and reason may be the same.
            remove(status, PROGRESSING);
        }
        put(status, progress);
    } else if is_timed_out(status, deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        put(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |n: Option<i32>| n.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn is_timed_out(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> bool {
    let Some(progress) = find(status, PROGRESSING) else {
        return false;
    };
    match reason(Some(progress)) {
        NEW_SET_AVAILABLE => false,
        TIMED_OUT => true,
        _ => {
            let since = progress.last_update_time.as_ref().map(|t| t.0);
            since.is_some_and(|since| until(since, deadline, now).is_zero())
        }
    }
}

fn until(since: Timestamp, seconds: i32, now: Timestamp) -> Duration {
    let left = SignedDuration::from_secs(i64::from(seconds)) - now.duration_since(since);
    Duration::try_from(left).unwrap_or(Duration::ZERO)
}

fn failure_of_sets(view: &View<'_>) -> Option<DeploymentCondition> {
    let of = |set: &Arc<ReplicaSet>| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions.iter().find(|c| c.type_ == REPLICA_FAILURE)?;
        Some(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    };
    view.new
        .as_ref()
        .and_then(of)
        .or_else(|| view.old.iter().find_map(of))
}

/// Whether writing would change anything; an absent number is a zero.
pub(super) fn differs(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let Some(old) = old else { return true };
    let n = |n: Option<i32>| n.unwrap_or(0);
    old.observed_generation != new.observed_generation
        || n(old.replicas) != n(new.replicas)
        || n(old.updated_replicas) != n(new.updated_replicas)
        || n(old.ready_replicas) != n(new.ready_replicas)
        || n(old.available_replicas) != n(new.available_replicas)
        || n(old.unavailable_replicas) != n(new.unavailable_replicas)
        || old.terminating_replicas != new.terminating_replicas
        || old.collision_count != new.collision_count
        || old.conditions.as_deref().unwrap_or(&[]) != new.conditions.as_deref().unwrap_or(&[])
}
