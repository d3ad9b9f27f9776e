//! Hearing of changes in a directory (inotify), for followers of logs and of manifest directories.
//!
//! **Invariant:** a change says only "look again"; several may come as one, and an overflowing queue counts
//! as a change.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::Result;
use crate::error::Context;
use crate::process::watch_readable;

/// Watches one directory. Must be made inside a tokio runtime.
#[derive(Debug)]
pub struct DirectoryWatch {
    fd: AsyncFd<OwnedFd>,
}

impl DirectoryWatch {
    /// Hears of writes, creations, renames and deletions directly in `path`.
    pub fn new(path: &Path) -> Result<Self> {
        let subject = path.display();
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).context("watch", subject)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF;
        inotify::add_watch(&fd, path, flags | WatchFlags::ONLYDIR).context("watch", path.display())?;
        Ok(Self {
            fd: watch_readable(fd, "watch a directory")?,
        })
    }

    /// Waits for the next change, and takes all that came with it.
    pub async fn changed(&mut self) -> Result<()> {
        loop {
            let mut ready = self
                .fd
                .readable()
                .await
                .context("wait for", "a change in a directory")?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut any = false;
            let mut reader = Reader::new(ready.get_inner(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(_) => any = true,
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(error) => return Err(error).context("read", "changes of a directory"),
                }
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hears_writes_and_renames() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = DirectoryWatch::new(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        watch.changed().await.unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        watch.changed().await.unwrap();
    }
}
