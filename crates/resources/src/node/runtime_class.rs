//! RuntimeClass.

use crate::pod_spec::resources;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct RuntimeClass;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Handler", "The runtime's handler."),
    Column::AGE,
];

impl Strategy for RuntimeClass {
    fn default(&self, object: &mut Value) {
        resources::round(object.get_path_mut(&["overhead", "podFixed"]));
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["handler"]),
            table::age(object, now),
        ]
    }
}
