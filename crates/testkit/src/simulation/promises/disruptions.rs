//! An eviction is granted only if as many healthy pods are left as every PodDisruptionBudget over the pod asks for.

use super::super::facts::{Ending, controller, ending, is_healthy, number, share};
use super::super::window::{Moments, Tracks};
use super::super::world::{Change, World};
use super::{Promise, count};
use machinery::selector::LabelSelector;
use machinery::{Value, meta};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Disruptions {
    /// How many pods each controller is to have, by uid.
    expected: Tracks,
    /// When pods went that nobody evicted, by budget.
    lapses: Moments,
}

impl Promise for Disruptions {
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String> {
        if matches!(change.resource, "deployments" | "statefulsets") {
            let object = change.new?;
            let replicas = number(object, &["spec", "replicas"])?;
            self.expected.set(meta::uid(object), change.at, replicas);
            return None;
        }
        if change.resource != "pods" {
            return None;
        }
        let ending = ending(change.old, change.new)?;
        let pod = change.object();
        let budgets = world.all("poddisruptionbudgets").filter(|b| covers(b, pod));
        for budget in budgets {
            let name = meta::name(budget);
            if ending != Ending::Evicted {
                self.lapses.note(name, change.at);
                continue;
            }
            let covered: Vec<&Value> = world.all("pods").filter(|p| covers(budget, p)).collect();
            let healthy = count(covered.iter().copied().filter(|p| is_healthy(p)));
            let needed = self.needed(budget, &covered, change, world)?;
            let lapsed = self.lapses.recent(name, change.at);
            if healthy + lapsed < needed {
                let pod = meta::name(pod);
                return Some(format!(
                    "pod {pod} was evicted under budget {name}: {healthy} healthy pods are left, {lapsed} lapsed, {needed} must be"
                ));
            }
        }
        None
    }
}

impl Disruptions {
    fn needed(&self, budget: &Value, covered: &[&Value], change: &Change<'_>, world: &World) -> Option<i64> {
        let owners: BTreeSet<&str> = covered
            .iter()
            .filter_map(|pod| match world.deployment_of(pod) {
                Some(deployment) => Some(meta::uid(deployment)),
                None => Some(controller(pod)?.1),
            })
            .collect();
        let expected: i64 = owners
            .iter()
            .map(|uid| self.expected.recent(uid, change.at).min().unwrap_or(0))
            .sum();
        let spec = |name: &str| budget.get_path(&["spec", name]);
        match share(spec("minAvailable"), expected, true) {
            Some(least) => Some(least),
            None => Some((expected - share(spec("maxUnavailable"), expected, true)?).max(0)),
        }
    }
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = LabelSelector::from_object(budget.get_path(&["spec", "selector"]));
    selector.is_ok_and(|s| s.matches(meta::labels(pod)))
}
