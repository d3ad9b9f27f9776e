//! VolumeAttributesClass.

use crate::strategy::Strategy;

pub(crate) struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn returns_deleted_object(&self) -> bool {
        true
    }
}
