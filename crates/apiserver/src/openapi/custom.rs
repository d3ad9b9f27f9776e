//! What is published of a custom kind: its schema, with what every object has.
//!
//! Version 2 cannot say all of it: where clients of that version would misread a schema, it says less, as upstream.

use super::schema::kind_value;
use machinery::gvk::GroupVersionKind;
use machinery::{Map, Value};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Makes a reference to a built-in definition.
pub(super) type Refer<'a> = &'a mut dyn FnMut(&str) -> Value;

/// `com.example.v1.Kind` of the group `example.com`.
pub(super) fn definition_name(kind: &GroupVersionKind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
}

/// The definition of a kind's objects.
pub(super) fn object(kind: &GroupVersionKind, schema: Option<Value>, v2: bool, refer: Refer<'_>) -> Value {
    let mut out = Map::new();
    out.insert("type", "object");
    let mut out: Value = match schema {
        None => out.into(),
        Some(schema) if v2 && preserves(&schema) => out.into(),
        Some(mut schema) => {
            if v2 {
                simplify(&mut schema);
            }
            embedded(&mut schema, refer);
            let properties = schema.make_object().object_entry("properties");
            type_properties(properties);
            properties.insert("metadata", described(refer(OBJECT_META), METADATA));
            schema
        }
    };
    out.make_object().insert(
        "x-kubernetes-group-version-kind",
        vec![Value::from(kind_value(kind))],
    );
    out
}

/// The definition of a kind's lists.
pub(super) fn list(kind: &GroupVersionKind, list_kind: &str, item: Value, refer: Refer<'_>) -> Value {
    let mut items = Map::new();
    items.insert(
        "description",
        format!(
            "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
            kind.kind.to_lowercase()
        ),
    );
    items.insert("items", item);
    items.insert("type", "array");
    let mut properties = Map::new();
    type_properties(&mut properties);
    properties.insert("items", items);
    properties.insert("metadata", described(refer(LIST_META), LIST_METADATA));
    let list = GroupVersionKind::new(&kind.group, &kind.version, list_kind);
    let mut out = Map::new();
    out.insert("description", format!("{list_kind} is a list of {}", kind.kind));
    out.insert("properties", properties);
    out.insert("required", vec!["items"]);
    out.insert("type", "object");
    out.insert(
        "x-kubernetes-group-version-kind",
        vec![Value::from(kind_value(&list))],
    );
    out.into()
}

fn type_properties(properties: &mut Map) {
    for (field, description) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let mut property = Map::new();
        property.insert("description", description);
        property.insert("type", "string");
        properties.insert(field, property);
    }
}

fn described(mut reference: Value, description: &str) -> Value {
    reference.make_object().insert("description", description);
    reference
}

fn preserves(schema: &Value) -> bool {
    schema
        .get("x-kubernetes-preserve-unknown-fields")
        .and_then(Value::as_bool)
        == Some(true)
}

/// Objects embedded in an object have what every object has.
fn embedded(schema: &mut Value, refer: Refer<'_>) {
    each_child(schema, &mut |child| embedded(child, refer));
    let is = schema
        .get("x-kubernetes-embedded-resource")
        .and_then(Value::as_bool);
    if is == Some(true) {
        let map = schema.make_object();
        if map.contains_key("properties") || !preserves(&Value::Object(map.clone())) {
            let properties = map.object_entry("properties");
            type_properties(properties);
            properties.insert("metadata", described(refer(OBJECT_META), METADATA));
        }
    }
}

/// Takes out what clients of version 2 misread.
fn simplify(schema: &mut Value) {
    let nullable = |schema: &Value| schema.get("nullable").and_then(Value::as_bool) == Some(true);
    let preserve = preserves(schema);
    let optional: Vec<String> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| nullable(property))
        .map(|(name, _)| name.to_string())
        .collect();
    let nullable_items = schema.get("additionalProperties").is_some_and(nullable);
    let null = nullable(schema);
    let Some(map) = schema.as_object_mut() else { return };
    for field in ["allOf", "oneOf", "anyOf", "not", "nullable"] {
        map.remove(field);
    }
    if null || preserve {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if null || ty == "array" && !map.contains_key("items") || ty == "object" && preserve {
        map.remove("type");
    }
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| {
            !name
                .as_str()
                .is_some_and(|name| optional.iter().any(|o| o == name))
        });
        if required.is_empty() || nullable_items {
            map.remove("required");
        }
    }
    each_child(schema, &mut simplify);
}

fn each_child(schema: &mut Value, then: &mut dyn FnMut(&mut Value)) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(&mut *then);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(field).filter(|child| child.as_object().is_some()) {
            then(child);
        }
    }
}
