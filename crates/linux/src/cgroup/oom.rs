//! Waiting for out-of-memory kills: an eventfd on v1, inotify on `memory.events` on v2. Nothing polls.

use std::fs::{self, OpenOptions};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::error::Context;
use crate::process::watch_readable;
use crate::{Error, Result};

/// What woke the watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// The group ran out of memory; how many processes the kernel has killed in it so far.
    ///
    /// On v1 the event comes before the kill, so the count may still lack the newest one.
    OutOfMemory { kills: u64 },
    /// The group is gone; nothing more will come.
    Removed,
}

/// A watch on one group.
#[derive(Debug)]
pub struct OomWatch {
    fd: AsyncFd<OwnedFd>,
    source: Source,
    seen: u64,
}

#[derive(Debug)]
enum Source {
    /// The registered control file must stay open as long as the eventfd is to fire.
    V1 {
        control: PathBuf,
        _registered: fs::File,
    },
    V2 {
        events: PathBuf,
    },
}

impl OomWatch {
    pub(super) fn v1(dir: &Path) -> Result<Self> {
        let control = dir.join("memory.oom_control");
        let registered = OpenOptions::new()
            .read(true)
            .open(&control)
            .context("open", control.display())?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make", "eventfd")?;
        let register = dir.join("cgroup.event_control");
        fs::write(
            &register,
            format!("{} {}", event.as_raw_fd(), registered.as_raw_fd()),
        )
        .context("write", register.display())?;
        Self::start(
            event,
            Source::V1 {
                control,
                _registered: registered,
            },
        )
    }

    pub(super) fn v2(dir: &Path) -> Result<Self> {
        let events = dir.join("memory.events");
        let watch = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .context("make", "inotify")?;
        rustix::fs::inotify::add_watch(&watch, &events, WatchFlags::MODIFY | WatchFlags::DELETE_SELF)
            .context("watch", events.display())?;
        Self::start(watch, Source::V2 { events })
    }

    fn start(fd: OwnedFd, source: Source) -> Result<Self> {
        let fd = watch_readable(fd, "cgroup events")?;
        let mut watch = OomWatch { fd, source, seen: 0 };
        watch.seen = watch.kills().unwrap_or(0);
        Ok(watch)
    }

    /// Waits for the next event. Safe to drop at any await: a later call sees what was missed.
    pub async fn next(&mut self) -> Result<OomEvent> {
        loop {
            let mut guard = self
                .fd
                .readable_mut()
                .await
                .context("wait for", "cgroup events")?;
            let drained = guard.try_io(|fd| drain(fd.get_ref()));
            match drained {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Error::kernel("read", "cgroup events", error)),
                Err(_would_block) => continue,
            }
            let Some(kills) = self.kills() else {
                return Ok(OomEvent::Removed);
            };
            // v2's file also changes for other reasons (memory.high reached and so on).
            let news = kills > self.seen || matches!(self.source, Source::V1 { .. });
            self.seen = kills;
            if news {
                return Ok(OomEvent::OutOfMemory { kills });
            }
        }
    }

    /// `None` when the group is gone.
    fn kills(&self) -> Option<u64> {
        let (Source::V1 { control: file, .. } | Source::V2 { events: file }) = &self.source;
        let text = fs::read_to_string(file).ok()?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Some(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }
}

/// Empties an eventfd or an inotify queue; both are read in units no longer than this buffer.
fn drain(fd: &OwnedFd) -> std::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    rustix::io::read(fd, &mut buffer).map(drop).map_err(Into::into)
}
