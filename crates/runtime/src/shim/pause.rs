//! The first process of a pid namespace that all containers of a pod share: it reaps orphans and sleeps.
//!
//! It stands in reach of the containers, so it gives up everything first: it lives in an empty, read-only
//! root of its own, without capabilities, and cannot be traced.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::WaitOptions;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Makes the namespace, prints the pid of its first process, and exits; that process becomes the shim's.
pub(super) fn launch() -> ExitCode {
    let child = unshare(CloneFlags::CLONE_NEWPID)
        .map_err(std::io::Error::from)
        .and_then(|()| {
            Command::new("/proc/self/exe")
                .args(super::pod::self_args())
                .arg("pause")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .current_dir("/")
                .spawn()
        });
    match child {
        Ok(child) => {
            println!("{}", child.id());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(super) fn main() -> ExitCode {
    if let Err(error) = retire() {
        return ExitCode::from(u8::try_from(error.raw_os_error()).unwrap_or(1));
    }
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGCHLD);
    if wanted.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        if wanted.wait().is_err() {
            return ExitCode::FAILURE;
        }
    }
}

fn retire() -> rustix::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| rustix::io::Errno::from_raw_os_error(error as i32))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let data = c"size=0,mode=0555";
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/tmp", OsStr::new("tmpfs"), flags, Some(data))?;
    rustix::process::chdir(Path::new("/tmp"))?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}
