//! One file a kind: how it differs from the default [`Strategy`]. Add a kind by adding its file and its line in its
//! group's list; kinds that are not listed behave as [`strategy::Default`].

pub mod at;
pub mod check;
mod conditions;
mod diff;
pub mod fields;
pub mod ip;
pub mod pod_spec;
pub mod quota;
pub mod strategy;
pub mod table;
mod warnings;

mod admissionregistration;
pub mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
pub mod core;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;
mod storagemigration;

use std::sync::LazyLock;

pub use at::At;
pub use strategy::{Column, Context, Grace, KindInfo, Strategy, Subresource};

/// A resource and its strategy.
pub type Entry = (&'static str, &'static str, &'static dyn Strategy);

/// Every group's list, by the groups' names.
const GROUPS: &[&[Entry]] = &[
    core::ALL,
    admissionregistration::ALL,
    apiextensions::ALL,
    apiregistration::ALL,
    apps::ALL,
    autoscaling::ALL,
    batch::ALL,
    certificates::ALL,
    coordination::ALL,
    discovery::ALL,
    events::ALL,
    flowcontrol::ALL,
    networking::ALL,
    node::ALL,
    policy::ALL,
    rbac::ALL,
    resource::ALL,
    scheduling::ALL,
    storage::ALL,
    storagemigration::ALL,
];

static ALL: LazyLock<Vec<Entry>> = LazyLock::new(|| GROUPS.concat());

/// Group, resource and strategy of every kind that differs from the default, sorted.
pub fn all() -> &'static [Entry] {
    &ALL
}

/// The strategy of a resource.
pub fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    let all = all();
    match all.binary_search_by(|(g, r, _)| (*g, *r).cmp(&(group, resource))) {
        Ok(at) => all[at].2,
        Err(_) => &strategy::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(all().is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}
