//! A Job counts every pod that succeeded once: never more than its completions, never more than there were, never less
//! than before; and what has ended stays ended.

use super::super::facts::{controller, holds, is_active, number, phase};
use super::super::world::{Change, World};
use super::{Promise, count};
use machinery::{Value, meta};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Completions {
    /// The pods that ever succeeded, by their job's uid.
    succeeded: BTreeMap<String, BTreeSet<String>>,
}

impl Promise for Completions {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        match change.resource {
            "pods" => {
                let pod = change.new?;
                let ("Job", job) = controller(pod)? else {
                    return None;
                };
                if phase(pod) == "Succeeded" {
                    let all = self.succeeded.entry(job.to_owned()).or_default();
                    all.insert(meta::uid(pod).to_owned());
                }
                change
                    .old
                    .is_none()
                    .then(|| parallelism(job, change, world))
                    .flatten()
            }
            "jobs" => self.counted(change.old, change.new?),
            _ => None,
        }
    }
}

impl Completions {
    fn counted(&self, old: Option<&Value>, job: &Value) -> Option<String> {
        let name = meta::name(job);
        let of = |job| number(job, &["status", "succeeded"]).unwrap_or(0);
        let (before, now) = (old.map_or(0, of), of(job));
        let wanted = number(job, &["spec", "completions"]).unwrap_or(i64::MAX);
        let known = self.succeeded.get(meta::uid(job)).map_or(0, BTreeSet::len);
        if now < before {
            return Some(format!("job {name} counts {now} completions after {before}"));
        }
        if now > wanted || now > i64::try_from(known).unwrap_or(i64::MAX) {
            return Some(format!(
                "job {name} counts {now} completions of {wanted}; {known} pods succeeded"
            ));
        }
        if holds(job, "Complete") && now != wanted {
            return Some(format!(
                "job {name} is complete with {now} completions of {wanted}"
            ));
        }
        let ended = |kind: &str| old.is_some_and(|old| holds(old, kind)) && !holds(job, kind);
        (ended("Complete") || ended("Failed")).then(|| format!("job {name} had ended, and goes on"))
    }
}

/// As many pods at a time as the job says. One whose creator was not told of it may come to it for a moment.
fn parallelism(job: &str, change: &Change<'_>, world: &World) -> Option<String> {
    let job = world.by_uid("jobs", job)?;
    let most = number(job, &["spec", "parallelism"])?;
    let active = count(world.pods_of(meta::uid(job)).filter(|p| is_active(p)));
    let (name, untold) = (meta::name(job), change.untold);
    (active > most + untold)
        .then(|| format!("job {name} has {active} pods at work, {most} may be and {untold} untold"))
}
