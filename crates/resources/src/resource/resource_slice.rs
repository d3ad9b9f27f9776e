//! ResourceSlice.

use crate::KindInfo;
use crate::fields::text_at;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct ResourceSlice;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("Node", "The node it is of."),
    Column::text("Driver", "The driver that wrote it."),
    Column::text("Pool", "The pool it is part of."),
    Column::AGE,
];

impl Strategy for ResourceSlice {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.driver"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        ["nodeName", "driver"]
            .map(|field| text_at(object, &["spec", field]).into())
            .to_vec()
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
            table::word(object, &["spec", "nodeName"]),
            table::word(object, &["spec", "driver"]),
            table::word(object, &["spec", "pool", "name"]),
            table::age(object, now),
        ]
    }
}
