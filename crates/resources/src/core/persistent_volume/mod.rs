//! PersistentVolume.

mod validation;

use crate::At;
use crate::fields::{fill, fill_text, same, text, text_at, texts};
use crate::pod_spec::{resources, volume_defaults};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) use validation::{Place, spec};

pub(crate) struct PersistentVolume;

const COLUMNS: [Column; 11] = [
    Column::NAME,
    Column::text("Capacity", "Its size."),
    Column::text("Access Modes", "How it may be mounted."),
    Column::text("Reclaim Policy", "What becomes of it when its claim is gone."),
    Column::text("Status", "Its phase."),
    Column::text("Claim", "Whose it is."),
    Column::text("StorageClass", "Its class."),
    Column::text("VolumeAttributesClass", "The class of its attributes."),
    Column::text("Reason", "Why it is in its phase."),
    Column::AGE,
    Column::text("VolumeMode", "File system or block device.").wide(),
];

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validation::spec(
            spec,
            Place::Volume(meta::name(object)),
            &At::new("spec"),
            &mut errors,
        );
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        validation::change(new, old, &mut errors);
        errors
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

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let claim = object.get_path(&["spec", "claimRef"]);
        let claim = claim.map_or(String::new(), |c| {
            format!("{}/{}", text(c, "namespace"), text(c, "name"))
        });
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let size = text_at(spec, &["capacity", "storage"]);
        vec![
            table::name(object),
            if size.is_empty() { "0".into() } else { size.into() },
            access_modes(spec).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase(object).into(),
            claim.into(),
            class(object, "storageClassName").into(),
            table::or(text(spec, "volumeAttributesClassName"), table::UNSET),
            table::word(object, &["status", "reason"]),
            table::age(object, now),
            table::or(text(spec, "volumeMode"), table::UNSET),
        ]
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

/// The short names of access modes, each once, in upstream's order.
pub(super) fn access_modes(holder: &Value) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| texts(holder, "accessModes").any(|other| other == mode);
    table::join(
        SHORT
            .iter()
            .filter(|(mode, _)| has(mode))
            .map(|(_, short)| *short),
        ",",
    )
}

/// The phase, or that it is going.
pub(super) fn phase(object: &Value) -> &str {
    if meta::deletion_timestamp(object).is_some() {
        "Terminating"
    } else {
        text_at(object, &["status", "phase"])
    }
}

/// The storage class, also from where it stood before it was a field.
pub(super) fn class<'a>(object: &'a Value, field: &str) -> &'a str {
    let old = meta::annotation(object, "volume.beta.kubernetes.io/storage-class");
    old.unwrap_or_else(|| text_at(object, &["spec", field]))
}
