//! VolumeAttributesClass.

use super::storage_class::{parameters, provisioner};
use crate::At;
use crate::fields::{entries, same, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(text(object, "driverName"), &At::new("driverName"), &mut errors);
        parameters(object, &mut errors);
        if entries(object, "parameters").is_empty() {
            let why = "must contain at least one key/value pair";
            errors.push(At::new("parameters").required(why));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["driverName", "parameters"] {
            if !same(new, old, &[field]) {
                errors.push(At::new(field).forbidden(format!("updates to {field} are forbidden.")));
            }
        }
        errors.extend(self.validate(context, new));
        errors
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
