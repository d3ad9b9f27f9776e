//! CSIStorageCapacity.

use crate::strategy::Strategy;

pub(crate) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
