//! PodTemplate.

use crate::pod_spec;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_mut("template"));
    }

    fn tracks_generation(&self, _kind: &crate::KindInfo) -> bool {
        true
    }

    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        !crate::fields::same(new, old, &["template"])
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
