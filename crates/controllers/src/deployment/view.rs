//! A deployment and its replica sets, with the sums and comparisons decisions are made of.

use super::annotations::{DESIRED_REPLICAS, MAX_REPLICAS, number};
use crate::int_or_percent::{Round, resolve};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use std::cmp::Reverse;
use std::sync::Arc;

pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// What one decision is made from.
pub(super) struct View<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) spec: &'a DeploymentSpec,
    pub(super) replicas: i32,
    /// The set of the present template.
    pub(super) new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub(super) old: Vec<Arc<ReplicaSet>>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        deployment: &'a Deployment,
        spec: &'a DeploymentSpec,
        mut sets: Vec<Arc<ReplicaSet>>,
    ) -> Self {
        sets.sort_by_key(age_key);
        let at = sets.iter().position(|s| is_of_template(s, &spec.template));
        let new = at.map(|at| sets.remove(at));
        Self {
            deployment,
            spec,
            replicas: spec.replicas.unwrap_or(1),
            new,
            old: sets,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    pub(super) fn active(&self) -> Vec<Arc<ReplicaSet>> {
        self.all().filter(|s| replicas(s) > 0).cloned().collect()
    }

    pub(super) fn is_rolling(&self) -> bool {
        let strategy = self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref());
        strategy != Some("Recreate")
    }

    fn rolling(&self) -> Option<&RollingUpdateDeployment> {
        self.spec.strategy.as_ref()?.rolling_update.as_ref()
    }

    pub(super) fn max_surge(&self) -> i32 {
        if !self.is_rolling() {
            return 0;
        }
        resolve(
            self.rolling().and_then(|r| r.max_surge.as_ref()),
            self.replicas,
            Round::Up,
        )
    }

    pub(super) fn max_unavailable(&self) -> i32 {
        if !self.is_rolling() || self.replicas == 0 {
            return 0;
        }
        let value = self.rolling().and_then(|r| r.max_unavailable.as_ref());
        let unavailable = resolve(value, self.replicas, Round::Down);
        // With neither surge nor unavailability a rollout could not move.
        let unavailable = if unavailable == 0 && self.max_surge() == 0 {
            1
        } else {
            unavailable
        };
        unavailable.min(self.replicas)
    }

    pub(super) fn progress_deadline(&self) -> Option<i32> {
        self.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)
    }

    /// How many pods the set of the present template may have now.
    pub(super) fn new_replicas(&self, present: i32) -> i32 {
        if !self.is_rolling() {
            return self.replicas;
        }
        let total: i32 = self.all().map(|s| replicas(s)).sum();
        let most = self.replicas + self.max_surge();
        if total >= most {
            return present;
        }
        present + (most - total).min(self.replicas - present)
    }

    /// Whether the set has all pods of the deployment and they are available.
    pub(super) fn is_saturated(&self) -> bool {
        self.new.as_ref().is_some_and(|set| {
            replicas(set) == self.replicas
                && number(set, DESIRED_REPLICAS) == Some(self.replicas)
                && available(set) == self.replicas
        })
    }

    /// The deployment was scaled, and its sets do not know yet.
    pub(super) fn is_scaling(&self) -> bool {
        let active = self.active();
        let mut desired = active.iter().filter_map(|s| number(s, DESIRED_REPLICAS));
        desired.any(|d| d != self.replicas)
    }

    /// The one set with pods; without any, the set of the present template or else the youngest.
    pub(super) fn active_or_latest(&self) -> Option<Arc<ReplicaSet>> {
        let active = self.active();
        match active.len() {
            0 => self.new.clone().or_else(|| self.old.last().cloned()),
            1 => active.into_iter().next(),
            _ => None,
        }
    }

    /// The sizes of all sets when the surplus or lack is shared out in proportion.
    pub(super) fn proportional_sizes(&self) -> Vec<(Arc<ReplicaSet>, i32)> {
        let mut sets = self.active();
        let total: i32 = sets.iter().map(|s| replicas(s)).sum();
        let allowed = if self.replicas > 0 {
            self.replicas + self.max_surge()
        } else {
            0
        };
        let to_add = allowed - total;
        if to_add > 0 {
            sets.sort_by_key(|s| (Reverse(replicas(s)), Reverse(age_key(s))));
        } else {
            sets.sort_by_key(|s| (Reverse(replicas(s)), age_key(s)));
        }
        let mut added = 0;
        let mut sizes: Vec<(Arc<ReplicaSet>, i32)> = Vec::with_capacity(sets.len());
        for set in sets {
            let share = if to_add == 0 || to_add == added {
                0
            } else {
                self.proportion(&set, to_add - added)
            };
            added += share;
            let size = replicas(&set) + share;
            sizes.push((set, size));
        }
        if let Some((_, size)) = sizes.first_mut() {
            *size = (*size + to_add - added).max(0);
        }
        sizes
    }

    fn proportion(&self, set: &ReplicaSet, left: i32) -> i32 {
        let size = replicas(set);
        if size == 0 {
            return 0;
        }
        let fraction = if self.replicas == 0 {
            -size
        } else {
            let before = number(set, MAX_REPLICAS).filter(|n| *n != 0).or_else(|| {
                self.deployment
                    .status
                    .as_ref()
                    .and_then(|s| s.replicas)
                    .filter(|n| *n != 0)
            });
            let Some(before) = before else { return 0 };
            let scaled = f64::from(size) * f64::from(self.replicas + self.max_surge()) / f64::from(before);
            #[allow(clippy::cast_possible_truncation)] // A share of a 32-bit number.
            let rounded = scaled.round() as i32;
            rounded - size
        };
        if left > 0 {
            fraction.min(left)
        } else {
            fraction.max(left)
        }
    }
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|s| s.available_replicas)
        .unwrap_or(0)
}

pub(super) fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or("")
}

fn age_key(set: &Arc<ReplicaSet>) -> (Option<jiff::Timestamp>, String) {
    (
        set.metadata.creation_timestamp.as_ref().map(|t| t.0),
        name(set).to_owned(),
    )
}

/// Whether the set's template is this one, but for the hash in its labels.
pub(super) fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|s| s.template.as_ref()) else {
        return false;
    };
    if own.spec != template.spec {
        return false;
    }
    let bare = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        let mut labels = meta.labels.take().unwrap_or_default();
        labels.remove(HASH_LABEL);
        meta.labels = Some(labels);
        meta
    };
    bare(own) == bare(template)
}
