//! The paths an object mentions: what an applier owns by applying it.
//!
//! Leaves, whole atomic values, items of merging lists, and keys of maps; not the structs on the way, which own
//! nothing by themselves.

use super::atom::{Atom, MapAtom, Relation, Ty};
use super::element;
use super::name;
use super::set::{FieldSet, Node};
use crate::{Map, Value};

/// Every path `value` mentions. Items that can have no name are left out; a validated object has none.
pub(crate) fn collect(ty: Ty<'_>, value: &Value) -> FieldSet {
    below(ty, value).1
}

/// Whether the value itself is owned, and what of it below.
fn below(ty: Ty<'_>, value: &Value) -> (bool, FieldSet) {
    match (ty.atom(Some(value)), value) {
        (Atom::Scalar(_), _) => (true, FieldSet::new()),
        (Atom::List(list), _) if matches!(list.relation, Relation::Atomic) => (true, FieldSet::new()),
        (Atom::Map(map), _) if map.atomic => (true, FieldSet::new()),
        (Atom::List(list), Value::Array(items)) => {
            let mut nodes = Vec::with_capacity(items.len());
            let named: Vec<_> = items
                .iter()
                .map(|item| element::name_of(&list, item).ok())
                .collect();
            let mut seen = std::collections::HashMap::with_capacity(items.len());
            for name in named.iter().flatten() {
                *seen.entry(name).or_insert(0_usize) += 1;
            }
            for (name, item) in named.iter().zip(items) {
                let Some(name) = name else { continue };
                // Duplicates are owned as one thing.
                let children = if seen.get(name) == Some(&1) {
                    below(list.item, item).1
                } else {
                    FieldSet::new()
                };
                nodes.push(Node {
                    name: name.clone(),
                    member: true,
                    children,
                });
            }
            (false, FieldSet::from_nodes(nodes))
        }
        (Atom::Map(map), Value::Object(fields)) => (false, of_map(&map, fields)),
        _ => (false, FieldSet::new()),
    }
}

fn of_map(map: &MapAtom<'_>, fields: &Map) -> FieldSet {
    let mut set = FieldSet::with_capacity(fields.len());
    for (key, value) in fields {
        let Some(child) = map.child(key) else { continue };
        let (owned, children) = below(child.ty, value);
        let empty = match value {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        set.put(name::field(key), owned || empty || !child.declared, children);
    }
    set
}

/// Adds to a set the declared fields on the way to its paths, so that removing all that is below a struct's field
/// removes the field.
pub(crate) fn with_named_fields(set: &FieldSet, ty: Ty<'_>) -> FieldSet {
    let mut out = FieldSet::with_capacity(set.nodes().len());
    for node in set.nodes() {
        if node.children.is_empty() {
            out.put(node.name.clone(), node.member, FieldSet::new());
            continue;
        }
        let mut member = node.member;
        let child = match (ty.shape_of(), node.name.split_at_checked(2)) {
            (Atom::Map(map), Some(("f:", field))) => map.child(field).map(|child| {
                member |= child.declared;
                child.ty
            }),
            (Atom::List(list), Some(("k:", _))) => Some(list.item),
            _ => None,
        };
        let children = match child {
            Some(ty) => with_named_fields(&node.children, ty),
            None => node.children.clone(),
        };
        out.put(node.name.clone(), member, children);
    }
    out
}
