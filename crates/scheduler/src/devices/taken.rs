//! What is allocated already, by what claims say.

use super::DeviceId;
use hashbrown::{HashMap, HashSet};
use k8s_openapi::api::resource::v1::AllocationResult;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

/// How much of each capacity of a device.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// Devices that are in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    whole: HashSet<DeviceId>,
    /// Of devices that several claims may share.
    shares: HashMap<DeviceId, Amounts>,
}

impl Taken {
    /// Adds what an allocation holds. Access for administration takes nothing from others.
    pub(crate) fn add(&mut self, allocation: &AllocationResult) {
        let devices = allocation.devices.as_ref();
        let results = devices.and_then(|d| d.results.as_ref()).into_iter().flatten();
        for result in results.filter(|r| r.admin_access != Some(true)) {
            let id = DeviceId::new(&result.driver, &result.pool, &result.device);
            if result.share_id.is_none() {
                self.whole.insert(id);
                continue;
            }
            let sums = self.shares.entry(id).or_default();
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                if let Ok(amount) = amount.0.parse() {
                    add(sums, name, amount);
                }
            }
        }
    }

    pub(super) fn is_whole(&self, id: &DeviceId) -> bool {
        self.whole.contains(id)
    }

    pub(super) fn share(&self, id: &DeviceId) -> Option<&Amounts> {
        self.shares.get(id)
    }

    pub(super) fn is_used(&self, id: &DeviceId) -> bool {
        self.whole.contains(id) || self.shares.contains_key(id)
    }
}

/// Adds an amount to those of its name.
pub(super) fn add(sums: &mut Amounts, name: &str, amount: Quantity) {
    let sum = sums.entry(name.to_owned()).or_insert(Quantity::ZERO);
    *sum = if sum.is_zero() { amount } else { *sum + amount };
}
