//! The group `coordination.k8s.io`.

use crate::Entry;

mod lease;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[("coordination.k8s.io", "leases", &lease::Lease)];
