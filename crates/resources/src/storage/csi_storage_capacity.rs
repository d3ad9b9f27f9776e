//! CSIStorageCapacity.

use crate::At;
use crate::check;
use crate::fields::{present, text, text_at};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::label_selector(
            present(object, "nodeTopology"),
            &At::new("nodeTopology"),
            &mut errors,
        );
        let class = text(object, "storageClassName");
        check::subdomain(class, &At::new("storageClassName"), &mut errors);
        if let Some(capacity) = present(object, "capacity") {
            check::not_negative_quantity(capacity, &At::new("capacity"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["nodeTopology", "storageClassName"] {
            check::immutable(new.get(field), old.get(field), &At::new(field), &mut errors);
        }
        errors
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
