//! Defaults that stand in the tables. What needs logic (a Pod's, say) is the strategy's.

use crate::schema::{Field, Shape, TypeId, Types};
use crate::value::Value;

/// Fills what is absent, or null, in a value of type `id`, all the way down. Objects that are absent and have no default
/// of their own stay absent.
///
/// What stands for nothing in a message goes: lists and maps without entries, which neither protobuf nor upstream's
/// JSON can tell from absent ones.
pub fn apply(types: &Types, id: TypeId, value: &mut Value) {
    match (types.shape(id), value) {
        (Shape::Struct(s), Value::Object(map)) => {
            for field in s.fields() {
                if let Some(default) = &field.default
                    && map
                        .get(&field.name)
                        .is_none_or(|value| value.is_null() && !field.nullable)
                {
                    map.insert(field.name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                match (s.field(name), s.additional) {
                    (Some(field), _) => apply(types, field.ty, value),
                    (None, Some(ty)) => apply(types, ty, value),
                    (None, None) => {}
                }
            }
            if !s.message.is_empty() {
                map.retain(|name, value| {
                    !is_nothing(value) || s.field(name).is_none_or(|f| keeps_nothing(types, f))
                });
            }
        }
        (Shape::Map(map), Value::Object(entries)) => {
            for value in entries.values_mut() {
                apply(types, map.value, value);
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                apply(types, list.item, item);
            }
        }
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Whether a field without entries is written all the same.
fn keeps_nothing(types: &Types, field: &Field) -> bool {
    field.required || !matches!(types.shape(field.ty), Shape::List(_) | Shape::Map(_))
}
