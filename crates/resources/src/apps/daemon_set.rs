//! DaemonSet.

use crate::fields::{entries, fill, fill_object, fill_text, int_at, same};
use crate::pod_spec;
use crate::strategy::{Column, Context, Strategy, bump_generation, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct DaemonSet;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const COLUMNS: [Column; 11] = [
    Column::NAME,
    Column::number("Desired", "Nodes that should run the pod."),
    Column::number("Current", "Nodes that run it."),
    Column::number("Ready", "Nodes where it is ready."),
    Column::number("Up-to-date", "Nodes that run the newest template."),
    Column::number("Available", "Nodes where it has been ready long enough."),
    Column::text("Node Selector", "Which nodes are meant."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
    Column::text("Selector", "Which pods are meant.").wide(),
];

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill(spec, "revisionHistoryLimit", 10);
        let strategy = fill_object(spec, "updateStrategy");
        fill_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            let rolling = fill_object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
            map.object_entry("status");
        }
        object.set_path(&["metadata", "generation"], 1);
        set_template_generation(object, template_generation(object).max(1));
    }

    /// The template's generation, which lives in an annotation, counts changes of the template alone.
    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        let before = template_generation(old);
        let changed = !same(new, old, &["spec", "template"]);
        if before > 0 || changed {
            set_template_generation(new, before + i64::from(changed));
        }
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = table::template_containers(object);
        let nodes = object
            .get_path(&["spec", "template", "spec"])
            .map(|spec| entries(spec, "nodeSelector"));
        vec![
            table::name(object),
            table::number(object, &["status", "desiredNumberScheduled"]),
            table::number(object, &["status", "currentNumberScheduled"]),
            table::number(object, &["status", "numberReady"]),
            table::number(object, &["status", "updatedNumberScheduled"]),
            table::number(object, &["status", "numberAvailable"]),
            table::labels(nodes.unwrap_or_default()),
            table::age(object, now),
            names,
            images,
            table::selector(object.get_path(&["spec", "selector"])),
        ]
    }
}

fn template_generation(object: &Value) -> i64 {
    let annotation = machinery::meta::annotation(object, TEMPLATE_GENERATION);
    annotation
        .and_then(|text| text.parse().ok())
        .or_else(|| int_at(object, &["spec", "templateGeneration"]))
        .unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = machinery::meta::metadata_mut(object).object_entry("annotations");
    annotations.insert(TEMPLATE_GENERATION, generation.to_string());
}
