//! The group `scheduling.k8s.io`.

use crate::Entry;

mod priority_class;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "scheduling.k8s.io",
    "priorityclasses",
    &priority_class::PriorityClass,
)];
