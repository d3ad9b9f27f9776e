//! Files made of Secrets, ConfigMaps and the pod itself.

use super::{mode, paths};
use crate::At;
use crate::fields::{list, present, text};
use crate::pod_spec::validation::env::{object_field, resource_field};
use machinery::Value;
use machinery::field::ErrorList;

/// Fields of a pod a file may show.
const FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// A volume with the entries of a Secret or a ConfigMap.
pub(super) fn from_object(source: &Value, name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if text(source, name).is_empty() {
        errors.push(at.child(name).required(""));
    }
    mode(source, "defaultMode", at, errors);
    let items = at.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        key_to_path(item, &items.index(index), errors);
    }
}

/// One entry and the file it becomes.
pub(super) fn key_to_path(item: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for field in ["key", "path"] {
        if text(item, field).is_empty() {
            errors.push(at.child(field).required(""));
        }
    }
    paths::not_reserved(text(item, "path"), &at.child("path"), errors);
    mode(item, "mode", at, errors);
}

/// One field of the pod and the file it becomes.
pub(super) fn downward_file(item: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let path = text(item, "path");
    if path.is_empty() {
        errors.push(at.child("path").required(""));
    }
    paths::not_reserved(path, &at.child("path"), errors);
    match (present(item, "fieldRef"), present(item, "resourceFieldRef")) {
        (Some(field), other) => {
            object_field(field, &FIELDS, &at.child("fieldRef"), errors);
            if other.is_some() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(at.invalid("resource", why));
            }
        }
        (None, Some(field)) => resource_field(field, true, &at.child("resourceFieldRef"), errors),
        (None, None) => errors.push(at.required("one of fieldRef and resourceFieldRef is required")),
    }
    mode(item, "mode", at, errors);
}
