//! StatefulSet.

use crate::fields::{fill, fill_object, fill_text, int_at, list_mut, same};
use crate::pod_spec::{self, volume_defaults};
use crate::strategy::{Column, Context, Strategy, bump_generation, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct StatefulSet;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("Ready", "Ready pods of those wanted."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
];

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        if let Some(spec) = object.get_mut("spec") {
            for claim in list_mut(spec, "volumeClaimTemplates") {
                claim_template(claim);
            }
        }
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill_text(spec, "podManagementPolicy", "OrderedReady");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        let strategy = fill_object(spec, "updateStrategy");
        if strategy.get("type").is_none_or(Value::is_empty) {
            fill_text(strategy, "type", "RollingUpdate");
            fill_object(strategy, "rollingUpdate");
        }
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
        {
            fill(rolling, "partition", 0);
        }
        let retention = fill_object(spec, "persistentVolumeClaimRetentionPolicy");
        fill_text(retention, "whenDeleted", "Retain");
        fill_text(retention, "whenScaled", "Retain");
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
        drop_disabled(object, None);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        drop_disabled(new, Some(old));
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
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
            table::age(object, now),
            names,
            images,
        ]
    }
}

/// `maxUnavailable` is not on by default in this version.
fn drop_disabled(object: &mut Value, old: Option<&Value>) {
    const FIELD: [&str; 4] = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
    if old
        .and_then(|old| old.get_path(&FIELD))
        .is_none_or(Value::is_null)
    {
        object.remove_path(&FIELD);
    }
}

/// A whole claim, status and all, as upstream writes it.
fn claim_template(claim: &mut Value) {
    volume_defaults::claim_template(Some(claim));
    let Some(map) = claim.as_object_mut() else { return };
    fill_text(map, "apiVersion", "v1");
    fill_text(map, "kind", "PersistentVolumeClaim");
    fill_text(fill_object(map, "status"), "phase", "Pending");
}
