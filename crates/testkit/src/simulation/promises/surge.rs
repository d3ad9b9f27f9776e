//! A Deployment's ReplicaSets together never ask for more pods than its replicas and `maxSurge`, and an autoscaler never
//! leaves its bounds.
//!
//! Pods may be more for a moment, where the answer to a creation was lost: what is asked for may not.

use super::super::facts::{controller, number, rollout_limits};
use super::super::window::Tracks;
use super::super::world::{Change, World};
use super::Promise;
use machinery::meta;

#[derive(Debug, Default)]
pub(super) struct Surge {
    /// Replicas and surge of each Deployment, by uid.
    allowed: Tracks,
}

impl Promise for Surge {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        let object = change.new?;
        match change.resource {
            "deployments" => {
                let replicas = number(object, &["spec", "replicas"])?;
                let (_, surge) = rollout_limits(object);
                self.allowed.set(meta::uid(object), change.at, replicas + surge);
                None
            }
            "replicasets" => self.asked(change, world),
            "horizontalpodautoscalers" => {
                let desired = number(object, &["status", "desiredReplicas"]).filter(|d| *d > 0)?;
                let least = number(object, &["spec", "minReplicas"]).unwrap_or(1);
                let most = number(object, &["spec", "maxReplicas"])?;
                let name = meta::name(object);
                (desired < least || desired > most)
                    .then(|| format!("autoscaler {name} wants {desired} of {least} to {most}"))
            }
            _ => None,
        }
    }
}

impl Surge {
    fn asked(&self, change: &Change<'_>, world: &World) -> Option<String> {
        let set = change.new?;
        let asked = |set| number(set, &["spec", "replicas"]).unwrap_or(0);
        if asked(set) <= change.old.map_or(0, asked) {
            return None;
        }
        let (_, uid) = controller(set)?;
        let deployment = world.by_uid("deployments", uid)?;
        let siblings = world
            .all("replicasets")
            .filter(|s| controller(s).is_some_and(|(_, u)| u == uid));
        let sum: i64 = siblings.map(asked).sum();
        let allowed = self.allowed.recent(uid, change.at).max()?;
        let name = meta::name(deployment);
        (sum > allowed).then(|| format!("deployment {name} asks for {sum} pods where {allowed} may be"))
    }
}
