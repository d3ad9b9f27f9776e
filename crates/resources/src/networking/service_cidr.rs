//! ServiceCIDR.

use crate::KindInfo;
use crate::strategy::Strategy;

pub(crate) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }
}
