//! The group `apps`.

use crate::Entry;

mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (
        "apps",
        "controllerrevisions",
        &controller_revision::ControllerRevision,
    ),
    ("apps", "daemonsets", &daemon_set::DaemonSet),
    ("apps", "deployments", &deployment::Deployment),
    ("apps", "replicasets", &replica_set::ReplicaSet),
    ("apps", "statefulsets", &stateful_set::StatefulSet),
];
