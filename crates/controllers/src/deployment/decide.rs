//! The next step of a deployment: a pure function of the deployment, its replica sets and the time.
//!
//! One step at a time: what a step writes is in the informer at once and brings the next look.

use super::annotations::{self, REVISION, revision, set_sizes};
use super::status::{self, PROGRESSING, condition, find};
use super::view::{HASH_LABEL, View, actual, available, name, replicas};
use crate::owner::controller_ref;
use crate::template_hash::template_hash;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;
use std::time::Duration;

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Option<Box<ReplicaSet>>,
    pub(super) updates: Vec<Update>,
    pub(super) deletes: Vec<Arc<ReplicaSet>>,
    /// The revision to note on the deployment.
    pub(super) revision: Option<String>,
    pub(super) status: Option<DeploymentStatus>,
    pub(super) again: Option<Duration>,
}

/// A replica set to write, and what to say when it is written.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) set: ReplicaSet,
    pub(super) message: Option<String>,
}

/// The longest name an object may have.
const NAME_LENGTH: usize = 253;

pub(super) fn decide(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: Vec<Arc<ReplicaSet>>,
    old_pods_run: impl Fn(Option<&ReplicaSet>) -> bool,
    now: Timestamp,
) -> Plan {
    let view = View::new(deployment, spec, sets);
    let new_revision = view.old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1;
    let mut plan = Plan::default();
    note_new_set(&view, new_revision, &mut plan);
    if !plan.updates.is_empty() {
        return plan;
    }
    if deployment.metadata.deletion_timestamp.is_some() {
        plan.status = Some(status::calculate(&view, now));
        return plan;
    }
    let paused = spec.paused == Some(true);
    if paused || view.is_scaling() {
        plan.updates = scale(&view);
        if paused {
            clean_up(&view, &mut plan);
        }
        let mut status = status::calculate(&view, now);
        note_pause(&view, &mut status, paused, now);
        plan.status = Some(status);
        return plan;
    }
    if view.is_rolling() {
        roll(&view, new_revision, &mut plan);
    } else {
        recreate(&view, new_revision, &old_pods_run, &mut plan);
    }
    if plan.create.is_none() && plan.updates.is_empty() && is_done(&view) {
        clean_up(&view, &mut plan);
    }
    let (mut status, again) = status::rollout(&view, now);
    note_pause(&view, &mut status, paused, now);
    if view.progress_deadline().is_some()
        && find(&status, PROGRESSING).is_none()
        && let Some(set) = &view.new
    {
        let message = format!("Found new replica set {:?}", name(set));
        status::put(
            &mut status,
            condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now),
        );
    }
    plan.status = Some(status);
    plan.again = again;
    plan
}

/// The status to write when the new set has just been created, or could not be.
pub(super) fn after_create(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    outcome: Result<&str, String>,
    now: Timestamp,
) -> Option<DeploymentStatus> {
    let view = View::new(deployment, spec, Vec::new());
    view.progress_deadline()?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let progress = match outcome {
        Ok(name) => {
            let message = format!("Created new replica set {name:?}");
            condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now)
        }
        Err(message) => condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now),
    };
    status::put(&mut status, progress);
    Some(status)
}

fn is_done(view: &View<'_>) -> bool {
    let status = view.deployment.status.as_ref();
    status.is_some_and(|s| status::is_complete(view, s))
}

/// The annotations and `minReadySeconds` of the present set follow the deployment; its revision is the highest.
fn note_new_set(view: &View<'_>, new_revision: i64, plan: &mut Plan) {
    let Some(set) = &view.new else { return };
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    let mut changed = annotations::update(&mut annotations, view.deployment, new_revision);
    let min_ready = |seconds: Option<i32>| seconds.unwrap_or(0);
    let own = set.spec.as_ref().and_then(|s| s.min_ready_seconds);
    changed |= min_ready(own) != min_ready(view.spec.min_ready_seconds);
    if changed {
        let mut copy = (**set).clone();
        copy.metadata.annotations = Some(annotations);
        if let Some(spec) = &mut copy.spec {
            spec.min_ready_seconds = view.spec.min_ready_seconds;
        }
        plan.updates.push(Update {
            set: copy,
            message: None,
        });
        return;
    }
    let noted = view
        .deployment
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(REVISION));
    let own = annotations.get(REVISION);
    if noted != own {
        plan.revision = own.cloned();
    }
}

fn note_pause(view: &View<'_>, status: &mut DeploymentStatus, paused: bool, now: Timestamp) {
    if view.progress_deadline().is_none() {
        return;
    }
    let reason = find(status, PROGRESSING)
        .and_then(|c| c.reason.clone())
        .unwrap_or_default();
    if reason == "ProgressDeadlineExceeded" {
        return;
    }
    if paused && reason != "DeploymentPaused" {
        let message = "Deployment is paused".to_owned();
        status::put(
            status,
            condition(PROGRESSING, "Unknown", "DeploymentPaused", message, now),
        );
    } else if !paused && reason == "DeploymentPaused" {
        let message = "Deployment is resumed".to_owned();
        status::put(
            status,
            condition(PROGRESSING, "Unknown", "DeploymentResumed", message, now),
        );
    }
}

/// A set of another size, with the sizes it was made for; `None` if nothing would change.
fn resize(view: &View<'_>, set: &Arc<ReplicaSet>, size: i32, force: bool) -> Option<Update> {
    let old = replicas(set);
    if !force && old == size {
        return None;
    }
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    let annotated = set_sizes(&mut annotations, view.replicas, view.replicas + view.max_surge());
    if old == size && !annotated {
        return None;
    }
    let mut copy = (**set).clone();
    copy.metadata.annotations = Some(annotations);
    copy.spec.get_or_insert_default().replicas = Some(size);
    let direction = if old < size { "up" } else { "down" };
    let message = (old != size).then(|| {
        format!(
            "Scaled {direction} replica set {} from {old} to {size}",
            name(set)
        )
    });
    Some(Update { set: copy, message })
}

/// The deployment was scaled, or is paused: sizes change, the template does not.
fn scale(view: &View<'_>) -> Vec<Update> {
    if let Some(set) = view.active_or_latest() {
        let update = if replicas(&set) == view.replicas {
            // Its size is right; that the sizes it was made for change with it keeps the next look quiet.
            resize(view, &set, view.replicas, replicas(&set) > 0)
        } else {
            resize(view, &set, view.replicas, false)
        };
        return update.into_iter().collect();
    }
    if view.is_saturated() {
        let old = view.old.iter().filter(|s| replicas(s) > 0);
        return old.filter_map(|s| resize(view, s, 0, false)).collect();
    }
    if !view.is_rolling() {
        return Vec::new();
    }
    let sizes = view.proportional_sizes();
    sizes
        .iter()
        .filter_map(|(set, size)| resize(view, set, *size, true))
        .collect()
}

fn roll(view: &View<'_>, new_revision: i64, plan: &mut Plan) {
    let Some(new) = &view.new else {
        plan.create = Some(Box::new(new_set(view, new_revision)));
        return;
    };
    let present = replicas(new);
    if present != view.replicas {
        let size = if present > view.replicas {
            view.replicas
        } else {
            view.new_replicas(present)
        };
        if let Some(update) = resize(view, new, size, false) {
            plan.updates.push(update);
            return;
        }
    }
    plan.updates = scale_down_old(view, new);
}

/// Takes pods from the old sets: first those that are not available anyway, then as many as may be missed.
fn scale_down_old(view: &View<'_>, new: &ReplicaSet) -> Vec<Update> {
    let total: i32 = view.all().map(|s| replicas(s)).sum();
    let least = view.replicas - view.max_unavailable();
    let new_unavailable = replicas(new) - held(new);
    let mut spare = total - least - new_unavailable;
    if spare <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(&Arc<ReplicaSet>, i32)> = view
        .old
        .iter()
        .filter(|s| replicas(s) > 0)
        .map(|s| (s, replicas(s)))
        .collect();
    for (set, size) in &mut sizes {
        let unhealthy = (*size - held(set)).clamp(0, spare);
        *size -= unhealthy;
        spare -= unhealthy;
    }
    let all_available: i32 = view.all().map(|s| held(s)).sum();
    let mut dispensable = all_available - least;
    for (_, size) in &mut sizes {
        let count = (*size).min(dispensable);
        if count > 0 {
            *size -= count;
            dispensable -= count;
        }
    }
    sizes
        .into_iter()
        .filter_map(|(set, size)| resize(view, set, size, false))
        .collect()
}

/// The available pods that a set keeps: what it has beyond its size is going, though its status may not say so yet.
fn held(set: &ReplicaSet) -> i32 {
    available(set).min(replicas(set))
}

fn recreate(
    view: &View<'_>,
    new_revision: i64,
    old_pods_run: &impl Fn(Option<&ReplicaSet>) -> bool,
    plan: &mut Plan,
) {
    plan.updates = view
        .old
        .iter()
        .filter(|s| replicas(s) > 0)
        .filter_map(|s| resize(view, s, 0, false))
        .collect();
    if !plan.updates.is_empty() {
        return;
    }
    let counted: i32 = view.old.iter().map(|s| actual(s)).sum();
    if counted > 0 || old_pods_run(view.new.as_deref()) {
        return;
    }
    match &view.new {
        None => plan.create = Some(Box::new(new_set(view, new_revision))),
        Some(new) => plan.updates.extend(resize(view, new, view.replicas, false)),
    }
}

/// The replica set of the present template.
fn new_set(view: &View<'_>, new_revision: i64) -> ReplicaSet {
    let deployment = view.deployment;
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&view.spec.template, collisions);
    let mut template = view.spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = view.spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let mut name = deployment.metadata.name.clone().unwrap_or_default();
    name.truncate(NAME_LENGTH - 1 - hash.len());
    let mut annotations = std::collections::BTreeMap::new();
    annotations::update(&mut annotations, deployment, new_revision);
    set_sizes(&mut annotations, view.replicas, view.replicas + view.max_surge());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![controller_ref(deployment)]),
            labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(view.new_replicas(0)),
            min_ready_seconds: view.spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Old sets beyond the history limit go, the lowest revisions first.
fn clean_up(view: &View<'_>, plan: &mut Plan) {
    let Some(limit) = view.spec.revision_history_limit.filter(|l| *l != i32::MAX) else {
        return;
    };
    let mut old: Vec<&Arc<ReplicaSet>> = view
        .old
        .iter()
        .filter(|s| s.metadata.deletion_timestamp.is_none())
        .collect();
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|s| revision(s));
    let idle = |set: &&&Arc<ReplicaSet>| {
        let observed = set.status.as_ref().and_then(|s| s.observed_generation);
        actual(set) == 0 && replicas(set) == 0 && set.metadata.generation <= observed
    };
    plan.deletes = old
        .iter()
        .take(surplus)
        .filter(idle)
        .map(|s| Arc::clone(s))
        .collect();
}
