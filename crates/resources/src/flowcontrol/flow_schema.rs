//! FlowSchema.

use crate::fields::fill_number;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            fill_number(spec, "matchingPrecedence", 1000);
        }
    }
}
