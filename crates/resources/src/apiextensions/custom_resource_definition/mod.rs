//! CustomResourceDefinition.

pub mod conditions;
mod validation;

use crate::fields::{fill, fill_object, flag, list_at, list_mut, object_mut, same, text, text_at};
use crate::strategy::{
    Column, Context, Deletion, Strategy, Subresource, bump_generation, default_subresource, keep,
};
use crate::table;
use conditions::{Condition, set_condition};
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::field::ErrorList;
use machinery::{Map, Value, meta};

/// Keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(crate) struct CustomResourceDefinition;

const COLUMNS: [Column; 2] = [Column::NAME, Column::CREATED_AT];

impl Strategy for CustomResourceDefinition {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            spec_defaults(spec);
        }
        if list_at(object, &["status", "storedVersions"]).is_empty() {
            add_stored_version(object);
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["metadata", "generation"], 1);
        object.set_path(&["status"], empty_status());
        add_stored_version(object);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
        add_stored_version(new);
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        validation::validate(object)
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_update(new, old)
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        validation::unknown_formats(object)
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        let known = validation::unknown_formats(old);
        let mut warnings = validation::unknown_formats(new);
        warnings.retain(|warning| !known.contains(warning));
        warnings
    }

    fn subresource(&self, name: &str) -> Option<&dyn Subresource> {
        (name == "status").then_some(self as &dyn Subresource)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// The definition stays until its objects are gone: the finalizer is its own, put there by the first request.
    fn mark_for_deletion(&self, context: &Context<'_>, object: &mut Value) -> Deletion {
        if meta::deletion_timestamp(object).is_some() {
            return Deletion::Usual;
        }
        meta::set_text(object, "deletionTimestamp", format_time(context.now));
        let mut finalizers: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
        if !finalizers.iter().any(|known| known == CLEANUP_FINALIZER) {
            finalizers.push(CLEANUP_FINALIZER.to_owned());
        }
        meta::set_finalizers(object, finalizers.iter().map(String::as_str));
        set_condition(
            object,
            &Condition {
                kind: "Terminating",
                status: "True",
                reason: "InstanceDeletionPending",
                message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            },
            context.now,
        );
        Deletion::Marked
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["metadata", "creationTimestamp"]),
        ]
    }
}

/// The `status` subresource: metadata stays as upstream lets it.
impl Subresource for CustomResourceDefinition {
    fn prepare(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        if let Some(usual) = default_subresource("status") {
            usual.prepare(context, new, old);
        }
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        validation::validate_status(new)
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}

/// The parts of the status that are always written.
fn empty_status() -> Value {
    let mut names = Map::new();
    names.insert("kind", "");
    names.insert("plural", "");
    let mut status = Map::new();
    status.insert("acceptedNames", names);
    status.into()
}

fn spec_defaults(spec: &mut Value) {
    let kind = text_at(spec, &["names", "kind"]).to_owned();
    if let Some(names) = object_mut(spec, "names").filter(|_| !kind.is_empty()) {
        if names.get("singular").is_none_or(Value::is_empty) {
            names.insert("singular", kind.to_lowercase());
        }
        if names.get("listKind").is_none_or(Value::is_empty) {
            names.insert("listKind", format!("{kind}List"));
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        let conversion = fill_object(spec, "conversion");
        fill(conversion, "strategy", "None");
        if let Some(service) = conversion
            .get_mut("webhook")
            .and_then(|webhook| webhook.get_path_mut(&["clientConfig", "service"]))
            .and_then(Value::as_object_mut)
        {
            fill(service, "port", 443);
        }
    }
    for version in list_mut(spec, "versions") {
        let subresources = version.get_mut("subresources");
        let Some(scale) = subresources.and_then(|s| object_mut(s, "scale")) else {
            continue;
        };
        scale.retain(|_, value| !value.is_null());
    }
}

/// The version objects are stored in now is one that objects may be stored in.
fn add_stored_version(crd: &mut Value) {
    let storage = list_at(crd, &["spec", "versions"])
        .iter()
        .find(|version| flag(version, "storage"));
    let Some(name) = storage.map(|version| text(version, "name").to_owned()) else {
        return;
    };
    let mut stored = list_at(crd, &["status", "storedVersions"]).to_vec();
    if stored.iter().any(|version| version.as_str() == Some(&name)) {
        return;
    }
    stored.push(name.into());
    crd.set_path(&["status", "storedVersions"], stored);
}
