//! A StatefulSet with ordered pods makes one only when all before it are healthy, takes one by scaling only when none is
//! after it, and takes one by a rollout only when all others are healthy.

use super::super::facts::{Ending, controller, ending, is_healthy, is_leaving, number};
use super::super::window::{Moments, Tracks};
use super::super::world::{Change, World};
use super::Promise;
use machinery::{Value, meta};

#[derive(Debug, Default)]
pub(super) struct Ordinals {
    /// How many pods each set is to have, by uid.
    replicas: Tracks,
    /// When pods went that their set did not take, by the set's uid and the pod's ordinal.
    lapses: Moments,
}

fn ordinal(pod: &Value) -> Option<i64> {
    meta::name(pod).rsplit_once('-')?.1.parse().ok()
}

impl Promise for Ordinals {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        if change.resource == "statefulsets" {
            let set = change.new?;
            let replicas = number(set, &["spec", "replicas"])?;
            self.replicas.set(meta::uid(set), change.at, replicas);
            return None;
        }
        if change.resource != "pods" {
            return None;
        }
        let pod = change.object();
        let ("StatefulSet", uid) = controller(pod)? else {
            return None;
        };
        let own = ordinal(pod)?;
        let set = world.by_uid("statefulsets", uid)?;
        let ended = ending(change.old, change.new);
        if ended.is_some() {
            // Whoever took it: the next in the order may not have heard.
            self.lapses.note(&format!("{uid}/{own}"), change.at);
        }
        let parallel = set.get_str_path(&["spec", "podManagementPolicy"]) == Some("Parallel");
        if parallel || is_leaving(set) {
            return None;
        }
        let name = meta::name(pod);
        let healthy = |at: i64| {
            world
                .pods_of(uid)
                .any(|p| ordinal(p) == Some(at) && is_healthy(p))
        };
        let sound = |at: i64| healthy(at) || self.lapses.recent(&format!("{uid}/{at}"), change.at) > 0;
        if change.old.is_none() {
            let missing = (0..own).find(|at| !sound(*at))?;
            return Some(format!(
                "pod {name} was made while number {missing} is not healthy"
            ));
        }
        let taken = change.old.is_some_and(|old| !is_leaving(old)) && ended == Some(Ending::Deleted);
        if !taken {
            return None;
        }
        let least = self.replicas.recent(uid, change.at).min()?;
        let most = self.replicas.recent(uid, change.at).max()?;
        if own >= least {
            let after = world
                .pods_of(uid)
                .filter_map(ordinal)
                .filter(|at| *at > own && *at >= most)
                .max()?;
            return Some(format!("pod {name} was taken while number {after} is there"));
        }
        let others = (0..least).filter(|at| *at != own);
        let missing = others.into_iter().find(|at| !sound(*at))?;
        Some(format!(
            "pod {name} was taken while number {missing} is not healthy"
        ))
    }
}
