//! The group `node.k8s.io`.

use crate::Entry;

mod runtime_class;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[("node.k8s.io", "runtimeclasses", &runtime_class::RuntimeClass)];
