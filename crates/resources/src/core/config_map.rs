//! ConfigMap.

use crate::fields::entries;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct ConfigMap;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Data", "Number of the entries."),
    Column::AGE,
];

impl Strategy for ConfigMap {
    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |field| entries(object, field).len() as i64;
        let count = count("data") + count("binaryData");
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}
