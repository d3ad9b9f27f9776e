//! Server-side apply and the tracking of field managers, as upstream's structured-merge-diff and managedfields.
//!
//! ```text
//!   Ty/Atom (atom.rs)  how the field tables look to apply: struct, map, set, keyed list, atomic
//!   FieldSet (set.rs)  a set of field paths; Name (name.rs) one step of a path; FieldsV1 its JSON (fields_v1.rs)
//!   compare, collect, merge, remove, validate   one walk each over an object and its type
//!   ManagedFields (managed.rs)   the entries of metadata.managedFields
//!   FieldManager (manager.rs)    what the engine calls: update() for every write, apply() for apply
//! ```
//!
//! **Invariant:** every walk reads types only through [`atom`]; nothing here knows a kind by name.

mod atom;
mod atomics;
mod collect;
mod compare;
mod conflict;
mod element;
pub mod fields_v1;
mod last_applied;
pub mod managed;
mod manager;
mod merge;
pub mod name;
mod prune;
mod reconcile;
mod remove;
pub mod scale;
mod set;
mod validate;

pub use conflict::{Conflict, Conflicts};
pub use managed::{Entry, ManagedFields, Manager, Operation};
pub use manager::{Applied, ApplyError, FieldManager, ResetFields, SameFields, VersionView, Versions};
pub use set::{FieldSet, Node, display_path};

/// The object with a configuration on top: what the configuration mentions wins, the rest stays. Nobody owns what it
/// brought, so that it must not take the place of atomic values, of which it may not mention all there is.
pub fn merge_onto(
    types: &crate::schema::Types,
    id: crate::schema::TypeId,
    object: &crate::Value,
    config: &crate::Value,
) -> Result<crate::Value, String> {
    let ty = atom::Ty::root(types, id);
    validate::validate(ty, config)
        .map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let atomics = atomics::find(ty, config);
    if !atomics.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    merge::merge(ty, object, config).map_err(|why| format!("failed to merge patch: {why}"))
}
