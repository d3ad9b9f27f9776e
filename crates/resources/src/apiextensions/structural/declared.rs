//! What CEL is told of a schema's values: their types, and how large they can be.
//!
//! Sizes follow upstream's: what a schema does not limit is limited by the largest request, shared out among the
//! smallest values that fit its schema. What a schema gives no type cannot be named in an expression.

use super::{Additional, Schema};
use compact_str::CompactString;
use expressions::{ObjectType, Type};
use machinery::Value;
use std::sync::Arc;

/// The largest object a request can bring.
const LARGEST: u64 = 3 * 1024 * 1024;

/// The CEL type of a schema's values; `None` if expressions cannot see them.
pub fn type_of(schema: &Schema, root: bool) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    Some(match kind(schema) {
        "object" => {
            let with_meta = root || schema.embedded_resource;
            if let Some(Additional::Schema(inner)) = &schema.additional
                && !with_meta
            {
                let inner = type_of(inner, false)?;
                // Upstream takes keys to have no length, however many there may be.
                return Some(Type::Map(
                    Arc::new(Type::String(0)),
                    Arc::new(inner),
                    most_below(schema),
                ));
            }
            let own = schema.properties.iter().filter(|(name, _)| {
                !with_meta || !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
            });
            let mut fields: Vec<(CompactString, Type)> = own
                .filter_map(|(name, property)| Some((name.clone(), type_of(property, false)?)))
                .collect();
            if with_meta {
                let text = || Type::String(LARGEST - 2);
                let metadata = [("name".into(), text()), ("generateName".into(), text())];
                fields.push(("apiVersion".into(), text()));
                fields.push(("kind".into(), text()));
                fields.push((
                    "metadata".into(),
                    Type::object(ObjectType::new("metadata", metadata)),
                ));
            }
            Type::object(ObjectType::new("object", fields))
        }
        "array" => {
            let item = type_of(schema.items.as_deref()?, false)?;
            Type::List(Arc::new(item), most_below(schema))
        }
        "string" => match schema.format.as_str() {
            "byte" => Type::Bytes(limit(schema.max_length).unwrap_or(LARGEST - 2)),
            "duration" => Type::Duration,
            "date" | "date-time" | "datetime" => Type::Timestamp,
            _ => Type::String(longest(schema)),
        },
        "integer" => Type::Int,
        "number" => Type::Double,
        "boolean" => Type::Bool,
        _ => return None,
    })
}

/// How often a value of the schema can stand in one request, whatever it stands in.
pub fn most_in_request(schema: &Schema) -> u64 {
    LARGEST / (smallest(schema) + 1)
}

/// How often a value of the schema below can stand where one of this schema stands, if the schema says.
pub fn limit_below(schema: &Schema) -> Option<u64> {
    match (kind(schema), &schema.additional) {
        ("array", _) => limit(schema.max_items),
        ("object", Some(_)) => limit(schema.max_properties),
        _ => Some(1),
    }
}

/// The most items or entries a value can have.
fn most_below(schema: &Schema) -> u64 {
    let inner = match (&schema.items, &schema.additional) {
        (Some(items), _) => smallest(items),
        (_, Some(Additional::Schema(others))) => smallest(others),
        _ => 1,
    };
    limit_below(schema).unwrap_or(match kind(schema) {
        "array" => (LARGEST - 2) / (inner + 1),
        _ => (LARGEST - 2) / (inner + 6),
    })
}

/// Characters are counted in bytes, of which each may take four.
fn longest(schema: &Schema) -> u64 {
    if let Some(most) = limit(schema.max_length) {
        return most.saturating_mul(4);
    }
    let known = schema.one_of_values.iter().filter_map(Value::as_str);
    known.map(|text| text.len() as u64).max().unwrap_or(LARGEST - 2)
}

fn limit(most: Option<i64>) -> Option<u64> {
    most.map(|most| u64::try_from(most).unwrap_or(0))
}

fn kind(schema: &Schema) -> &str {
    schema.types.first().map_or("", |ty| ty.as_str())
}

/// The fewest bytes a value takes in JSON.
fn smallest(schema: &Schema) -> u64 {
    if schema.int_or_string {
        return 1;
    }
    match (kind(schema), schema.format.as_str()) {
        ("object", _) if matches!(schema.additional, Some(Additional::Schema(_))) => 2,
        ("object", _) => {
            let required = schema.properties.iter().filter(|(name, property)| {
                schema.required.contains(name)
                    && property.default.is_none()
                    && type_of(property, false).is_some()
            });
            let fields: u64 = required
                .map(|(name, property)| name.len() as u64 + smallest(property) + 4)
                .sum();
            2 + fields
        }
        ("string", "duration") => 3,
        ("string", "date") => 12,
        ("string", "date-time") => 21,
        ("array" | "string", _) => 2,
        ("boolean", _) => 4,
        _ => 1,
    }
}
