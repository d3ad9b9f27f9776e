//! Namespaces that outlive the process that made them, and work done inside a network namespace.
//!
//! A namespace is kept by bind-mounting its `/proc` link onto an empty file, so that no process has to
//! live in it. The work that needs to be *in* a namespace runs on a thread of its own, which ends
//! afterwards.
//!
//! **Invariant:** a thread that has changed namespace is never given back to a pool.
//!
//! A netlink socket stays with the namespace it was opened in, so most callers need no such thread:
//! see [`crate::netlink::Netlink::open_in`].

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::Context;
use crate::mount::{Mount, Mounts, Unmount};
use crate::{Error, Kernel, Result};

/// The kinds of namespace that can be kept without a process in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    Net,
    Ipc,
    Uts,
}

/// Which network namespace something is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// The one the calling process is in.
    Own,
    /// The one bind-mounted at this path (`/proc/<pid>/ns/net` works too).
    At(PathBuf),
}

/// What can be asked of the kernel about namespaces.
pub trait Namespaces: Send + Sync {
    /// Makes a new namespace and keeps it at `path`; an existing one there is left as it is.
    fn create(&self, kind: Namespace, path: &Path) -> Result<()>;
    /// Lets go of the namespace kept at `path` and removes the file; missing is fine.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Whether `path` keeps a namespace (and is not just a leftover file).
    fn is_kept(&self, path: &Path) -> Result<bool>;
    /// The value of a sysctl (`net.ipv4.ip_forward`) as seen in a network namespace.
    fn sysctl(&self, net: &Net, key: &str) -> Result<String>;
    fn set_sysctl(&self, net: &Net, key: &str, value: &str) -> Result<()>;
    /// Several at once: one visit to the namespace. Stops at the first that is refused.
    fn set_sysctls(&self, net: &Net, values: &[(&str, &str)]) -> Result<()> {
        values
            .iter()
            .try_for_each(|(key, value)| self.set_sysctl(net, key, value))
    }
}

/// Runs `work` on a thread of its own inside the network namespace kept at `path`.
pub fn in_net<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(path).context("open network namespace", path.display())?;
    on_own_thread("enter network namespace", path, || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter network namespace", path.display())?;
        work()
    })
}

/// Device and inode of a namespace: equal for two paths that keep the same one.
pub fn identity(path: &Path) -> Result<(u64, u64)> {
    let found = rustix::fs::stat(path).context("stat", path.display())?;
    Ok((found.st_dev, found.st_ino))
}

/// Runs `work` on a thread of its own inside a *new* network namespace that ends with it.
///
/// The probes of [`crate::check`] and the tests of the crates above live in such namespaces.
pub fn in_new_net<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread("make network namespace", Path::new(""), || {
        // SAFETY: only the network namespace is left, no descriptor table is split.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("make", "network namespace")?;
        work()
    })
}

fn on_own_thread<T: Send>(
    operation: &'static str,
    subject: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, work)
            .context(operation, subject.display())?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Dots part the names; in a key that holds a slash the slashes do, as an interface name may hold a dot.
fn sysctl_path(key: &str) -> PathBuf {
    let path = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    Path::new("/proc/sys").join(path)
}

impl Namespaces for Kernel {
    fn create(&self, kind: Namespace, path: &Path) -> Result<()> {
        if self.is_kept(path)? {
            return Ok(());
        }
        OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path)
            .context("create", path.display())?;
        let (flag, link) = match kind {
            Namespace::Net => (UnshareFlags::NEWNET, "/proc/thread-self/ns/net"),
            Namespace::Ipc => (UnshareFlags::NEWIPC, "/proc/thread-self/ns/ipc"),
            Namespace::Uts => (UnshareFlags::NEWUTS, "/proc/thread-self/ns/uts"),
        };
        on_own_thread("make namespace", path, || {
            // SAFETY: the flag is one of three that leave the descriptor table shared.
            unsafe { unshare_unsafe(flag) }.context("make namespace for", path.display())?;
            // The link must be resolved by this very thread, hence the bind here.
            self.mount(&Mount::bind(link, path))
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        while self.is_kept(path)? {
            if !self.unmount(path, Unmount::Detach)? {
                break;
            }
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::kernel("remove", path.display(), error))
            }
            _ => Ok(()),
        }
    }

    fn is_kept(&self, path: &Path) -> Result<bool> {
        const NSFS_MAGIC: u64 = 0x6e73_6673;
        match rustix::fs::statfs(path) {
            Ok(found) => Ok(found.f_type as u64 == NSFS_MAGIC),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
            Err(error) => Err(Error::kernel("stat", path.display(), error)),
        }
    }

    fn sysctl(&self, net: &Net, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let read = || fs::read_to_string(&path).context("read sysctl", key);
        let text = match net {
            Net::Own => read()?,
            Net::At(at) => in_net(at, read)?,
        };
        Ok(text.trim_end().to_owned())
    }

    fn set_sysctl(&self, net: &Net, key: &str, value: &str) -> Result<()> {
        self.set_sysctls(net, &[(key, value)])
    }

    fn set_sysctls(&self, net: &Net, values: &[(&str, &str)]) -> Result<()> {
        let write = || {
            values.iter().try_for_each(|(key, value)| {
                fs::write(sysctl_path(key), value).context("set sysctl", format_args!("{key}={value}"))
            })
        };
        match net {
            Net::Own => write(),
            Net::At(at) => in_net(at, write),
        }
    }
}
