//! An object without some of its paths.

use super::atom::{Atom, Relation, Ty};
use super::element;
use super::name;
use super::set::FieldSet;
use crate::Value;

/// Takes the fields and list items of `set` out of the object. What only loses something inside stays, empty if
/// need be. Nothing inside atomic values is touched.
pub(crate) fn remove(ty: Ty<'_>, value: Value, set: &FieldSet) -> Value {
    if set.is_empty() {
        return value;
    }
    match (ty.atom(Some(&value)), value) {
        (Atom::List(list), Value::Array(items)) if !matches!(list.relation, Relation::Atomic) => {
            let kept = items.into_iter().filter_map(|item| {
                let node = element::name_of(&list, &item)
                    .ok()
                    .and_then(|name| set.node(&name));
                match node {
                    None => Some(item),
                    Some(node) if node.member => None,
                    Some(node) => Some(remove(list.item, item, &node.children)),
                }
            });
            Value::Array(kept.collect())
        }
        (Atom::Map(map), Value::Object(fields)) if !map.atomic => {
            let kept = fields
                .into_iter()
                .filter_map(|(key, value)| match set.node(&name::field(&key)) {
                    None => Some((key, value)),
                    Some(node) if node.member => None,
                    Some(node) => {
                        let value = match map.child(&key) {
                            Some(child) => remove(child.ty, value, &node.children),
                            None => value,
                        };
                        Some((key, value))
                    }
                });
            Value::Object(kept.collect())
        }
        (_, value) => value,
    }
}
