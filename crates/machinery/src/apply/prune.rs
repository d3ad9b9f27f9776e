//! Removing what an applier no longer applies.
//!
//! A field or list item goes if the applier owned it by its last apply, does not mention it now, and nobody else
//! owns it. What nobody ever owned stays.

use super::atom::Ty;
use super::collect::{collect, with_named_fields};
use super::managed::{Entry, ManagedFields};
use super::manager::{FieldManager, VersionView};
use super::remove::remove;
use super::set::FieldSet;
use crate::Value;

/// `merged` without what only `last` held. `managed` already has the applier's new entry.
pub(super) fn prune(
    manager: &FieldManager<'_>,
    merged: Value,
    managed: &ManagedFields,
    last: &Entry,
) -> Result<Value, String> {
    let still_applied = managed
        .get(&last.manager)
        .is_some_and(|now| now.version == last.version && last.fields.is_subset(&now.fields));
    if last.fields.is_empty() || still_applied {
        return Ok(merged);
    }
    match manager.versions.view(&merged, &last.version)? {
        VersionView::Gone => Ok(merged),
        VersionView::Converted(id, converted) if last.version != manager.version => {
            let ty = Ty::root(manager.types, id);
            let pruned = in_version(manager, ty, converted, managed, last)?;
            manager.versions.back(pruned, &last.version)
        }
        VersionView::Same | VersionView::Converted(..) => {
            in_version(manager, manager.ty(), merged, managed, last)
        }
    }
}

fn in_version(
    manager: &FieldManager<'_>,
    ty: Ty<'_>,
    merged: Value,
    managed: &ManagedFields,
    last: &Entry,
) -> Result<Value, String> {
    let mut owned = FieldSet::new();
    for entry in &managed.entries {
        // An entry in a version whose fields have other names cannot be laid over this object; what it owns is
        // protected only if the names agree.
        let comparable = entry.version == last.version
            || matches!(manager.versions.view(&merged, &entry.version)?, VersionView::Same);
        if comparable {
            owned.add(entry.fields.clone());
        }
    }
    let all = with_named_fields(&collect(ty, &merged), ty);
    let last = with_named_fields(&last.fields, ty);

    let without_last = remove(ty, merged.clone(), &last);
    let mut kept = with_named_fields(&collect(ty, &without_last), ty);
    kept.add(with_named_fields(&owned, ty));
    let without_unowned = remove(ty, merged.clone(), &all.difference(&kept));

    // Of what is now missing, only what the applier held may go.
    let left = with_named_fields(&collect(ty, &without_unowned), ty);
    let goes = all.difference(&left).intersection(&last);
    Ok(remove(ty, merged, &goes))
}
