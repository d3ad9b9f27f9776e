//! A rollout never takes a healthy pod of a DaemonSet when more nodes than `maxUnavailable` would be without one.

use super::super::facts::{Ending, controller, ending, is_healthy, is_leaving, number, share};
use super::super::window::Moments;
use super::super::world::{Change, World};
use super::{Promise, count};
use machinery::meta;

#[derive(Debug, Default)]
pub(super) struct Daemons {
    /// When pods went that no rollout took, or nodes came, by the set's uid.
    lapses: Moments,
}

impl Promise for Daemons {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        if change.resource == "minions" {
            if change.old.is_none() {
                for set in world.all("daemonsets") {
                    self.lapses.note(meta::uid(set), change.at);
                }
            }
            return None;
        }
        if change.resource != "pods" {
            return None;
        }
        let ended = ending(change.old, change.new)?;
        let pod = change.object();
        let ("DaemonSet", uid) = controller(pod)? else {
            return None;
        };
        let set = world.by_uid("daemonsets", uid)?;
        if ended != Ending::Deleted {
            self.lapses.note(uid, change.at);
            return None;
        }
        // A pod goes with its node, and with its set.
        let node = pod.get_str_path(&["spec", "nodeName"])?;
        if is_leaving(set) || !world.all("minions").any(|n| meta::name(n) == node) {
            return None;
        }
        let desired = number(set, &["status", "desiredNumberScheduled"])?;
        let field = set.get_path(&["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"]);
        let surge = set.get_path(&["spec", "updateStrategy", "rollingUpdate", "maxSurge"]);
        let surges = share(surge, desired, true).is_some_and(|s| s > 0);
        let most = if surges {
            0
        } else {
            share(field, desired, true)?.max(1)
        };
        let mut served: Vec<&str> = world
            .pods_of(uid)
            .filter(|p| is_healthy(p))
            .filter_map(|p| p.get_str_path(&["spec", "nodeName"]))
            .collect();
        served.sort_unstable();
        served.dedup();
        let missing = desired - i64::try_from(served.len()).unwrap_or(i64::MAX);
        let lapsed = self.lapses.recent(uid, change.at);
        let pods = count(world.pods_of(uid));
        (missing > most + lapsed).then(|| {
            format!(
                "pod {} was taken from daemon set {}: {missing} of {desired} nodes are without, {lapsed} lapsed, {most} may be ({pods} pods)",
                meta::name(pod),
                meta::name(set)
            )
        })
    }
}
