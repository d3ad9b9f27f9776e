//! The group `apiregistration.k8s.io`.

use crate::Entry;

mod api_service;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[("apiregistration.k8s.io", "apiservices", &api_service::ApiService)];
