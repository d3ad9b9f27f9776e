//! RuntimeClass.

use crate::pod_spec::resources;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct RuntimeClass;

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
}
