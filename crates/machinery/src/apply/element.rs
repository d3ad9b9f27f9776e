//! Which name an item of a merging list has: its key fields, or itself in a set.

use super::atom::{List, Relation};
use super::name::{self, Name};
use crate::Value;

/// The name of an item of a set or keyed list; an error in upstream's words if it can have none.
pub(crate) fn name_of(list: &List<'_>, item: &Value) -> Result<Name, String> {
    match list.relation {
        Relation::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Relation::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(name::member(scalar)),
        },
        Relation::Keyed(keys) => match item {
            Value::Null => Err("associative list with keys may not have a null element".to_owned()),
            Value::Object(map) => {
                // A key field that is absent and has no default stays out of the name: a name without it is
                // another name.
                let mut fields: Vec<(&str, &Value)> = keys
                    .iter()
                    .filter_map(|key| {
                        let key: &str = key;
                        let value = map.get(key).or_else(|| list.key_default(key))?;
                        Some((key, value))
                    })
                    .collect();
                if fields.is_empty() {
                    let keys: Vec<String> = keys.iter().map(|key| crate::patch::go::quote(key)).collect();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                         default values for any key fields)",
                        keys.join(" ")
                    ));
                }
                fields.sort_by_key(|(key, _)| *key);
                Ok(name::keyed(fields))
            }
            _ => Err("associative list with keys may not have non-map elements".to_owned()),
        },
    }
}

/// All items with their places, sorted by name and then place.
pub(crate) fn named(list: &List<'_>, items: &[Value]) -> Result<Vec<(Name, usize)>, String> {
    let mut out = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let name = name_of(list, item).map_err(|e| format!("element {i}: {e}"))?;
        out.push((name, i));
    }
    // Stable, so items of one name stay in their order.
    out.sort_by(|a, b| name::compare(&a.0, &b.0));
    Ok(out)
}
