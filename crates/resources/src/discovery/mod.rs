//! The group `discovery.k8s.io`.

use crate::Entry;

mod endpoint_slice;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "discovery.k8s.io",
    "endpointslices",
    &endpoint_slice::EndpointSlice,
)];
