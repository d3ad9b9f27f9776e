//! Defaults are values their own schema would take.

use crate::apiextensions::structural::rules::Rules;
use crate::apiextensions::structural::{Additional, Schema, metadata, validate as openapi};
use machinery::Value;
use machinery::field::{Error, ErrorList, Path};

/// What is wrong with the defaults of a whole schema.
pub(super) fn validate(whole: &Value, pruned: bool, at: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let place = Place {
        resource: true,
        inside_meta: false,
    };
    below(&Schema::parse(whole), place, pruned, at, &mut errors);
    errors
}

/// Whether no default has a field its schema does not know.
pub(super) fn are_pruned(whole: &Value) -> bool {
    let mut errors = ErrorList::new();
    unpruned(&Schema::parse(whole), true, &Path::root(), &mut errors);
    errors.is_empty()
}

#[derive(Clone, Copy)]
struct Place {
    /// The schema is that of an object with a kind and metadata.
    resource: bool,
    /// What it describes belongs to the kind or metadata of such an object.
    inside_meta: bool,
}

/// Values of `additionalProperties` have no defaults.
fn below(schema: &Schema, place: Place, pruned: bool, at: &Path, errors: &mut ErrorList) {
    let place = Place {
        resource: place.resource || schema.embedded_resource,
        inside_meta: place.inside_meta && !schema.embedded_resource,
    };
    if schema.default.is_some() {
        own(schema, place, pruned, &at.child("default"), errors);
    }
    let part = |inside_meta: bool| Place {
        resource: false,
        inside_meta,
    };
    if let Some(items) = &schema.items {
        below(items, part(place.inside_meta), pruned, &at.child("items"), errors);
    }
    for (name, property) in &schema.properties {
        let of_meta = place.resource && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
        let at = at.child("properties").key(name);
        below(property, part(place.inside_meta || of_meta), pruned, &at, errors);
    }
}

fn own(schema: &Schema, place: Place, pruned: bool, at: &Path, errors: &mut ErrorList) {
    let Some(default) = &schema.default else { return };
    if !place.inside_meta {
        if pruned && has_unknown(schema, default, place.resource) {
            let why = "must not have unknown fields";
            errors.push(Error::invalid(at, default.clone(), why));
        }
        let wrong = metadata::validate(schema, default);
        if !wrong.is_empty() {
            errors.extend(wrong.into_iter().map(|error| moved(error, at)));
            return;
        }
    }
    let wrong = openapi::validate(schema, default, "");
    if !wrong.is_empty() {
        errors.extend(wrong.into_iter().map(|error| moved(error, at)));
        return;
    }
    let Some(rules) = Rules::of_part(schema) else {
        return;
    };
    let wrong = rules.validate_at(schema, default, Some(default), at);
    let wrong = if wrong.is_empty() {
        rules.validate_at(schema, default, None, at)
    } else {
        wrong
    };
    errors.extend(wrong);
}

/// An error of a default, as an error of the definition.
fn moved(error: Error, at: &Path) -> Error {
    let own = error.field.as_str();
    let field = if own.is_empty() {
        at.clone()
    } else if own.starts_with('[') {
        Path::new(&format!("{at}{own}"))
    } else {
        at.child(own)
    };
    Error { field, ..error }
}

fn unpruned(schema: &Schema, resource: bool, at: &Path, errors: &mut ErrorList) {
    let resource = resource || schema.embedded_resource;
    if let Some(default) = &schema.default
        && has_unknown(schema, default, resource)
    {
        errors.push(Error::invalid(at, default.clone(), ""));
    }
    if let Some(items) = &schema.items {
        unpruned(items, false, at, errors);
    }
    for (_, property) in &schema.properties {
        unpruned(property, false, at, errors);
    }
}

/// Whether pruning would take something away.
fn has_unknown(schema: &Schema, value: &Value, resource: bool) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| {
            if resource && matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                return false;
            }
            match (schema.property(name), &schema.additional) {
                (Some(property), _) => has_unknown(property, value, property.embedded_resource),
                (None, Some(Additional::Schema(others))) => {
                    has_unknown(others, value, others.embedded_resource)
                }
                (None, Some(Additional::Allowed(true))) => false,
                (None, _) => !schema.preserve_unknown,
            }
        }),
        Value::Array(items) => schema.items.as_ref().is_some_and(|schema| {
            items
                .iter()
                .any(|item| has_unknown(schema, item, schema.embedded_resource))
        }),
        _ => false,
    }
}
