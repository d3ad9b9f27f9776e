//! VolumeAttachment.

use crate::KindInfo;
use crate::strategy::{Context, Strategy};
use machinery::Value;

pub(crate) struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "attached"], false);
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
