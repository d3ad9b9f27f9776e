//! Merging an applied configuration into the live object.
//!
//! What the configuration mentions wins, the rest stays; nothing is removed here (see `prune`). Items of a merging
//! list come in the live order unless the configuration orders them otherwise.

use super::atom::{Atom, List, MapAtom, Relation, Ty};
use super::element;
use super::name::Name;
use crate::{Map, Value};
use std::collections::{HashMap, HashSet};

/// The live object with the configuration applied on top.
pub(crate) fn merge(ty: Ty<'_>, live: &Value, config: &Value) -> Result<Value, String> {
    let (before, after) = (ty.atom(Some(live)), ty.atom(Some(config)));
    match (&after, live, config) {
        (Atom::Map(map), Value::Object(live), Value::Object(config)) if !map.atomic => {
            merge_map(map, live, config)
        }
        (Atom::List(list), Value::Array(live), Value::Array(config))
            if !matches!(list.relation, Relation::Atomic) =>
        {
            if live.is_empty() && config.is_empty() {
                return Ok(Value::Array(Vec::new()));
            }
            merge_list(list, live, config)
        }
        // Null applied to a granular value that is not empty leaves it: nothing in it is mentioned.
        (_, Value::Object(fields), Value::Null) if !fields.is_empty() && !before.is_atomic() => {
            Ok(live.clone())
        }
        (_, Value::Array(items), Value::Null) if !items.is_empty() && !before.is_atomic() => Ok(live.clone()),
        _ => Ok(config.clone()),
    }
}

fn merge_map(map: &MapAtom<'_>, live: &Map, config: &Map) -> Result<Value, String> {
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut live = live.into_iter().peekable();
    for (key, value) in config {
        while let Some(entry) = live.next_if(|(k, _)| k < key) {
            out.push(entry.clone());
        }
        let current = live.next_if(|(k, _)| k == key).map(|(_, value)| value);
        let merged = match (current, map.child(key)) {
            (Some(live), Some(child)) => merge(child.ty, live, value)?,
            _ => value.clone(),
        };
        out.push((key.clone(), merged));
    }
    out.extend(live.cloned());
    // Both came sorted, so this only takes the vector.
    let out = Map::from_unsorted(out, |_| {});
    Ok(Value::Object(out))
}

fn merge_list(list: &List<'_>, live: &[Value], config: &[Value]) -> Result<Value, String> {
    let name =
        |(i, item): (usize, &Value)| element::name_of(list, item).map_err(|e| format!("element {i}: {e}"));
    let right: Vec<Name> = config.iter().enumerate().map(name).collect::<Result<_, _>>()?;
    let left: Vec<Name> = live.iter().enumerate().map(name).collect::<Result<_, _>>()?;

    let in_config: HashSet<&Name> = right.iter().collect();
    // An item that is in the live list twice merges with nothing.
    let mut in_live: HashMap<&Name, Option<&Value>> = HashMap::with_capacity(live.len());
    for (name, item) in left.iter().zip(live) {
        in_live
            .entry(name)
            .and_modify(|found| *found = None)
            .or_insert(Some(item));
    }
    let combine = |name: &Name, item: &Value| match in_live.get(name) {
        Some(Some(live)) => merge(list.item, live, item),
        _ => Ok(item.clone()),
    };

    let mut shared = right.iter().filter(|name| in_live.contains_key(name));
    let mut next_shared = shared.next();
    let mut merged: HashSet<&Name> = HashSet::with_capacity(config.len());
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let name = &left[l];
            if *name == right[r] {
                merged.insert(name);
                out.push(combine(name, &config[r])?);
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_config.contains(name) && next_shared.is_some_and(|next| next != name) {
                l += 1; // shared, but its turn comes with another item
                continue;
            }
        }
        if l < left.len() {
            let name = &left[l];
            if !in_config.contains(name) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(name) {
                l += 1;
            }
        }
        if r < right.len() {
            let name = &right[r];
            merged.insert(name);
            out.push(combine(name, &config[r])?);
            r += 1;
            if next_shared == Some(name) {
                next_shared = shared.next();
            }
        }
    }
    Ok(Value::Array(out))
}
