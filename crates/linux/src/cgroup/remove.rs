//! Emptying and removing groups.
//!
//! Killing is repeated until a look finds nobody, since a process may fork between the look and the
//! signal; each round waits on pidfds, so nothing polls. v2's `cgroup.kill` does it in one step.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CgroupPath, KernelCgroups, Version, read_pids};
use crate::process::{PidFd, Signal};
use crate::{Error, Result};

/// How long one round of killed processes may take to end; one in an uninterruptible sleep can take long.
const ROUND: Duration = Duration::from_secs(5);
const ROUNDS: usize = 8;

pub(super) fn kill(cgroups: &KernelCgroups, path: &CgroupPath) -> Result<usize> {
    Ok(kill_round(cgroups, path)?.len())
}

pub(super) fn remove(cgroups: &KernelCgroups, path: &CgroupPath) -> Result<()> {
    if path.is_root() {
        return Err(Error::Invalid {
            operation: "remove cgroup",
            detail: "the root".into(),
        });
    }
    for _ in 0..ROUNDS {
        let killed = kill_round(cgroups, path)?;
        let mut ended = true;
        for process in &killed {
            ended &= process.wait(ROUND)?;
        }
        let mut gone = true;
        for dir in cgroups.directories(path) {
            gone &= remove_tree(&dir)?;
        }
        if gone {
            return Ok(());
        }
        if !ended {
            break;
        }
    }
    Err(Error::TimedOut {
        operation: "remove cgroup",
        subject: path.to_string(),
        seconds: ROUND.as_secs(),
    })
}

/// Signals everybody found and hands out what to wait for.
fn kill_round(cgroups: &KernelCgroups, path: &CgroupPath) -> Result<Vec<PidFd>> {
    let mut handles = Vec::new();
    for root in cgroups.directories(path) {
        let dirs = tree(&root)?;
        for dir in &dirs {
            for pid in read_pids(dir)? {
                handles.extend(PidFd::open(pid)?);
            }
        }
        if cgroups.version == Version::V2 && !dirs.is_empty() {
            // Absent before Linux 5.14: then the pidfds below do it.
            match fs::write(root.join("cgroup.kill"), "1") {
                Ok(()) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::kernel("kill cgroup", root.display(), error)),
            }
        }
    }
    for handle in &handles {
        handle.signal(Signal::KILL)?;
    }
    Ok(handles)
}

/// The directory and all below, parents first; empty when it does not exist.
pub(super) fn tree(root: &Path) -> Result<Vec<PathBuf>> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = vec![root.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        for name in subdirectories(&found[next])? {
            found.push(found[next].join(name));
        }
        next += 1;
    }
    Ok(found)
}

pub(super) fn subdirectories(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::kernel("list", dir.display(), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::kernel("list", dir.display(), error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether all of it is gone; `false` while somebody is still inside.
fn remove_tree(root: &Path) -> Result<bool> {
    for dir in tree(root)?.iter().rev() {
        match fs::remove_dir(dir) {
            Ok(()) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => {}
                Some(libc::EBUSY | libc::ENOTEMPTY) => return Ok(false),
                _ => return Err(Error::kernel("remove cgroup", dir.display(), error)),
            },
        }
    }
    Ok(true)
}
