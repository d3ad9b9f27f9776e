//! A rollout never takes a healthy pod of a Deployment when fewer than its replicas less `maxUnavailable` would be left.

use super::super::facts::{Ending, controller, ending, is_healthy, is_leaving, number, rollout_limits};
use super::super::window::{Moments, Tracks};
use super::super::world::{Change, World};
use super::{Promise, count};
use machinery::meta;

#[derive(Debug, Default)]
pub(super) struct Unavailable {
    /// How many pods of each Deployment must be there, by uid.
    required: Tracks,
    /// When pods went that no rollout took, by their Deployment's uid.
    lapses: Moments,
}

impl Promise for Unavailable {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        if change.resource == "deployments" {
            let deployment = change.new?;
            let replicas = number(deployment, &["spec", "replicas"])?;
            let rolls = deployment.get_str_path(&["spec", "strategy", "type"]) == Some("RollingUpdate");
            let required = if rolls {
                replicas - rollout_limits(deployment).0
            } else {
                0
            };
            self.required.set(meta::uid(deployment), change.at, required);
            return None;
        }
        if change.resource != "pods" {
            return None;
        }
        let ending = ending(change.old, change.new)?;
        let pod = change.object();
        let deployment = world.deployment_of(pod)?;
        let uid = meta::uid(deployment);
        if ending != Ending::Deleted {
            self.lapses.note(uid, change.at);
            return None;
        }
        if is_leaving(deployment) {
            return None;
        }
        let sets = world
            .all("replicasets")
            .filter(|s| controller(s).is_some_and(|(_, u)| u == uid));
        let healthy: i64 = sets
            .map(|set| count(world.pods_of(meta::uid(set)).filter(|p| is_healthy(p))))
            .sum();
        let required = self.required.recent(uid, change.at).min()?;
        let lapsed = self.lapses.recent(uid, change.at);
        (healthy + lapsed < required).then(|| {
            format!(
                "pod {} was taken from deployment {}: {healthy} healthy pods are left, {lapsed} lapsed, {required} must be",
                meta::name(pod),
                meta::name(deployment)
            )
        })
    }
}
