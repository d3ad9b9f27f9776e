//! PriorityClass.

use crate::fields::{fill, fill_number};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct PriorityClass;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::number("Value", "The priority."),
    Column::flag("Global-Default", "Whether pods without a class have it."),
    Column::AGE,
    Column::text("PreemptionPolicy", "Whether others are evicted for its pods."),
];

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        fill(map, "preemptionPolicy", "PreemptLowerPriority");
        // Always written.
        fill_number(map, "value", 0);
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["metadata", "generation"], 1);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, _new: &mut Value, _old: &Value) {}

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::number(object, &["value"]),
            table::flag(object, &["globalDefault"]),
            table::age(object, now),
            table::word(object, &["preemptionPolicy"]),
        ]
    }
}
