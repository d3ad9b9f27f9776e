//! The group `policy`.

use crate::Entry;

mod pod_disruption_budget;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "policy",
    "poddisruptionbudgets",
    &pod_disruption_budget::PodDisruptionBudget,
)];
