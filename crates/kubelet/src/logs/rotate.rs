//! Log rotation: a log that has grown past its limit is renamed, the runtime opens a new one, and old ones are
//! compressed no further than by being few.
//!
//! Follows upstream's `logs/container_log_manager.go`: names `<n>.log.<YYYYmmdd-HHMMSS>`, five files in all,
//! ten mebibytes each. Compression of old files is left out; the reader then needs none.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};

use crate::error::{Error, Result};
use crate::runtime::client::Runtime;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_bytes: u64,
    pub max_files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 20,
            max_files: 5,
        }
    }
}

/// Looks at one running container's log and rotates it when it is due.
pub async fn rotate(
    runtime: &Runtime,
    id: &str,
    path: &Path,
    limits: Limits,
    now: Timestamp,
) -> Result<bool> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // A crash between rename and reopening leaves no file to write to.
            runtime.reopen_log(id).await?;
            return Ok(true);
        }
        Err(error) => return Err(Error::file("look at", path)(error)),
    };
    if size < limits.max_bytes {
        return Ok(false);
    }
    // One file is the live one, one is about to come.
    for old in excess(&rotated(path)?, limits.max_files.saturating_sub(2)) {
        std::fs::remove_file(old).map_err(Error::file("remove", old))?;
    }
    let stamp = now.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let target = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(path, &target).map_err(Error::file("rename", path))?;
    if let Err(error) = runtime.reopen_log(id).await {
        std::fs::rename(&target, path).map_err(Error::file("rename", &target))?;
        return Err(error);
    }
    Ok(true)
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(directory).map_err(Error::file("list", directory))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

fn excess(found: &[PathBuf], keep: usize) -> &[PathBuf] {
    &found[..found.len().saturating_sub(keep)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in [
            "0.log",
            "0.log.20260101-000002",
            "0.log.20260101-000001",
            "0.log.20260101-000003",
            "1.log.x",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = rotated(&log).unwrap();
        let names: Vec<_> = excess(&found, 1)
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["0.log.20260101-000001", "0.log.20260101-000002"]);
    }
}
