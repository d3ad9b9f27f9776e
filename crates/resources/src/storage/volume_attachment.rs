//! VolumeAttachment.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::core::{VolumePlace, volume_spec};
use crate::fields::{entries, int, present, text};
use crate::pod_spec::validation::volumes::csi_driver_name;
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep, reset_metadata};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct VolumeAttachment;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("Attacher", "The driver that attaches."),
    Column::text("PV", "The volume."),
    Column::text("Node", "The node."),
    Column::flag("Attached", "Whether it is attached."),
    Column::AGE,
];

impl Strategy for VolumeAttachment {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "attached"], false);
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let at = At::new("spec");
        csi_driver_name(text(spec, "attacher"), &at.child("attacher"), &mut errors);
        let source = spec.get("source").unwrap_or(&Value::Null);
        let at_source = at.child("source");
        let name = present(source, "persistentVolumeName").and_then(Value::as_str);
        source_errors(source, name, &at_source, &mut errors);
        check::subdomain(text(spec, "nodeName"), &at.child("nodeName"), &mut errors);
        status_errors(object.get("status").unwrap_or(&Value::Null), &mut errors);
        if let Some(name) = name {
            check::subdomain(name, &at_source.child("persistentVolumeName"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        check::immutable(new.get("spec"), old.get("spec"), &At::new("spec"), &mut errors);
        errors
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
        vec![
            table::name(object),
            table::word(object, &["spec", "attacher"]),
            table::word(object, &["spec", "source", "persistentVolumeName"]),
            table::word(object, &["spec", "nodeName"]),
            table::flag(object, &["status", "attached"]),
            table::age(object, now),
        ]
    }
}

fn source_errors(source: &Value, name: Option<&str>, at: &At<'_>, errors: &mut ErrorList) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (present(source, "inlineVolumeSpec"), name) {
        (None, None) => errors.push(at.required(ONE)),
        (Some(_), Some(_)) => errors.push(at.forbidden(ONE)),
        (None, Some("")) => {
            let why = "must specify non empty persistentVolumeName";
            errors.push(at.child("persistentVolumeName").required(why));
        }
        (None, Some(_)) => {}
        (Some(spec), None) => volume_spec(spec, VolumePlace::Inline, &at.child("inlineVolumeSpec"), errors),
    }
}

/// Upstream reports the larger limit for messages too.
fn status_errors(status: &Value, errors: &mut ErrorList) {
    const METADATA: usize = 256 * 1024;
    const MESSAGE: usize = 1024;
    let at = At::new("status");
    let size: usize = entries(status, "attachmentMetadata")
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > METADATA {
        errors.push(at.child("attachmentMetadata").too_long(METADATA as i64));
    }
    for field in ["attachError", "detachError"] {
        let Some(error) = present(status, field) else {
            continue;
        };
        let at = at.child(field);
        if text(error, "message").len() > MESSAGE {
            errors.push(at.child("message").too_long(METADATA as i64));
        }
        if let Some(code) = int(error, "errorCode").filter(|code| *code < 0) {
            let why = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.push(at.child("errorCode").invalid(code, why));
        }
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        reset_metadata(new, old);
    }

    fn validate(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        VolumeAttachment.validate_update(context, new, old)
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:metadata"], &["f:spec"]]
    }
}
