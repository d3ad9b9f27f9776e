//! Mounts: bind, overlay, tmpfs and any other filesystem, propagation, read-only remounts, unmounting,
//! and the mount table.
//!
//! **Invariant:** nothing here follows up on a failed call with another; a caller that wants "mounted
//! read-only or not at all" unmounts itself.
//!
//! Mount data longer than a page (overlay with many layers) goes through the newer `fsconfig` calls,
//! which take one layer at a time.

mod info;
mod kernel;

use std::path::{Path, PathBuf};

pub use info::{MountInfo, parse_mountinfo};
pub use rustix::mount::{MountFlags, UnmountFlags};

use crate::Result;

/// One mount to make or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Makes `source` visible at `target`.
    Bind {
        source: PathBuf,
        target: PathBuf,
        depth: Depth,
    },
    /// Mounts a filesystem by its type (`tmpfs`, `proc`, `mqueue`, `nfs` …).
    Filesystem {
        kind: String,
        source: String,
        target: PathBuf,
        flags: MountFlags,
        data: String,
    },
    /// An overlay of read-only `lower` layers (topmost first) with an optional writable one.
    Overlay {
        lower: Vec<PathBuf>,
        upper: Option<OverlayUpper>,
        target: PathBuf,
        options: String,
    },
    /// Changes the flags of the bind mount at `target` (`MountFlags::RDONLY` and so on).
    RemountBind { target: PathBuf, flags: MountFlags },
    /// Changes the flags and data of the filesystem mounted at `target`.
    Remount {
        target: PathBuf,
        flags: MountFlags,
        data: String,
    },
    /// Changes how mounts made under `target` spread.
    Propagate {
        target: PathBuf,
        propagation: Propagation,
        depth: Depth,
    },
    /// Moves a mount.
    Move { source: PathBuf, target: PathBuf },
}

/// The writable part of an overlay; both directories are on one filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayUpper {
    pub dir: PathBuf,
    pub work: PathBuf,
}

/// Whether a change reaches the mounts below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Single,
    Recursive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// How hard to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails with `EBUSY` while in use.
    Plain,
    /// Out of sight now, gone when the last user leaves.
    Detach,
    /// For filesystems whose server went away.
    Force,
}

impl Mount {
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Mount::Bind {
            source: source.into(),
            target: target.into(),
            depth: Depth::Single,
        }
    }

    pub fn bind_recursive(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Mount::Bind {
            source: source.into(),
            target: target.into(),
            depth: Depth::Recursive,
        }
    }

    /// A tmpfs; `data` as in `size=64m,mode=0755`.
    pub fn tmpfs(target: impl Into<PathBuf>, data: impl Into<String>) -> Self {
        Mount::Filesystem {
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            target: target.into(),
            flags: MountFlags::NOSUID | MountFlags::NODEV,
            data: data.into(),
        }
    }

    pub fn read_only(target: impl Into<PathBuf>) -> Self {
        Mount::RemountBind {
            target: target.into(),
            flags: MountFlags::RDONLY,
        }
    }

    pub fn propagate(target: impl Into<PathBuf>, propagation: Propagation, depth: Depth) -> Self {
        Mount::Propagate {
            target: target.into(),
            propagation,
            depth,
        }
    }

    /// Where the mount is or will be.
    pub fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. }
            | Mount::Filesystem { target, .. }
            | Mount::Overlay { target, .. }
            | Mount::RemountBind { target, .. }
            | Mount::Remount { target, .. }
            | Mount::Propagate { target, .. }
            | Mount::Move { target, .. } => target,
        }
    }
}

/// What can be asked of the mount tree of the calling thread.
pub trait Mounts: Send + Sync {
    fn mount(&self, mount: &Mount) -> Result<()>;
    /// Unmounts one mount; `Ok(false)` when nothing was mounted there.
    fn unmount(&self, target: &Path, how: Unmount) -> Result<bool>;
    /// All mounts in the order they were made.
    fn table(&self) -> Result<Vec<MountInfo>>;
    /// Whether `path` itself is the root of a mount; `false` when it does not exist.
    fn is_mount_point(&self, path: &Path) -> Result<bool>;
    /// Sets mount attributes on a whole tree at once (recursive read-only).
    fn set_read_only_recursive(&self, target: &Path) -> Result<()>;
}

/// Unmounts everything at and under `path`, innermost first, and says how many mounts went.
pub fn unmount_under(mounts: &dyn Mounts, path: &Path) -> Result<usize> {
    unmount_where(mounts, |target| target.starts_with(path))
}

/// As [`unmount_under`], but leaves what is mounted at `path` itself: that is not ours to take away.
pub fn unmount_below(mounts: &dyn Mounts, path: &Path) -> Result<usize> {
    unmount_where(mounts, |target| target.starts_with(path) && target != path)
}

fn unmount_where(mounts: &dyn Mounts, wanted: impl Fn(&Path) -> bool) -> Result<usize> {
    let mut count = 0;
    for entry in mounts.table()?.iter().rev().filter(|m| wanted(&m.target)) {
        count += usize::from(mounts.unmount(&entry.target, Unmount::Detach)?);
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
