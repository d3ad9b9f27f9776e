//! The group `apiextensions.k8s.io`.

use crate::Entry;

mod custom_resource_definition;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "apiextensions.k8s.io",
    "customresourcedefinitions",
    &custom_resource_definition::CustomResourceDefinition,
)];
