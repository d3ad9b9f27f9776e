//! PodDisruptionBudget.

use crate::strategy::{Context, Strategy};
use machinery::Value;

pub(crate) struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], empty_status());
        object.set_path(&["metadata", "generation"], 1);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
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
