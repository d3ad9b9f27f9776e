//! CSIStorageCapacity.

use crate::fields::text_at;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct CsiStorageCapacity;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("StorageClassName", "The class the capacity is of."),
    Column::text("Capacity", "Free space."),
];

impl Strategy for CsiStorageCapacity {
    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["storageClassName"]),
            table::or(text_at(object, &["capacity"]), table::UNSET),
        ]
    }
}
