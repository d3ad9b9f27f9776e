//! PodDisruptionBudget.

use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct PodDisruptionBudget;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("Min Available", "Pods that must stay available."),
    Column::text("Max Unavailable", "Pods that may be unavailable."),
    Column::number("Allowed Disruptions", "Pods that may go now."),
    Column::AGE,
];

impl Strategy for PodDisruptionBudget {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], empty_status());
        object.set_path(&["metadata", "generation"], 1);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let amount = |field| match object.get_path(&["spec", field]) {
            Some(Value::Int(number)) => Value::from(number.to_string()),
            Some(Value::String(text)) => text.clone().into(),
            _ => "N/A".into(),
        };
        vec![
            table::name(object),
            amount("minAvailable"),
            amount("maxUnavailable"),
            table::number(object, &["status", "disruptionsAllowed"]),
            table::age(object, now),
        ]
    }
}

/// The counts are always written.
fn empty_status() -> Value {
    let mut status = Value::object();
    for count in [
        "currentHealthy",
        "desiredHealthy",
        "disruptionsAllowed",
        "expectedPods",
    ] {
        status.set_path(&[count], 0);
    }
    status
}
