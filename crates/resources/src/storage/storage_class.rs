//! StorageClass.

use crate::At;
use crate::check;
use crate::fields::{entries, fill, list, present, text, texts};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) struct StorageClass;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("Provisioner", "What makes the volumes."),
    Column::text(
        "ReclaimPolicy",
        "What becomes of volumes when their claims are gone.",
    ),
    Column::text("VolumeBindingMode", "When volumes are made and bound."),
    Column::text("AllowVolumeExpansion", "Whether volumes can grow."),
    Column::AGE,
];

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        fill(map, "reclaimPolicy", "Delete");
        fill(map, "volumeBindingMode", "Immediate");
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(text(object, "provisioner"), &At::new("provisioner"), &mut errors);
        parameters(object, &mut errors);
        let policy = text(object, "reclaimPolicy");
        if !policy.is_empty() {
            check::one_of(
                policy,
                &["Delete", "Retain"],
                &At::new("reclaimPolicy"),
                &mut errors,
            );
        }
        check::one_of(
            text(object, "volumeBindingMode"),
            &["Immediate", "WaitForFirstConsumer"],
            &At::new("volumeBindingMode"),
            &mut errors,
        );
        topologies(object, &At::new("allowedTopologies"), &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            check::immutable(new.get(field), old.get(field), &At::new(field), &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut name = meta::name(object).to_owned();
        let is_default = |key| meta::annotation(object, key) == Some("true");
        if is_default("storageclass.kubernetes.io/is-default-class")
            || is_default("storageclass.beta.kubernetes.io/is-default-class")
        {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            table::word(object, &["provisioner"]),
            table::or(text(object, "reclaimPolicy"), "Delete"),
            table::or(text(object, "volumeBindingMode"), "Immediate"),
            table::flag(object, &["allowVolumeExpansion"]),
            table::age(object, now),
        ]
    }
}

/// The name of what makes volumes.
pub(super) fn provisioner(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(at.required(""));
    } else {
        check::qualified(&name.to_lowercase(), at, errors);
    }
}

/// Parameters of a class: not too many, and not too large.
pub(super) fn parameters(class: &Value, errors: &mut ErrorList) {
    const MOST: usize = 512;
    const LARGEST: usize = 256 * 1024;
    let at = At::new("parameters");
    let parameters = entries(class, "parameters");
    if parameters.len() > MOST {
        errors.push(at.too_long(MOST as i64));
        return;
    }
    let mut size = 0;
    for (key, value) in parameters {
        if key.is_empty() {
            errors.push(at.invalid("", "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > LARGEST {
        errors.push(at.too_long(LARGEST as i64));
    }
}

fn topologies(class: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let terms = list(class, "allowedTopologies");
    let mut seen: Vec<Vec<(&str, Vec<&str>)>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let here = at.index(index);
        let at = here.child("matchLabelExpressions");
        let mut read: Vec<(&str, Vec<&str>)> = Vec::new();
        for (index, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            let at = at.index(index);
            let values = at.child("values");
            if present(expression, "values").is_none_or(Value::is_empty) {
                errors.push(values.required(""));
            }
            let mut found: Vec<&str> = Vec::new();
            for (index, value) in texts(expression, "values").enumerate() {
                if found.contains(&value) {
                    errors.push(values.index(index).duplicate(value));
                } else {
                    found.push(value);
                }
            }
            let key = text(expression, "key");
            check::qualified(key, &at.child("key"), errors);
            if read.iter().any(|(other, _)| *other == key) {
                errors.push(at.child("key").duplicate(key));
            }
            found.sort_unstable();
            read.push((key, found));
        }
        read.sort();
        if seen.contains(&read) {
            errors.push(at.duplicate(""));
        }
        seen.push(read);
    }
}
