//! VolumeAttributesClass.

use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct VolumeAttributesClass;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("DriverName", "The driver the class is for."),
    Column::AGE,
];

impl Strategy for VolumeAttributesClass {
    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["driverName"]),
            table::age(object, now),
        ]
    }
}
