//! PriorityClass.

use crate::fields::{fill, fill_number};
use crate::strategy::{Context, Strategy};
use machinery::Value;

pub(crate) struct PriorityClass;

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
}
