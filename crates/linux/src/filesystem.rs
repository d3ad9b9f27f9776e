//! How full a filesystem is.

use std::path::Path;

use crate::Result;
use crate::error::Context;

/// Bytes and inodes of the filesystem that holds a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    /// Free for everybody, without what is kept for root.
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

pub fn usage(path: &Path) -> Result<Usage> {
    let stat = rustix::fs::statvfs(path).context("read the use of", path.display())?;
    Ok(Usage {
        total: stat.f_blocks * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_root_has_a_size() {
        let usage = super::usage(std::path::Path::new("/")).unwrap();
        assert!(usage.total > 0 && usage.available <= usage.total);
    }
}
