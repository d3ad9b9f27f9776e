//! Paths that come from a container's side of the wall: opened step by step below a directory, never through a
//! link and never out of it.
//!
//! **Invariant:** what is opened, made or mounted here lies below the given root at the moment of the call,
//! whatever is renamed or linked meanwhile, because every later step goes through the descriptor.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Context;
use crate::{Error, Result};

/// Something below a root, held open.
#[derive(Debug)]
pub struct Beneath {
    fd: OwnedFd,
    pub is_dir: bool,
}

impl Beneath {
    /// A path that names this very thing while `self` lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

/// Opens `relative` below `root`; `None` when it is not there. Links inside are followed as long as they stay
/// below.
pub fn open(root: &Path, relative: &Path) -> Result<Option<Beneath>> {
    plain(relative)?;
    let base = open_root(root)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let subject = || root.join(relative).display().to_string();
    match retry(|| rustix::fs::openat2(&base, relative, flags, Mode::empty(), resolve)) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd).context("stat", subject())?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            Ok(Some(Beneath { fd, is_dir }))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(Error::kernel("open below the volume", subject(), error)),
    }
}

/// Makes the directories of `relative` below `root` that are missing; no link is followed on the way.
pub fn create_dirs(root: &Path, relative: &Path, mode: u32) -> Result<()> {
    plain(relative)?;
    let mut at = open_root(root)?;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        let subject = || root.join(relative).display().to_string();
        let open = |at: &OwnedFd| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(at, name, flags, Mode::empty())
        };
        at = match open(&at) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(Error::kernel("create", subject(), error)),
                }
                let next = open(&at).context("open", subject())?;
                // The umask has taken its share of the mode.
                let path = format!("/proc/self/fd/{}", next.as_raw_fd());
                rustix::fs::chmod(path, Mode::from_raw_mode(mode))
                    .context("change the mode of", subject())?;
                next
            }
            Err(error) => return Err(Error::kernel("open below the volume", subject(), error)),
        };
    }
    Ok(())
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open", root.display())
}

fn plain(relative: &Path) -> Result<()> {
    if relative
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Ok(());
    }
    Err(Error::Invalid {
        operation: "open below the volume",
        detail: format!("{relative:?} is not a plain relative path"),
    })
}

/// `openat2` answers `EAGAIN` when something was renamed under it.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..100 {
        match call() {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_outside_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(root.join("file"), "y").unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/etc", root.join("abs")).unwrap();
        symlink("file", root.join("inside")).unwrap();
        let open = |path: &str| super::open(&root, Path::new(path));
        assert!(open("up/secret").is_err());
        assert!(open("abs/passwd").is_err());
        assert!(open("../secret").is_err());
        assert!(open("none").unwrap().is_none());
        let found = open("inside").unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(found.path()).unwrap(), "y");

        create_dirs(&root, Path::new("a/b"), 0o777).unwrap();
        assert!(open("a/b").unwrap().unwrap().is_dir);
        assert!(create_dirs(&root, Path::new("up/c"), 0o755).is_err());
        assert!(!dir.path().join("c").exists());
    }
}
