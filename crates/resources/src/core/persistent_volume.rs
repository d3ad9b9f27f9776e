//! PersistentVolume.

use crate::fields::{fill, fill_text, same};
use crate::pod_spec::{resources, volume_defaults};
use crate::strategy::{Context, Strategy, Subresource, default_subresource, keep};
use machinery::{Value, codec::scalar::format_time};

pub(crate) struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            fill_text(status, "phase", "Pending");
        }
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
        resources::round(spec.get_mut("capacity"));
        for (kind, source) in spec.iter_mut() {
            let Some(source) = source.as_object_mut() else {
                continue;
            };
            match kind.as_str() {
                "hostPath" => fill(source, "type", ""),
                "iscsi" => fill_text(source, "iscsiInterface", "default"),
                "azureDisk" => volume_defaults::azure_disk(source),
                _ => {}
            }
        }
    }

    fn prepare_for_create(&self, context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "phase"], "Pending");
        object.set_path(&["status", "lastPhaseTransitionTime"], format_time(context.now));
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
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
}

struct Status;

impl Subresource for Status {
    /// Says when the phase changed, for those who do not.
    fn prepare(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        const TIME: [&str; 2] = ["status", "lastPhaseTransitionTime"];
        keep(new, old, "spec");
        let before = old.get_path(&TIME).cloned();
        let given = new.get_path(&TIME).filter(|time| !time.is_null()).cloned();
        if same(new, old, &["status", "phase"]) {
            if let (None, Some(before)) = (&given, before) {
                new.set_path(&TIME, before);
            }
        } else if given.is_none() || given == before {
            new.set_path(&TIME, format_time(context.now));
        }
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
