//! The core group.

use crate::Entry;

mod config_map;
mod endpoints;
pub mod event;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
pub mod service;
mod service_account;

pub(crate) use persistent_volume::{Place as VolumePlace, spec as volume_spec};
pub(crate) use persistent_volume_claim::claim_spec;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    ("", "configmaps", &config_map::ConfigMap),
    ("", "endpoints", &endpoints::Endpoints),
    ("", "events", &event::Event),
    ("", "limitranges", &limit_range::LimitRange),
    ("", "namespaces", &namespace::Namespace),
    ("", "nodes", &node::Node),
    (
        "",
        "persistentvolumeclaims",
        &persistent_volume_claim::PersistentVolumeClaim,
    ),
    ("", "persistentvolumes", &persistent_volume::PersistentVolume),
    ("", "pods", &pod::Pod),
    ("", "podtemplates", &pod_template::PodTemplate),
    (
        "",
        "replicationcontrollers",
        &replication_controller::ReplicationController,
    ),
    ("", "resourcequotas", &resource_quota::ResourceQuota),
    ("", "secrets", &secret::Secret),
    ("", "serviceaccounts", &service_account::ServiceAccount),
    ("", "services", &service::Service),
];
