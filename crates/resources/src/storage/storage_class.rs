//! StorageClass.

use crate::fields::fill;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        fill(map, "reclaimPolicy", "Delete");
        fill(map, "volumeBindingMode", "Immediate");
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
