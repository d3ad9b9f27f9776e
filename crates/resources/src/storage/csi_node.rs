//! CSINode.

use crate::fields::list_at;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct CsiNode;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::number("Drivers", "Number of drivers on the node."),
    Column::AGE,
];

impl Strategy for CsiNode {
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
            (list_at(object, &["spec", "drivers"]).len() as i64).into(),
            table::age(object, now),
        ]
    }
}
