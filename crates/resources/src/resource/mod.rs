//! The group `resource.k8s.io`.

use crate::Entry;

mod device_class;
mod resource_claim;
mod resource_claim_template;
mod resource_slice;
mod validation;

const GROUP: &str = "resource.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (GROUP, "deviceclasses", &device_class::DeviceClass),
    (GROUP, "resourceclaims", &resource_claim::ResourceClaim),
    (
        GROUP,
        "resourceclaimtemplates",
        &resource_claim_template::ResourceClaimTemplate,
    ),
    (GROUP, "resourceslices", &resource_slice::ResourceSlice),
];
