//! The group `apiextensions.k8s.io`.

use crate::Entry;

pub mod custom_resource;
pub mod custom_resource_definition;
pub mod definition;
pub mod structural;

pub use custom_resource::CustomResource;
pub use definition::{CustomSchema, Definition};

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "apiextensions.k8s.io",
    "customresourcedefinitions",
    &custom_resource_definition::CustomResourceDefinition,
)];
