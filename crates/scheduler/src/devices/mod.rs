//! Devices and the claims for them: which devices there are for a node, which are taken, and how claims can be allocated
//! (KEP-4381, structured parameters).
//!
//! ```text
//!  ResourceSlices ─► pools of a node ─┐
//!  claims, pending ─► taken ──────────┼─► search: one device after the other for every request ─► allocations
//!  DeviceClasses, requests ───────────┘        constraints, counters, capacities, taints
//! ```
//!
//! The search is a plain function of what stands in the informers; the plugin `DynamicResources` asks it, and `binding`
//! writes what it answered.
//!
//! **Invariant:** all claims of a pod are allocated, or none.

mod binding;
mod capacity;
pub(crate) mod claims;
mod constraint;
mod counters;
mod pool;
mod request;
mod result;
mod search;
mod selector;
mod taken;

pub(crate) use binding::{Binding, Pending, Writer};
pub(crate) use search::{Failure, Search};
pub(crate) use selector::Selectors;
pub(crate) use taken::Taken;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

/// One device of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceId {
    pub(crate) driver: Arc<str>,
    pub(crate) pool: Arc<str>,
    pub(crate) device: Arc<str>,
}

impl DeviceId {
    pub(crate) fn new(driver: &str, pool: &str, device: &str) -> Self {
        Self {
            driver: Arc::from(driver),
            pool: Arc::from(pool),
            device: Arc::from(device),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}
