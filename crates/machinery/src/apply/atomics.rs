//! What of a configuration stands for all of a value, whatever it leaves out: atomic lists, maps and structs.

use super::atom::{Atom, Relation, Ty};
use crate::Value;

/// The paths of all atomic values, as upstream prints them.
pub(super) fn find(ty: Ty<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    search(ty, value, &mut String::new(), &mut found);
    found
}

fn search(ty: Ty<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let start = path.len();
    match (ty.atom(Some(value)), value) {
        (Atom::Map(map), Value::Object(fields)) => {
            if map.atomic {
                found.push(path.clone());
            }
            for (key, value) in fields {
                if let Some(child) = map.child(key).filter(|child| child.declared) {
                    path.push('.');
                    path.push_str(key);
                    search(child.ty, value, path, found);
                    path.truncate(start);
                }
            }
        }
        (Atom::List(list), Value::Array(items)) => {
            if matches!(list.relation, Relation::Atomic) {
                found.push(path.clone());
            }
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                search(list.item, item, path, found);
                path.truncate(start);
            }
        }
        _ => {}
    }
}
