//! ReplicaSet.

use crate::fields::fill;
use crate::pod_spec;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            fill(spec, "replicas", 1);
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        let replicas = crate::fields::int_at(object, &["status", "replicas"]).unwrap_or(0);
        vec![compact_str::format_compact!("{replicas}")]
    }
}
