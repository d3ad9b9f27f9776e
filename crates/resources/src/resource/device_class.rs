//! DeviceClass.

use super::validation::class_spec;
use crate::KindInfo;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct DeviceClass;

const COLUMNS: [Column; 2] = [Column::NAME, Column::AGE];

impl Strategy for DeviceClass {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        class_spec(object, None, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        class_spec(new, Some(old), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}
