//! Namespace: deleted in two steps, the content by the namespace controller in between.
//!
//! A namespace that is asked to go is only marked; it is removed when its `spec.finalizers` are gone, by a second
//! request or by the update that takes the last of them away (upstream's registry does the same).

use crate::At;
use crate::check;
use crate::fields::{fill_text, list_at, text_at};
use crate::strategy::{Column, Context, Deletion, Strategy, Subresource, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::field::ErrorList;
use machinery::{Value, meta};

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(crate) struct Namespace;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Status", "Phase of the namespace."),
    Column::AGE,
];

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        label(object);
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            fill_text(status, "phase", "Active");
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "phase"], "Active");
        let held = list_at(object, &["spec", "finalizers"]);
        if !held.iter().any(|finalizer| finalizer.as_str() == Some(FINALIZER)) {
            let mut finalizers = held.to_vec();
            finalizers.push(FINALIZER.into());
            object.set_path(&["spec", "finalizers"], finalizers);
        }
    }

    /// A name made from `generateName` is known only now.
    fn canonicalize(&self, object: &mut Value) {
        label(object);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        keep(new, old, "status");
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for finalizer in list_at(object, &["spec", "finalizers"]) {
            let finalizer = finalizer.as_str().unwrap_or_default();
            finalizer_errors(finalizer, &At::new("spec.finalizers"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        match name {
            "status" => Some(&Status),
            "finalize" => Some(&Finalize),
            _ => default_subresource(name),
        }
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        machinery::names::label_rule(name, prefix)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.phase", "name"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        vec![
            text_at(object, &["status", "phase"]).into(),
            meta::name(object).into(),
        ]
    }

    fn may_delete_during_update(&self, new: &Value, _old: &Value) -> bool {
        list_at(new, &["spec", "finalizers"]).is_empty()
    }

    fn mark_for_deletion(&self, context: &Context<'_>, object: &mut Value) -> Deletion {
        if meta::deletion_timestamp(object).is_none() {
            meta::set_text(object, "deletionTimestamp", format_time(context.now));
            object.set_path(&["status", "phase"], "Terminating");
            return Deletion::Marked;
        }
        if list_at(object, &["spec", "finalizers"]).is_empty() {
            Deletion::Usual
        } else {
            Deletion::Marked
        }
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["status", "phase"]),
            table::age(object, now),
        ]
    }
}

fn label(object: &mut Value) {
    let name = meta::name(object);
    if name.is_empty()
        || meta::labels(object).and_then(|labels| labels.get(NAME_LABEL)?.as_str()) == Some(name)
    {
        return;
    }
    let name = name.to_owned();
    meta::metadata_mut(object)
        .object_entry("labels")
        .insert(NAME_LABEL, name);
}

fn finalizer_errors(finalizer: &str, at: &At<'_>, errors: &mut ErrorList) {
    const STANDARD: [&str; 3] = [FINALIZER, "orphan", "foregroundDeletion"];
    check::qualified(finalizer, at, errors);
    if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(at.invalid(finalizer, why));
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let phase = text_at(new, &["status", "phase"]);
        let (wanted, why) = if meta::deletion_timestamp(new).is_none() {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        } else {
            (
                "Terminating",
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            )
        };
        let wrong = (phase != wanted).then(|| At::new("status.Phase").invalid(phase, why));
        wrong.into_iter().collect()
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}

struct Finalize;

impl Subresource for Finalize {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("spec.finalizers");
        for (index, finalizer) in list_at(new, &["spec", "finalizers"]).iter().enumerate() {
            let finalizer = finalizer.as_str().unwrap_or_default();
            finalizer_errors(finalizer, &at.index(index), &mut errors);
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:status"]]
    }
}
