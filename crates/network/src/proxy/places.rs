//! Which endpoint has which place in its pool, from one plan to the next.
//!
//! Keeping places makes one endpoint more or less cost two elements and not all behind it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use compact_str::CompactString;

use super::elements::Pools;
use super::plan::{Pool, PortPlan};
use super::service::Policy;
use super::state::Numbers;
use super::table::StickyPool;

/// The pools of one Service.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pools: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    key: PoolKey,
    places: Vec<(IpAddr, u16)>,
    /// Of a pool with affinity: its number and those of its endpoints, by place.
    sticky: Option<(u32, Duration, Vec<u32>)>,
}

/// A pool of a Service by port name, protocol and policy.
type PoolKey = (CompactString, u8, Policy);

impl Remembered {
    /// Lets `work` ask for places, then forgets the pools it did not ask for.
    pub(super) fn round(&mut self, next: &mut Numbers, work: impl FnOnce(&mut dyn Pools)) {
        let mut round = Round {
            memory: self,
            next,
            used: Vec::new(),
        };
        work(&mut round);
        let used = round.used;
        self.pools.retain(|known| used.contains(&known.key));
    }
}

struct Round<'a> {
    memory: &'a mut Remembered,
    next: &'a mut Numbers,
    used: Vec<PoolKey>,
}

impl Round<'_> {
    fn get(&mut self, port: &PortPlan, policy: Policy) -> &mut Known {
        let key = (port.name.clone(), port.proto, policy);
        if !self.used.contains(&key) {
            self.used.push(key.clone());
        }
        let pools = &mut self.memory.pools;
        let at = pools
            .iter()
            .position(|known| known.key == key)
            .unwrap_or_else(|| {
                pools.push(Known {
                    key,
                    places: Vec::new(),
                    sticky: None,
                });
                pools.len() - 1
            });
        &mut pools[at]
    }
}

impl Pools for Round<'_> {
    fn arrange(&mut self, port: &PortPlan, pool: &Pool) -> Vec<(IpAddr, u16)> {
        let known = self.get(port, pool.policy);
        known.sticky = None;
        known.places = arrange(&known.places, &pool.endpoints);
        known.places.clone()
    }

    fn sticky(&mut self, port: &PortPlan, pool: &Pool) -> StickyPool {
        let time = pool.affinity.unwrap_or_default();
        let (mut next_pool, mut next_endpoint) = (self.next.pool, self.next.endpoint);
        let known = self.get(port, pool.policy);
        let new = arrange(&known.places, &pool.endpoints);
        // The time is written into each endpoint's rules, so another time means another pool.
        let before = known.sticky.take().filter(|(_, of, _)| *of == time);
        let (number, numbers) = match before {
            Some((number, _, numbers)) => (number, numbers),
            None => {
                next_pool += 1;
                (next_pool, Vec::new())
            }
        };
        let endpoints: Vec<(u32, IpAddr, u16)> = new
            .iter()
            .map(|(ip, port)| {
                let place = known.places.iter().position(|known| known == &(*ip, *port));
                let number = place
                    .and_then(|place| numbers.get(place).copied())
                    .unwrap_or_else(|| {
                        next_endpoint += 1;
                        next_endpoint
                    });
                (number, *ip, *port)
            })
            .collect();
        known.places = new;
        known.sticky = Some((
            number,
            time,
            endpoints.iter().map(|(number, ..)| *number).collect(),
        ));
        self.next.pool = next_pool;
        self.next.endpoint = next_endpoint;
        StickyPool {
            number,
            time,
            endpoints,
        }
    }
}

fn arrange(old: &[(IpAddr, u16)], new: &[(IpAddr, u16)]) -> Vec<(IpAddr, u16)> {
    let wanted: HashSet<_> = new.iter().collect();
    let kept = old
        .iter()
        .take(new.len())
        .map(|e| wanted.contains(e).then_some(*e));
    let mut places: Vec<Option<(IpAddr, u16)>> = kept.collect();
    places.resize(new.len(), None);
    let settled: HashSet<_> = places.iter().flatten().copied().collect();
    let mut others = new.iter().filter(|e| !settled.contains(*e)).copied();
    // As many others as there are holes: both lists hold each endpoint once.
    places
        .into_iter()
        .filter_map(|place| place.or_else(|| others.next()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stays_keeps_the_place() {
        let list = |text: &str| -> Vec<(IpAddr, u16)> {
            text.bytes()
                .map(|letter| (IpAddr::from([10, 0, 0, letter]), 80))
                .collect()
        };
        for (old, new, wanted) in [
            ("", "abc", "abc"),
            ("abc", "bc", "cb"),
            ("abc", "ab", "ab"),
            ("abc", "abcd", "abcd"),
            ("abc", "xbcd", "xbcd"),
            ("abcd", "d", "d"),
        ] {
            assert_eq!(arrange(&list(old), &list(new)), list(wanted), "{old} to {new}");
        }
    }
}
