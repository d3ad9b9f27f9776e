//! Writes a set of files so that a reader sees all of the old set or all of the new one.
//!
//! ```text
//! <volume>/..2026_01_02_03_04_05.000000006/a     the files
//! <volume>/..data -> ..2026_01_02_03_04_05.000000006   swapped by one rename
//! <volume>/a -> ..data/a                          what the container opens
//! ```
//! Follows upstream's `AtomicWriter`, with its names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use sha2::{Digest, Sha256};

use super::ownership;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";
/// Longest path and name that upstream takes.
const LONGEST_PATH: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// The file's owner, when it is to be somebody's own.
    pub owner: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<String, File>;

/// A sum over everything that `write` would write.
pub fn digest(payload: &Payload, fs_group: Option<u32>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("{fs_group:?}"));
    for (path, file) in payload {
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update(format!("{}:{:?}:{}", file.mode, file.owner, file.data.len()));
        hash.update(&file.data);
    }
    hash.finalize().into()
}

/// Makes `volume` hold exactly `payload`; returns whether anything changed.
pub fn write(volume: &Path, payload: &Payload, fs_group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    for path in payload.keys() {
        validate(path)?;
    }
    let old = match fs::read_link(volume.join(DATA)) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let present = match &old {
        Some(old) => list(&volume.join(old))?,
        None => BTreeMap::new(),
    };
    if old.is_some() && same(volume, &present, payload)? {
        link_visible(volume, payload)?;
        return Ok(false);
    }
    let (name, fresh) = new_directory(volume, now)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode & 0o777))?;
        if let Some(owner) = file.owner {
            std::os::unix::fs::chown(&target, Some(owner), None)?;
        }
    }
    if let Some(group) = fs_group {
        ownership::set(&fresh, group, true)?;
    }
    let tmp = volume.join(DATA_TMP);
    remove_link(&tmp)?;
    symlink(&name, &tmp)?;
    fs::rename(&tmp, volume.join(DATA))?;
    link_visible(volume, payload)?;
    unlink_stale(volume, payload)?;
    if let Some(old) = old
        && old.as_os_str() != name.as_str()
    {
        fs::remove_dir_all(volume.join(old))?;
    }
    Ok(true)
}

/// A directory of its own, named by the time.
fn new_directory(volume: &Path, now: Timestamp) -> io::Result<(String, PathBuf)> {
    let stamp = now
        .to_zoned(TimeZone::UTC)
        .strftime("..%Y_%m_%d_%H_%M_%S.%9f")
        .to_string();
    let mut name = stamp.clone();
    for attempt in 1u32.. {
        let fresh = volume.join(&name);
        match fs::create_dir(&fresh) {
            Ok(()) => return Ok((name, fresh)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => name = format!("{stamp}.{attempt}"),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(ErrorKind::AlreadyExists))
}

fn validate(path: &str) -> io::Result<()> {
    let bad = |why: &str| {
        Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("invalid path {path:?}: {why}"),
        ))
    };
    if path.is_empty() {
        return bad("must not be empty");
    }
    if path.len() > LONGEST_PATH {
        return bad("too long");
    }
    if !Path::new(path)
        .components()
        .all(|c| matches!(c, Component::Normal(_)))
    {
        return bad("must be a plain relative path");
    }
    if path.starts_with("..") {
        return bad("must not start with '..'");
    }
    Ok(())
}

fn list(root: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(root, &path, found)?;
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.insert(relative.to_string_lossy().into_owned(), path.clone());
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    match walk(root, root, &mut found) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

fn same(volume: &Path, present: &BTreeMap<String, PathBuf>, payload: &Payload) -> io::Result<bool> {
    if !present.keys().eq(payload.keys()) || !volume.join(DATA).exists() {
        return Ok(false);
    }
    for (name, path) in present {
        if fs::read(path)? != payload[name].data {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first parts of the paths, which stand in the volume's root.
fn visible(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_visible(volume: &Path, payload: &Payload) -> io::Result<()> {
    for name in visible(payload) {
        match symlink(Path::new(DATA).join(name), volume.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn unlink_stale(volume: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = visible(payload);
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            remove_link(&volume.join(name.as_ref()))?;
        }
    }
    Ok(())
}

fn remove_link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| {
                (
                    (*path).to_owned(),
                    File {
                        data: data.as_bytes().to_vec(),
                        mode: 0o640,
                        owner: None,
                    },
                )
            })
            .collect()
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    /// Everything but the timestamped directories.
    fn shown(volume: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(volume)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|n| !n.starts_with("..1") && !n.starts_with("..2"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn swaps_whole_sets() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path();
        assert!(write(volume, &payload(&[("a", "1"), ("d/b", "2")]), None, at(1)).unwrap());
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        assert_eq!(
            fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert!(!write(volume, &payload(&[("a", "1"), ("d/b", "2")]), None, at(2)).unwrap());
        assert!(write(volume, &payload(&[("a", "3"), ("c", "4")]), None, at(3)).unwrap());
        assert_eq!(shown(volume), ["..data", "a", "c"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        let stamped = fs::read_dir(volume)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().is_dir() && !e.as_ref().unwrap().path().is_symlink())
            .count();
        assert_eq!(stamped, 1, "the old set is gone");
        assert!(write(volume, &Payload::new(), None, at(4)).unwrap());
        assert_eq!(shown(volume), ["..data"]);
    }

    #[test]
    fn odd_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "/a", "../a", "a/../b", "..a"] {
            assert!(
                write(dir.path(), &payload(&[(path, "")]), None, at(1)).is_err(),
                "{path}"
            );
        }
    }
}
