//! The group `autoscaling`.

use crate::Entry;

mod horizontal_pod_autoscaler;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "autoscaling",
    "horizontalpodautoscalers",
    &horizontal_pod_autoscaler::HorizontalPodAutoscaler,
)];
