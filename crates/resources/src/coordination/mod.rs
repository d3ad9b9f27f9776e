//! The group `coordination.k8s.io`.

use crate::Entry;

mod lease;
mod lease_candidate;

const GROUP: &str = "coordination.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (GROUP, "leasecandidates", &lease_candidate::LeaseCandidate),
    (GROUP, "leases", &lease::Lease),
];
