//! Endpoints.

use crate::fields::{fill_text, list_mut};
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in list_mut(object, "subsets") {
            for port in list_mut(subset, "ports") {
                if let Some(port) = port.as_object_mut() {
                    fill_text(port, "protocol", "TCP");
                }
            }
        }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}
