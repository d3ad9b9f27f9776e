//! Counters that devices of a pool share (KEP-4815): what is left of them, and what a search has taken.

use super::pool::Ready;
use super::taken::Taken;
use super::{DeviceId, pool::PoolId};
use hashbrown::HashMap;
use k8s_openapi::api::resource::v1::{Counter, Device};
use machinery::quantity::Quantity;

/// A counter, by its pool's position, its set and its name.
type Key<'a> = (usize, &'a str, &'a str);

#[derive(Debug, Default)]
pub(super) struct Counters<'a>(HashMap<Key<'a>, Quantity>);

fn value(counter: &Counter) -> Quantity {
    // The API server has checked it.
    counter.value.0.parse().unwrap_or(Quantity::ZERO)
}

fn taken_by<'a>(pool: usize, device: &'a Device) -> impl Iterator<Item = (Key<'a>, Quantity)> {
    let sets = device.consumes_counters.iter().flatten();
    sets.flat_map(move |set| {
        let counters = set.counters.iter();
        counters.map(move |(name, counter)| ((pool, set.counter_set.as_str(), name.as_str()), value(counter)))
    })
}

impl<'a> Counters<'a> {
    /// Adds the counters of a pool, without what its allocated devices take.
    pub(super) fn add_pool(&mut self, at: usize, id: PoolId<'a>, pool: &Ready<'a>, taken: &Taken) {
        for (set, counters) in &pool.counters {
            for (name, counter) in &counters.counters {
                self.0.insert((at, set, name), value(counter));
            }
        }
        let slices = pool.slices.iter().chain(&pool.elsewhere);
        for device in slices.flat_map(|s| s.spec.devices.iter().flatten()) {
            let counted = device.consumes_counters.as_ref().is_some_and(|c| !c.is_empty());
            if counted && taken.is_used(&DeviceId::new(id.driver, id.name, &device.name)) {
                self.subtract(at, device);
            }
        }
    }

    /// Takes what a device takes, if there is enough of everything.
    pub(super) fn take(&mut self, pool: usize, device: &'a Device) -> bool {
        self.subtract(pool, device);
        let short =
            taken_by(pool, device).any(|(key, _)| self.0.get(&key).is_some_and(|left| left.sign() < 0));
        if short {
            self.give_back(pool, device);
        }
        !short
    }

    pub(super) fn give_back(&mut self, pool: usize, device: &'a Device) {
        for (key, amount) in taken_by(pool, device) {
            if let Some(left) = self.0.get_mut(&key) {
                *left = *left + amount;
            }
        }
    }

    fn subtract(&mut self, pool: usize, device: &'a Device) {
        for (key, amount) in taken_by(pool, device) {
            if let Some(left) = self.0.get_mut(&key) {
                *left = *left - amount;
            }
        }
    }
}
