//! Whether a schema is structural: every value has a type, said once and outside of `allOf`, `anyOf`, `oneOf` and
//! `not`, which only restrict what is there.

use crate::apiextensions::structural::Pattern;
use crate::fields::{entries, flag, list, present, text};
use machinery::Value;
use machinery::field::{Error, ErrorList, Path};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What is wrong with a whole schema, in the order of the texts.
pub(super) fn validate(schema: &Value, at: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, at, &mut errors);
    restricted(schema, Some(schema), at, at, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn schema_of<'a>(schema: &'a Value, field: &str) -> Option<&'a Value> {
    schema.get(field).filter(|value| value.as_object().is_some())
}

fn invariants(schema: &Value, level: Level, at: &Path, errors: &mut ErrorList) {
    let ty = text(schema, "type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let any_fields = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    match schema_of(schema, "items") {
        Some(items) => invariants(items, Level::Item, &at.child("items"), errors),
        None if ty == "array" => errors.push(Error::required(&at.child("items"), "must be specified")),
        None => {}
    }
    let properties = entries(schema, "properties");
    for (name, property) in properties {
        invariants(property, Level::Field, &at.child("properties").key(name), errors);
    }
    let others = present(schema, "additionalProperties");
    if others.is_some() {
        let at = at.child("additionalProperties");
        if level == Level::Root {
            errors.push(Error::forbidden(&at, "must not be used at the root"));
        }
        if let Some(others) = schema_of(schema, "additionalProperties") {
            invariants(others, Level::Field, &at, errors);
        }
        if embedded {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(Error::forbidden(&at, why));
        }
    }
    if int_or_string {
        for (said, field) in [
            (any_fields, "x-kubernetes-preserve-unknown-fields"),
            (embedded, "x-kubernetes-embedded-resource"),
        ] {
            if said {
                let why = "must be false if x-kubernetes-int-or-string is true";
                errors.push(Error::invalid(&at.child(field), true, why));
            }
        }
    }
    let first = list(schema, "allOf").first();
    let skip = Skip {
        any_of: is_int_or_string(schema),
        any_of_first: first.is_some_and(is_int_or_string),
    };
    restrictions(schema, skip, level, at, errors);
    let type_at = at.child("type");
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            Error::required(&type_at, why)
        } else {
            Error::invalid(&type_at, ty, why)
        });
    } else if ty.is_empty() && !int_or_string && !any_fields {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(&type_at, why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(Error::invalid(&type_at, ty, "must be object at the root"));
    }
    let has_meta = level == Level::Root || embedded;
    let property = |name: &str| properties.iter().find(|(known, _)| known == name).map(|(_, p)| p);
    if has_meta {
        for (name, wanted) in [
            ("kind", "string"),
            ("apiVersion", "string"),
            ("metadata", "object"),
        ] {
            if let Some(ty) = property(name).map(|property| text(property, "type"))
                && ty != wanted
            {
                let at = at.child("properties").key(name).child("type");
                errors.push(Error::invalid(&at, ty, format!("must be {wanted}")));
            }
        }
    }
    if let Some(metadata) = property("metadata")
        && level == Level::Root
        && !only_names(metadata)
    {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        let at = at.child("properties").key("metadata");
        errors.push(Error::forbidden(&at, why));
    }
    if embedded && !any_fields && properties.is_empty() {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&at.child("properties"), why));
    }
}

/// Whether a schema of metadata says no more than what names may be.
fn only_names(metadata: &Value) -> bool {
    let fields = metadata.as_object().into_iter().flatten();
    let mut said = fields.filter(|(_, value)| !value.is_empty() && *value != Value::Bool(false));
    said.all(|(field, value)| match field.as_str() {
        "type" | "default" => true,
        "properties" => {
            let names = value.as_object().into_iter().flatten();
            names
                .into_iter()
                .all(|(name, _)| matches!(name.as_str(), "name" | "generateName"))
        }
        _ => false,
    })
}

/// Whether `anyOf` says just that a value is an integer or a string.
fn is_int_or_string(schema: &Value) -> bool {
    let only = |part: &Value, ty: &str| {
        part.as_object().is_some_and(|map| map.len() == 1) && text(part, "type") == ty
    };
    matches!(list(schema, "anyOf"), [a, b] if only(a, "integer") && only(b, "string"))
}

/// Types that restrictions may name after all, because they mean an int-or-string.
#[derive(Clone, Copy, Default)]
struct Skip {
    any_of: bool,
    any_of_first: bool,
}

fn restrictions(schema: &Value, skip: Skip, level: Level, at: &Path, errors: &mut ErrorList) {
    if !skip.any_of {
        for (index, part) in list(schema, "anyOf").iter().enumerate() {
            let at = at.child("anyOf").index(index);
            nested(part, Skip::default(), level, &at, errors);
        }
    }
    for (index, part) in list(schema, "allOf").iter().enumerate() {
        let skip = Skip {
            any_of: skip.any_of_first && index == 0,
            any_of_first: false,
        };
        nested(part, skip, level, &at.child("allOf").index(index), errors);
    }
    for (index, part) in list(schema, "oneOf").iter().enumerate() {
        let at = at.child("oneOf").index(index);
        nested(part, Skip::default(), level, &at, errors);
    }
    if let Some(part) = schema_of(schema, "not") {
        nested(part, Skip::default(), level, &at.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(why) = Pattern::new(pattern).regex()
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&at.child("pattern"), pattern, why));
    }
}

/// A part that may only restrict.
fn nested(schema: &Value, skip: Skip, level: Level, at: &Path, errors: &mut ErrorList) {
    restrictions(schema, skip, level, at, errors);
    if let Some(items) = schema_of(schema, "items") {
        nested(items, Skip::default(), level, &at.child("items"), errors);
    }
    for (name, property) in entries(schema, "properties") {
        let at = at.child("properties").key(name);
        nested(property, Skip::default(), Level::Field, &at, errors);
    }
    let said = |field: &str| {
        present(schema, field).is_some_and(|value| !value.is_empty() && *value != Value::Bool(false))
    };
    let forbidden = [
        ("type", said("type"), "must be empty to be structural"),
        (
            "additionalProperties",
            present(schema, "additionalProperties").is_some_and(|others| *others != Value::Bool(false)),
            "must be undefined to be structural",
        ),
        (
            "default",
            schema.get("default").is_some(),
            "must be undefined to be structural",
        ),
        ("title", said("title"), "must be empty to be structural"),
        (
            "description",
            said("description"),
            "must be empty to be structural",
        ),
        ("nullable", said("nullable"), "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            said("x-kubernetes-preserve-unknown-fields"),
            "must be false to be structural",
        ),
        (
            "x-kubernetes-embedded-resource",
            said("x-kubernetes-embedded-resource"),
            "must be false to be structural",
        ),
        (
            "x-kubernetes-int-or-string",
            said("x-kubernetes-int-or-string"),
            "must be false to be structural",
        ),
        (
            "x-kubernetes-list-map-keys",
            said("x-kubernetes-list-map-keys"),
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-list-type",
            present(schema, "x-kubernetes-list-type").is_some(),
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            present(schema, "x-kubernetes-map-type").is_some(),
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-validations",
            said("x-kubernetes-validations"),
            "must be empty to be structural",
        ),
    ];
    for (field, wrong, why) in forbidden {
        if wrong {
            errors.push(Error::forbidden(&at.child(field), why));
        }
    }
    if entries(schema, "properties")
        .iter()
        .any(|(name, _)| name == "metadata")
    {
        let at = at.child("properties").key("metadata");
        errors.push(Error::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// What is restricted is there. `part` restricts a value of `schema`; both say where they stand.
fn restricted(part: &Value, schema: Option<&Value>, at: &Path, part_at: &Path, errors: &mut ErrorList) {
    if let Some(not) = schema_of(part, "not") {
        restricted_below(not, schema, at, &part_at.child("not"), errors);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (index, part) in list(part, field).iter().enumerate() {
            restricted_below(part, schema, at, &part_at.child(field).index(index), errors);
        }
    }
}

fn restricted_below(part: &Value, schema: Option<&Value>, at: &Path, part_at: &Path, errors: &mut ErrorList) {
    let Some(schema) = schema else {
        errors.push(Error::required(at, format!("because it is defined in {part_at}")));
        return;
    };
    restricted(part, Some(schema), at, part_at, errors);
    if let Some(items) = schema_of(part, "items") {
        let own = schema_of(schema, "items");
        restricted_below(items, own, &at.child("items"), &part_at.child("items"), errors);
    }
    for (name, property) in entries(part, "properties") {
        let (at, part_at) = (
            at.child("properties").key(name),
            part_at.child("properties").key(name),
        );
        let own = schema.get_path(&["properties", name.as_str()]);
        restricted_below(property, own, &at, &part_at, errors);
    }
}
