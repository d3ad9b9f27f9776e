//! Entries written when a type was granular, read now that it is atomic.
//!
//! A manager of anything inside then manages the whole. Upstream does this on every write; here it is done before
//! an apply, the one place where it decides anything.

use super::atom::{Atom, Relation, Ty};
use super::managed::ManagedFields;
use super::manager::FieldManager;
use super::set::FieldSet;

/// Lifts fields inside atomic values to those values, in entries of the endpoint's version.
pub(super) fn reconcile(managed: &mut ManagedFields, manager: &FieldManager<'_>) -> Result<(), String> {
    for entry in &mut managed.entries {
        if entry.version == manager.version
            && let Some(lifted) = lift(&entry.fields, manager.ty())
        {
            entry.fields = lifted;
        }
    }
    Ok(())
}

/// The set with nothing inside atomic values, if that changes it.
fn lift(set: &FieldSet, ty: Ty<'_>) -> Option<FieldSet> {
    let atom = ty.shape_of();
    let mut out: Option<FieldSet> = None;
    for (at, node) in set.nodes().iter().enumerate() {
        let child = match (&atom, node.name.split_at_checked(2)) {
            (Atom::Map(map), Some(("f:", field))) => map.child(field).map(|child| child.ty),
            (Atom::List(list), Some(("k:" | "v:", _))) => Some(list.item),
            _ => None,
        };
        let below = match child {
            Some(ty) if !node.children.is_empty() => match ty.shape_of() {
                Atom::Map(map) if map.atomic => Some((true, FieldSet::new())),
                Atom::List(list) if matches!(list.relation, Relation::Atomic) => {
                    Some((true, FieldSet::new()))
                }
                Atom::Scalar(_) => None,
                _ => lift(&node.children, ty).map(|children| (node.member, children)),
            },
            _ => None,
        };
        match (&mut out, below) {
            (None, None) => {}
            (None, Some((member, children))) => {
                let mut started = FieldSet::with_capacity(set.nodes().len());
                for before in &set.nodes()[..at] {
                    started.put(before.name.clone(), before.member, before.children.clone());
                }
                started.put(node.name.clone(), member, children);
                out = Some(started);
            }
            (Some(out), below) => {
                let (member, children) = below.unwrap_or_else(|| (node.member, node.children.clone()));
                out.put(node.name.clone(), member, children);
            }
        }
    }
    out
}
