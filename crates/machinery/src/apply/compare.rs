//! What differs between two objects, as two sets of paths, found in one walk over both trees.
//!
//! A side may be absent, or present with nothing written: built-in types have fields that upstream's Go structs
//! always hold (an embedded struct, a required list). Such a field is [`Side::Zero`] where its parent is present
//! and it is not written, so that setting `spec.strategy.type` does not count as adding `spec.strategy`, exactly
//! as upstream's `managedFields` read. Objects that upstream keeps unstructured (custom resources, an applied
//! configuration) have no such fields: [`Shape::Written`].
//!
//! **Invariant:** equal subtrees cost a comparison and no allocation.

use super::atom::{Atom, List, MapAtom, Relation, Ty};
use super::element;
use super::name::{self, Name};
use super::set::FieldSet;
use crate::Value;
use std::cmp::Ordering;

/// The paths in which a new object differs from an old one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Added or with another value.
    pub(crate) changed: FieldSet,
    pub(crate) removed: FieldSet,
}

impl Comparison {
    pub(crate) fn is_same(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What is written of a typed object, and what counts as present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A field is there if it is written.
    Written,
    /// Fields that always exist are there too.
    Typed,
}

/// One of the two objects to compare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object<'v> {
    pub(crate) side: Side<'v>,
    pub(crate) shape: Shape,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Side<'v> {
    Absent,
    /// Present, and nothing written.
    Zero,
    Value(&'v Value),
}

impl<'v> Side<'v> {
    fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    fn value(self) -> Option<&'v Value> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }
}

/// Compares two objects of one type, leaving out the paths of `skip` and all below them.
pub(crate) fn compare(
    ty: Ty<'_>,
    old: Object<'_>,
    new: Object<'_>,
    skip: &FieldSet,
) -> Result<Comparison, String> {
    let walk = Walk {
        old: old.shape,
        new: new.shape,
    };
    let delta = walk.compare(ty, old.side, new.side, skip)?;
    Ok(Comparison {
        changed: delta.changed,
        removed: delta.removed,
    })
}

/// A subtree's comparison, and what is to be said of its root.
#[derive(Default)]
struct Delta {
    changed: FieldSet,
    removed: FieldSet,
    self_changed: bool,
    self_removed: bool,
}

impl Delta {
    fn attach(&mut self, name: impl FnOnce() -> Name, child: Delta) {
        let changed = child.self_changed || !child.changed.is_empty();
        let removed = child.self_removed || !child.removed.is_empty();
        match (changed, removed) {
            (false, false) => {}
            (true, false) => self.changed.put(name(), child.self_changed, child.changed),
            (false, true) => self.removed.put(name(), child.self_removed, child.removed),
            (true, true) => {
                let name = name();
                self.changed.put(name.clone(), child.self_changed, child.changed);
                self.removed.put(name, child.self_removed, child.removed);
            }
        }
    }
}

struct Walk {
    old: Shape,
    new: Shape,
}

const NOTHING: &FieldSet = &FieldSet::new();

impl Walk {
    fn compare(&self, ty: Ty<'_>, old: Side<'_>, new: Side<'_>, skip: &FieldSet) -> Result<Delta, String> {
        let mut delta = Delta::default();
        let leaf = match (old, new) {
            (_, Side::Absent) => self.atom(&ty.atom(old.value()), old, new, skip, &mut delta)?,
            (Side::Absent, _) => self.atom(&ty.atom(new.value()), old, new, skip, &mut delta)?,
            _ => {
                let (before, after) = (ty.atom(old.value()), ty.atom(new.value()));
                // Only a value without a schema can change what it is.
                if !before.same_kind(&after) {
                    self.atom(&before, old, new, skip, &mut delta)?;
                }
                self.atom(&after, old, new, skip, &mut delta)?
            }
        };
        if !leaf {
            delta.self_changed |= old.is_absent();
            delta.self_removed |= new.is_absent() && !old.is_absent();
        }
        Ok(delta)
    }

    /// Compares as `atom`; true if the value was taken as a whole.
    fn atom(
        &self,
        atom: &Atom<'_>,
        old: Side<'_>,
        new: Side<'_>,
        skip: &FieldSet,
        delta: &mut Delta,
    ) -> Result<bool, String> {
        match atom {
            Atom::Scalar(_) => {}
            Atom::Map(map) => {
                let empty = is_empty(map, old, self.old) && is_empty(map, new, self.new);
                if !map.atomic && !empty {
                    self.map(map, old, new, skip, delta)?;
                    return Ok(false);
                }
            }
            Atom::List(list) => {
                let (before, after) = (items(old), items(new));
                let empty = before.is_empty() && after.is_empty();
                if !matches!(list.relation, Relation::Atomic) && !empty {
                    if before != after || old.is_absent() || new.is_absent() {
                        self.list(list, before, after, delta)?;
                    }
                    return Ok(false);
                }
            }
        }
        leaf(old, new, delta);
        Ok(true)
    }

    fn map(
        &self,
        map: &MapAtom<'_>,
        old: Side<'_>,
        new: Side<'_>,
        skip: &FieldSet,
        delta: &mut Delta,
    ) -> Result<(), String> {
        let mut before = entries(old).peekable();
        let mut after = entries(new).peekable();
        let mut always = map.always().peekable();
        loop {
            // The smallest key that either side writes or that always exists.
            let key = [
                before.peek().map(|(key, _)| &***key),
                after.peek().map(|(key, _)| &***key),
                always.peek().copied(),
            ]
            .into_iter()
            .flatten()
            .min();
            let Some(key) = key else { return Ok(()) };
            let exists = always.next_if(|name| *name == key).is_some();
            let left = before.next_if(|(k, _)| &***k == key).map(|(_, v)| v);
            let right = after.next_if(|(k, _)| &***k == key).map(|(_, v)| v);
            if let (Some(left), Some(right)) = (left, right)
                && is_same_scalar(left, right)
            {
                continue;
            }
            let left = side(left, exists && self.old == Shape::Typed, old);
            let right = side(right, exists && self.new == Shape::Typed, new);
            if matches!(
                (left, right),
                (Side::Zero, Side::Zero) | (Side::Absent, Side::Absent)
            ) {
                continue;
            }
            let below = if skip.is_empty() {
                NOTHING
            } else {
                match skip.node(&name::field(key)) {
                    Some(node) if node.member => continue,
                    Some(node) => &node.children,
                    None => NOTHING,
                }
            };
            let Some(child) = map.child(key) else {
                continue; // not in the schema: upstream has pruned it or knows no better
            };
            let child = self.compare(child.ty, left, right, below)?;
            delta.attach(|| name::field(key), child);
        }
    }

    fn list(&self, list: &List<'_>, old: &[Value], new: &[Value], delta: &mut Delta) -> Result<(), String> {
        let before = element::named(list, old)?;
        let after = element::named(list, new)?;
        let (mut before, mut after) = (before.as_slice(), after.as_slice());
        loop {
            let name = match (before.first(), after.first()) {
                (None, None) => return Ok(()),
                (Some(b), None) => &b.0,
                (None, Some(a)) => &a.0,
                (Some(b), Some(a)) => match name::compare(&b.0, &a.0) {
                    Ordering::Greater => &a.0,
                    _ => &b.0,
                },
            };
            let (left, rest) = before.split_at(run(before, name));
            before = rest;
            let (right, rest) = after.split_at(run(after, name));
            after = rest;
            match (left, right) {
                ([] | [_], [] | [_]) => {
                    let l = left.first().map_or(Side::Absent, |e| Side::Value(&old[e.1]));
                    let r = right.first().map_or(Side::Absent, |e| Side::Value(&new[e.1]));
                    let child = self.compare(list.item, l, r, NOTHING)?;
                    delta.attach(|| name.clone(), child);
                }
                // Duplicates are owned as one thing.
                ([_, _, ..], [_, _, ..]) => {
                    let same = left.len() == right.len()
                        && left.iter().zip(right).all(|(l, r)| same(&old[l.1], &new[r.1]));
                    if !same {
                        delta.changed.put(name.clone(), true, FieldSet::new());
                    }
                }
                ([_, _, ..], rest) => {
                    if let Some(only) = rest.first() {
                        let child =
                            self.compare(list.item, Side::Absent, Side::Value(&new[only.1]), NOTHING)?;
                        delta.attach(|| name.clone(), child);
                    }
                    delta.removed.put(name.clone(), true, FieldSet::new());
                }
                (rest, _) => {
                    if let Some(only) = rest.first() {
                        let child =
                            self.compare(list.item, Side::Value(&old[only.1]), Side::Absent, NOTHING)?;
                        delta.attach(|| name.clone(), child);
                    }
                    delta.changed.put(name.clone(), true, FieldSet::new());
                }
            }
        }
    }
}

/// A field as one side has it.
fn side<'v>(written: Option<&'v Value>, always: bool, parent: Side<'_>) -> Side<'v> {
    match written {
        Some(value) => Side::Value(value),
        None if always && !parent.is_absent() => Side::Zero,
        None => Side::Absent,
    }
}

/// How many entries from the front have that name.
fn run(entries: &[(Name, usize)], name: &Name) -> usize {
    entries.iter().take_while(|(n, _)| n == name).count()
}

fn leaf(old: Side<'_>, new: Side<'_>, delta: &mut Delta) {
    match (old, new) {
        (Side::Absent, Side::Absent) => {}
        (Side::Absent, _) => delta.self_changed = true,
        (_, Side::Absent) => delta.self_removed = true,
        (Side::Zero, Side::Zero) => {}
        (Side::Zero, Side::Value(value)) | (Side::Value(value), Side::Zero) => {
            delta.self_changed |= !is_zero(value);
        }
        (Side::Value(old), Side::Value(new)) => delta.self_changed |= !same(old, new),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) => true,
        Value::Float(f) => *f == 0.0,
        Value::String(s) => s.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// True if there is nothing inside, also nothing that is always there.
fn is_empty(map: &MapAtom<'_>, side: Side<'_>, shape: Shape) -> bool {
    let written = match side {
        Side::Absent => return true,
        Side::Zero => false,
        Side::Value(Value::Object(map)) => !map.is_empty(),
        Side::Value(_) => return true,
    };
    !written && (shape == Shape::Written || map.always().next().is_none())
}

fn items(side: Side<'_>) -> &[Value] {
    match side {
        Side::Value(Value::Array(items)) => items,
        _ => &[],
    }
}

fn entries(side: Side<'_>) -> impl Iterator<Item = (&crate::Key, &Value)> {
    let map = match side {
        Side::Value(Value::Object(map)) => Some(map),
        _ => None,
    };
    map.into_iter().flat_map(crate::Map::iter)
}

fn is_same_scalar(a: &Value, b: &Value) -> bool {
    !matches!(a, Value::Array(_) | Value::Object(_)) && same(a, b)
}

/// Equality of values as upstream has it: a whole number equals itself written as a float.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // Exactly the conversion upstream compares with.
        #[allow(clippy::cast_precision_loss)]
        (Value::Int(i), Value::Float(f)) | (Value::Float(f), Value::Int(i)) => *i as f64 == *f,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }
        (a, b) => a == b,
    }
}
