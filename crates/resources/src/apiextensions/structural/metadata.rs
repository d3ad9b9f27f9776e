//! Objects embedded in an object (`x-kubernetes-embedded-resource`) say what they are and have good metadata.

use super::{Additional, Schema};
use machinery::field::{Error, ErrorList, Path};
use machinery::gvk::GroupVersion;
use machinery::{Map, Value, names};

/// Judges the objects embedded below an object, not the object itself.
pub fn validate(schema: &Schema, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    below(schema, object, &Path::root(), &mut errors);
    errors
}

fn below(schema: &Schema, value: &Value, at: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if schema.embedded_resource {
                embedded(map, at, errors);
            }
            for (key, value) in map {
                if let Some(schema) = schema.property(key) {
                    below(schema, value, &at.child(key), errors);
                } else if let Some(Additional::Schema(schema)) = &schema.additional {
                    below(schema, value, &at.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    below(schema, item, &at.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn embedded(object: &Map, at: &Path, errors: &mut ErrorList) {
    for field in ["apiVersion", "kind"] {
        if !object.contains_key(field) {
            errors.push(Error::required(&at.child(field), ""));
        }
    }
    if let Some(value) = object.get("apiVersion") {
        let at = at.child("apiVersion");
        match value.as_str() {
            None => errors.push(Error::invalid(&at, value.clone(), "must be a string")),
            Some("") => errors.push(Error::invalid(&at, "", "must not be empty")),
            Some(text) if GroupVersion::parse(text).is_none() => errors.push(Error::invalid(
                &at,
                text,
                format!("unexpected GroupVersion string: {text}"),
            )),
            Some(_) => {}
        }
    }
    if let Some(value) = object.get("kind") {
        let at = at.child("kind");
        match value.as_str() {
            None => errors.push(Error::invalid(&at, value.clone(), "must be a string")),
            Some("") => errors.push(Error::invalid(&at, "", "must not be empty")),
            Some(text) => {
                let wrong = names::dns1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let why = wrong.join(",");
                    errors.push(Error::invalid(
                        &at,
                        text,
                        format!("may have mixed case, but should otherwise match: {why}"),
                    ));
                }
            }
        }
    }
    let Some(metadata) = object.get("metadata") else {
        return;
    };
    let at = at.child("metadata");
    for field in ["name", "generateName"] {
        let text = metadata.get(field).and_then(Value::as_str).unwrap_or_default();
        for wrong in names::path_segment(text, field == "generateName") {
            if !text.is_empty() {
                errors.push(Error::invalid(&at.child(field), text, wrong));
            }
        }
    }
    let namespace = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !namespace.is_empty() {
        for wrong in names::dns1123_label(namespace) {
            errors.push(Error::invalid(&at.child("namespace"), namespace, wrong));
        }
    }
    for (key, value) in metadata
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let at = at.child("labels");
        for wrong in names::qualified_name(key) {
            errors.push(Error::invalid(&at, key.as_str(), wrong));
        }
        let value = value.as_str().unwrap_or_default();
        for wrong in names::label_value(value) {
            errors.push(Error::invalid(&at, value, wrong));
        }
    }
}
