//! DeviceClass.

use crate::KindInfo;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct DeviceClass;

const COLUMNS: [Column; 2] = [Column::NAME, Column::AGE];

impl Strategy for DeviceClass {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}
