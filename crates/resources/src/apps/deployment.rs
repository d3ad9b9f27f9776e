//! Deployment.

use crate::fields::{fill, fill_object, fill_text, int_at, same};
use crate::pod_spec;
use crate::strategy::{Column, Context, Strategy, Subresource, bump_generation, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::{Value, meta};

pub(crate) struct Deployment;

const COLUMNS: [Column; 8] = [
    Column::NAME,
    Column::text("Ready", "Ready pods of those wanted."),
    Column::text("Up-to-date", "Pods of the newest template."),
    Column::text("Available", "Pods that have been ready long enough."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

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

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |path: &[&str]| int_at(object, path).unwrap_or(0);
        let ready = format!(
            "{}/{}",
            count(&["status", "readyReplicas"]),
            count(&["spec", "replicas"])
        );
        let [names, images] = table::template_containers(object);
        vec![
            table::name(object),
            ready.into(),
            table::number(object, &["status", "updatedReplicas"]),
            table::number(object, &["status", "availableReplicas"]),
            table::age(object, now),
            names,
            images,
            table::selector_text(object.get_path(&["spec", "selector"])).into(),
        ]
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
