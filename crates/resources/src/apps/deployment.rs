//! Deployment.

use crate::fields::{fill, fill_object, fill_text, same};
use crate::pod_spec;
use crate::strategy::{Context, Strategy, Subresource, bump_generation, default_subresource, keep};
use machinery::{Value, meta};

pub(crate) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        let strategy = fill_object(spec, "strategy");
        fill_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            let rolling = fill_object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
    }

    /// Annotations count too: they are copied to the replica sets.
    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        if !same(new, old, &["spec"]) || !same(new, old, &["metadata", "annotations"]) {
            bump_generation(new, old);
        }
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        let labels = meta::labels(old).cloned().unwrap_or_default();
        meta::set(new, "labels", labels);
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"], &["f:metadata", "f:labels"]]
    }
}
