//! Processes: pidfds, signals, waiting without polling, the OOM score, limits, reaping orphans.
//!
//! A pid names a process only while nobody has reaped it; whoever holds one across time holds a
//! [`PidFd`] or compares [`Processes::start_time`].

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use rustix::process::Signal;

use crate::error::Context;
use crate::{Error, Kernel, Result};

/// What became of a wish for an OOM score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OomScore {
    Set,
    /// The kernel refused (a lower score needs `CAP_SYS_RESOURCE`); the process keeps this one.
    Kept(i32),
}

/// A limit of a process; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub resource: Resource,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// What can be asked of the kernel about processes.
pub trait Processes: Send + Sync {
    /// Sends a signal; `Ok(false)` when the process is gone.
    fn signal(&self, pid: u32, signal: i32) -> Result<bool>;
    fn is_alive(&self, pid: u32) -> bool;
    /// When the process started, in clock ticks since boot: with the pid, its identity.
    fn start_time(&self, pid: u32) -> Result<u64>;
    /// Asks for an OOM score; a refusal is not an error but told in the result and the log.
    fn set_oom_score_adj(&self, pid: u32, score: i32) -> Result<OomScore>;
    fn set_limit(&self, pid: u32, limit: Limit) -> Result<()>;
}

/// A handle on one process that never comes to mean another.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `Ok(None)` when there is no such process.
    pub fn open(pid: u32) -> Result<Option<PidFd>> {
        let Some(parsed) = Pid::from_raw(pid as i32) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(parsed, PidfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(PidFd(fd))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(Error::kernel("open pidfd of", pid, error)),
        }
    }

    /// Sends a signal; `Ok(false)` when the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(Error::kernel("signal", format_args!("{signal:?}"), error)),
        }
    }

    /// Waits until the process has ended; whether it was reaped does not matter.
    pub async fn exited(self) -> Result<()> {
        let fd = watch_readable(self.0, "pidfd")?;
        let _guard = fd.readable().await.context("wait for", "pidfd")?;
        Ok(())
    }

    /// Blocks until the process has ended or the time is over; whether it ended.
    pub fn wait(&self, limit: Duration) -> Result<bool> {
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&limit)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::kernel("wait for", "pidfd", error)),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Hands a descriptor to the running tokio runtime, to be waited on until it is readable.
pub(crate) fn watch_readable(fd: OwnedFd, what: &'static str) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has one descriptor for its whole life, and the registration owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| Error::kernel("watch", what, std::io::Error::other(error.to_string())))
}

/// Makes the calling process the new parent of its orphaned descendants, so that it can reap them.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become", "subreaper")
}

/// Asks the kernel to send this signal to the calling process when its parent ends.
pub fn die_with_parent(signal: Signal) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal)).context("set", "parent death signal")
}

/// The name `ps` shows for the calling thread; cut at 15 bytes by the kernel.
pub fn set_name(name: &str) -> Result<()> {
    let name = std::ffi::CString::new(name.replace('\0', "")).map_err(|e| Error::Invalid {
        operation: "set name",
        detail: e.to_string(),
    })?;
    rustix::thread::set_name(&name).context("set name", name.to_string_lossy())
}

/// One reaped child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    pub pid: u32,
    /// The exit code, or 128 plus the signal that killed it, as shells and Kubernetes count.
    pub code: i32,
    pub signal: Option<i32>,
}

/// Reaps one ended child without waiting; `None` when none has ended.
pub fn reap() -> Result<Option<Reaped>> {
    match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        Ok(Some((pid, status))) => {
            let signal = status.terminating_signal();
            let code = match (status.exit_status(), signal) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 255,
            };
            Ok(Some(Reaped {
                pid: pid.as_raw_nonzero().get() as u32,
                code,
                signal,
            }))
        }
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(error) => Err(Error::kernel("reap", "children", error)),
    }
}

impl Processes for Kernel {
    fn signal(&self, pid: u32, signal: i32) -> Result<bool> {
        if pid == 0 || pid > i32::MAX as u32 {
            return Err(Error::Invalid {
                operation: "signal",
                detail: format!("pid {pid}"),
            });
        }
        // SAFETY: kill takes two numbers and touches no memory; pid is positive, so it names one process.
        if unsafe { libc::kill(pid as i32, signal) } == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(false);
        }
        Err(Error::kernel(
            "signal",
            format_args!("{pid} with {signal}"),
            error,
        ))
    }

    fn is_alive(&self, pid: u32) -> bool {
        // A zombie still has its directory; its state letter tells.
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => !matches!(stat_fields(&stat).next(), Some("Z" | "X")),
            Err(_) => false,
        }
    }

    fn start_time(&self, pid: u32) -> Result<u64> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).context("read", &path)?;
        // Field 22 of proc(5), counted from 1; the state is field 3.
        stat_fields(&stat)
            .nth(19)
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| Error::answer("read", &path, "no start time"))
    }

    fn set_oom_score_adj(&self, pid: u32, score: i32) -> Result<OomScore> {
        let path = format!("/proc/{pid}/oom_score_adj");
        let Err(error) = fs::write(&path, score.to_string()) else {
            return Ok(OomScore::Set);
        };
        if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
            return Err(Error::kernel("write", &path, error));
        }
        let kept = fs::read_to_string(&path).context("read", &path)?;
        let kept = kept
            .trim()
            .parse()
            .map_err(|_| Error::answer("read", &path, format_args!("{kept:?}")))?;
        tracing::warn!(pid, wanted = score, kept, %error, "OOM score not changed: the kernel refused");
        Ok(OomScore::Kept(kept))
    }

    fn set_limit(&self, pid: u32, limit: Limit) -> Result<()> {
        let new = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        rustix::process::prlimit(Pid::from_raw(pid as i32), limit.resource, new)
            .map(drop)
            .context("set limit", format_args!("{:?} of {pid}", limit.resource))
    }
}

/// The fields after the command name, which may itself hold spaces and brackets.
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_has_a_start_time() {
        let pid = std::process::id();
        assert!(Kernel.is_alive(pid));
        assert!(Kernel.start_time(pid).unwrap() > 0);
        assert!(Kernel.signal(pid, 0).unwrap());
    }

    #[tokio::test]
    async fn a_pidfd_tells_the_end_of_a_process() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let fd = PidFd::open(child.id()).unwrap().unwrap();
        assert!(!fd.wait(Duration::ZERO).unwrap());
        assert!(fd.signal(Signal::KILL).unwrap());
        fd.exited().await.unwrap();
        assert!(!Kernel.is_alive(child.id()));
        child.wait().unwrap();
        assert!(PidFd::open(child.id()).unwrap().is_none());
    }

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        assert_eq!(stat_fields("1 (a) b) S 2 3").collect::<Vec<_>>(), ["S", "2", "3"]);
    }
}
