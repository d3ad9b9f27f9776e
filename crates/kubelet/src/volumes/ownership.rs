//! Giving a volume to the pod's `fsGroup`: group owner, group bits, set-group-id on directories.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const EXECUTE: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// Changes everything at and below `path`; links are changed themselves, not followed.
pub fn set(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            set(&entry?.path(), group, read_only)?;
        }
    }
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let mut mask = if read_only { READ_ONLY } else { READ_WRITE };
    if metadata.is_dir() {
        mask |= SET_GID | EXECUTE;
    }
    fs::set_permissions(
        path,
        fs::Permissions::from_mode((metadata.mode() & 0o7777) | mask),
    )
}

/// Whether the volume's root is as [`set`] leaves it: then, by `OnRootMismatch`, nothing below is looked at.
pub fn root_matches(path: &Path, group: u32, read_only: bool) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    let mask = if read_only { READ_ONLY } else { READ_WRITE } | EXECUTE | SET_GID;
    Ok(metadata.gid() == group && metadata.mode() & mask == mask)
}
