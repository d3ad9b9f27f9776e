//! The pools a node can have devices of: the newest generation of each, as far as all its slices are there.

use client::node_selector::{Subject, selector_matches};
use hashbrown::HashSet;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{CounterSet, Device, ResourceSlice};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A pool's name within its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolId<'a> {
    pub(super) driver: &'a str,
    pub(super) name: &'a str,
}

impl fmt::Display for PoolId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.driver, self.name)
    }
}

#[derive(Debug)]
pub(super) struct Pool<'a> {
    pub(super) id: PoolId<'a>,
    pub(super) state: State<'a>,
}

#[derive(Debug)]
pub(super) enum State<'a> {
    /// Its driver is not done publishing it.
    Incomplete,
    /// What it says contradicts itself.
    Invalid,
    Ready(Ready<'a>),
}

#[derive(Debug)]
pub(super) struct Ready<'a> {
    /// Slices with devices for the node, by name.
    pub(super) slices: Vec<&'a ResourceSlice>,
    /// Slices with devices for other nodes, which may take from the same counters.
    pub(super) elsewhere: Vec<&'a ResourceSlice>,
    pub(super) counters: BTreeMap<&'a str, &'a CounterSet>,
}

/// Whether a node is meant: by its name, because all are, or by its labels.
fn meant(name: Option<&str>, all: Option<bool>, selector: Option<&NodeSelector>, node: Subject<'_>) -> bool {
    match (name.filter(|n| !n.is_empty()), all, selector) {
        (Some(name), _, _) => name == node.name,
        (None, Some(true), _) => true,
        (None, _, Some(selector)) => selector_matches(selector, node),
        (None, _, None) => false,
    }
}

/// Whether a device that says itself where it can be used can be used on a node.
pub(super) fn reaches(device: &Device, node: Subject<'_>) -> bool {
    let name = device.node_name.as_deref();
    meant(name, device.all_nodes, device.node_selector.as_ref(), node)
}

fn has_counters(slice: &ResourceSlice) -> bool {
    slice.spec.shared_counters.as_ref().is_some_and(|c| !c.is_empty())
}

fn devices(slice: &ResourceSlice) -> &[Device] {
    slice.spec.devices.as_deref().unwrap_or(&[])
}

fn concerns(slice: &ResourceSlice, node: Subject<'_>) -> bool {
    let spec = &slice.spec;
    if has_counters(slice) {
        return true;
    }
    if spec.per_device_node_selection == Some(true) {
        return devices(slice).iter().any(|d| reaches(d, node));
    }
    meant(
        spec.node_name.as_deref(),
        spec.all_nodes,
        spec.node_selector.as_ref(),
        node,
    )
}

/// The pools of a node, by their names; those with devices that have to be prepared before a pod is bound come last.
pub(super) fn gather<'a>(slices: &'a [Arc<ResourceSlice>], node: Subject<'_>) -> Vec<Pool<'a>> {
    let mut found: BTreeMap<PoolId<'a>, Vec<&'a ResourceSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|s| concerns(s, node)) {
        let pool = &slice.spec.pool;
        let id = PoolId {
            driver: &slice.spec.driver,
            name: &pool.name,
        };
        let known = found.entry(id).or_default();
        let newest = known.first().map_or(pool.generation, |s| s.spec.pool.generation);
        if pool.generation > newest {
            known.clear();
        }
        if pool.generation >= newest {
            known.push(slice);
        }
    }
    let mut pools: Vec<Pool<'a>> = found
        .into_iter()
        .filter_map(|(id, own)| {
            let state = state(id, own, slices)?;
            Some(Pool { id, state })
        })
        .collect();
    // Stable: the names stay in order.
    pools.sort_by_key(Pool::has_conditions);
    pools
}

/// How a pool stands; `None` if a newer generation of it has nothing for the node.
fn state<'a>(
    id: PoolId<'a>,
    mut own: Vec<&'a ResourceSlice>,
    slices: &'a [Arc<ResourceSlice>],
) -> Option<State<'a>> {
    own.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let of = &own.first()?.spec.pool;
    let mut elsewhere = Vec::new();
    if i64::try_from(own.len()) != Ok(of.resource_slice_count) {
        let same = |s: &&&'a Arc<ResourceSlice>| s.spec.driver == id.driver && s.spec.pool.name == id.name;
        let mut all: Vec<&'a ResourceSlice> = Vec::new();
        for slice in slices.iter().filter(|s| same(&s)) {
            if slice.spec.pool.generation > of.generation {
                return None;
            }
            if slice.spec.pool.generation == of.generation {
                all.push(slice);
            }
        }
        if i64::try_from(all.len()) != Ok(of.resource_slice_count) {
            return Some(State::Incomplete);
        }
        let names: HashSet<Option<&str>> = own.iter().map(|s| s.metadata.name.as_deref()).collect();
        all.retain(|s| !names.contains(&s.metadata.name.as_deref()));
        elsewhere = all;
    }
    let (sets, own): (Vec<_>, Vec<_>) = own.into_iter().partition(|s| has_counters(s));
    let mut counters = BTreeMap::new();
    for set in sets.iter().flat_map(|s| s.spec.shared_counters.iter().flatten()) {
        if counters.insert(set.name.as_str(), set).is_some() {
            return Some(State::Invalid);
        }
    }
    let mut names = HashSet::new();
    let unique = own
        .iter()
        .flat_map(|s| devices(s))
        .all(|d| names.insert(d.name.as_str()));
    let all = own.iter().chain(&elsewhere).flat_map(|s| devices(s));
    if !unique || !all.into_iter().all(|d| counts(d, &counters)) {
        return Some(State::Invalid);
    }
    Some(State::Ready(Ready {
        slices: own,
        elsewhere,
        counters,
    }))
}

/// Whether every counter a device takes from is there.
fn counts(device: &Device, counters: &BTreeMap<&str, &CounterSet>) -> bool {
    device.consumes_counters.iter().flatten().all(|taken| {
        let set = counters.get(taken.counter_set.as_str());
        set.is_some_and(|set| taken.counters.keys().all(|name| set.counters.contains_key(name)))
    })
}

impl Pool<'_> {
    fn has_conditions(&self) -> bool {
        let State::Ready(ready) = &self.state else {
            return false;
        };
        let mut devices = ready.slices.iter().flat_map(|s| devices(s));
        devices.any(|d| d.binding_conditions.is_some())
    }
}
