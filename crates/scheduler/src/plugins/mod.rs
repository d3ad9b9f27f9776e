//! The scheduler's plugins: one file each, and the one list of them in upstream's order.

pub mod dynamic_resources;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::framework::Plugin;
use client::{Informers, Recorder};
use machinery::clock::Clock;
use std::sync::Arc;

/// What a plugin may read besides the snapshot.
pub struct Context {
    pub informers: Informers,
    pub client: kube::Client,
    pub recorder: Recorder,
    pub clock: Arc<dyn Clock>,
}

type Make = fn(&Context) -> Arc<dyn Plugin>;

/// Every plugin, in the order in which upstream's default profile asks them.
/// `PrioritySort` is the queue's order, `DefaultPreemption` the cycle's answer to no fit, `DefaultBinder` the
/// binding task.
pub(crate) const ALL: &[(&str, Make)] = &[
    (scheduling_gates::NAME, |_| {
        Arc::new(scheduling_gates::SchedulingGates)
    }),
    (node_unschedulable::NAME, |_| {
        Arc::new(node_unschedulable::NodeUnschedulable)
    }),
    (node_name::NAME, |_| Arc::new(node_name::NodeName)),
    (taint_toleration::NAME, |_| {
        Arc::new(taint_toleration::TaintToleration)
    }),
    (node_affinity::NAME, |_| Arc::new(node_affinity::NodeAffinity)),
    (node_ports::NAME, |_| Arc::new(node_ports::NodePorts)),
    (node_resources_fit::NAME, |_| {
        Arc::new(node_resources_fit::NodeResourcesFit)
    }),
    (volume_restrictions::NAME, |c| {
        Arc::new(volume_restrictions::VolumeRestrictions::new(&c.informers))
    }),
    (node_volume_limits::NAME, |c| {
        Arc::new(node_volume_limits::NodeVolumeLimits::new(&c.informers))
    }),
    (volume_binding::NAME, |c| {
        Arc::new(volume_binding::VolumeBinding::new(&c.informers, c.client.clone()))
    }),
    (volume_zone::NAME, |c| {
        Arc::new(volume_zone::VolumeZone::new(&c.informers))
    }),
    (pod_topology_spread::NAME, |c| {
        Arc::new(pod_topology_spread::PodTopologySpread::new(&c.informers))
    }),
    (inter_pod_affinity::NAME, |c| {
        Arc::new(inter_pod_affinity::InterPodAffinity::new(&c.informers))
    }),
    (dynamic_resources::NAME, |c| {
        Arc::new(dynamic_resources::DynamicResources::new(c))
    }),
    (node_resources_balanced_allocation::NAME, |_| {
        Arc::new(node_resources_balanced_allocation::NodeResourcesBalancedAllocation)
    }),
    (image_locality::NAME, |_| Arc::new(image_locality::ImageLocality)),
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_in_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plugins");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .expect("plugins folder")
            .map(|e| {
                e.expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .replace(".rs", "")
                    .replace('_', "")
            })
            .filter(|f| f != "mod")
            .collect();
        let mut listed: Vec<String> = super::ALL.iter().map(|(name, _)| name.to_lowercase()).collect();
        files.sort();
        listed.sort();
        assert_eq!(files, listed);
    }
}
