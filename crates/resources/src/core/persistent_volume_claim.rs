//! PersistentVolumeClaim.

use super::persistent_volume::{access_modes, class, phase};
use crate::fields::{fill_text, present, text};
use crate::pod_spec::{resources, volume_defaults};
use crate::strategy::{Column, Context, Strategy, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct PersistentVolumeClaim;

const COLUMNS: [Column; 9] = [
    Column::NAME,
    Column::text("Status", "Its phase."),
    Column::text("Volume", "The volume it is bound to."),
    Column::text("Capacity", "The volume's size."),
    Column::text("Access Modes", "How the volume may be mounted."),
    Column::text("StorageClass", "Its class."),
    Column::text("VolumeAttributesClass", "The class of its attributes."),
    Column::AGE,
    Column::text("VolumeMode", "File system or block device.").wide(),
];

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        volume_defaults::claim_template(Some(object));
        if let Some(status) = object.get_mut("status") {
            if let Some(status) = status.as_object_mut() {
                fill_text(status, "phase", "Pending");
            }
            resources::round(status.get_mut("capacity"));
            resources::round(status.get_mut("allocatedResources"));
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "phase"], "Pending");
        drop_unknown_source(object, None);
        normalize_data_source(object);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        drop_unknown_source(new, Some(old));
        normalize_data_source(new);
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["name"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        vec![machinery::meta::name(object).into()]
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let status = object.get("status").unwrap_or(&Value::Null);
        let volume = text(spec, "volumeName");
        let (capacity, modes) = match (volume, status.get_str_path(&["capacity", "storage"])) {
            ("", _) => ("", String::new()),
            (_, capacity) => (capacity.unwrap_or("0"), access_modes(status)),
        };
        vec![
            table::name(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class(object, "storageClassName").into(),
            table::or(text(spec, "volumeAttributesClassName"), table::UNSET),
            table::age(object, now),
            table::or(text(spec, "volumeMode"), table::UNSET),
        ]
    }
}

/// Sources other than claims and snapshots were always passed over in silence when given the old way.
fn drop_unknown_source(claim: &mut Value, old: Option<&Value>) {
    let source = |claim: &Value, field| claim.get("spec").and_then(|spec| present(spec, field).cloned());
    let in_use = |claim| {
        source(claim, "dataSource")
            .or_else(|| source(claim, "dataSourceRef"))
            .is_some()
    };
    if old.is_some_and(in_use) || source(claim, "dataSourceRef").is_some() {
        return;
    }
    let known = source(claim, "dataSource").is_some_and(|source| {
        matches!(
            (text(&source, "apiGroup"), text(&source, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    });
    if !known {
        claim.remove_path(&["spec", "dataSource"]);
    }
}

/// `dataSource` and `dataSourceRef` say the same, unless the latter names another namespace.
fn normalize_data_source(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec") else { return };
    match (
        present(spec, "dataSource").cloned(),
        present(spec, "dataSourceRef").cloned(),
    ) {
        (Some(source), None) => spec.set_path(&["dataSourceRef"], source),
        (None, Some(reference)) if text(&reference, "namespace").is_empty() => {
            spec.set_path(&["dataSource"], reference);
            spec.remove_path(&["dataSource", "namespace"]);
        }
        _ => {}
    }
}
