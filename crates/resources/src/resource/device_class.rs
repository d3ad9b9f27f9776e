//! DeviceClass.

use crate::KindInfo;
use crate::strategy::Strategy;

pub(crate) struct DeviceClass;

impl Strategy for DeviceClass {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
