//! VolumeAttachment.

use crate::KindInfo;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct VolumeAttachment;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("Attacher", "The driver that attaches."),
    Column::text("PV", "The volume."),
    Column::text("Node", "The node."),
    Column::flag("Attached", "Whether it is attached."),
    Column::AGE,
];

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

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["spec", "attacher"]),
            table::word(object, &["spec", "source", "persistentVolumeName"]),
            table::word(object, &["spec", "nodeName"]),
            table::flag(object, &["status", "attached"]),
            table::age(object, now),
        ]
    }
}
