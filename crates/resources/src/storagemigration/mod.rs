//! The group `storagemigration.k8s.io`.

use crate::Entry;

mod storage_version_migration;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "storagemigration.k8s.io",
    "storageversionmigrations",
    &storage_version_migration::StorageVersionMigration,
)];
