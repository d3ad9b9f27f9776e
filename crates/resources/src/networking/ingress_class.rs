//! IngressClass.

use crate::KindInfo;
use crate::fields::fill;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object
            .get_path_mut(&["spec", "parameters"])
            .and_then(Value::as_object_mut)
        {
            fill(parameters, "scope", "Cluster");
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }
}
