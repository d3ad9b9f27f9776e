//! Ingress.

use crate::strategy::{Context, Strategy};
use machinery::Value;

pub(crate) struct Ingress;

impl Strategy for Ingress {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "loadBalancer"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
    }
}
