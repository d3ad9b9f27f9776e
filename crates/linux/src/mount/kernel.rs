//! Mounts by system call.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{self as sys, MountPropagationFlags};

use super::{
    Depth, Mount, MountFlags, MountInfo, Mounts, OverlayUpper, Propagation, Unmount, UnmountFlags,
    parse_mountinfo,
};
use crate::error::Context;
use crate::{Error, Kernel, Result};

/// The classic call takes one page of data, the closing zero included.
const LONGEST_DATA: usize = 4095;

impl Mounts for Kernel {
    fn mount(&self, mount: &Mount) -> Result<()> {
        let subject = mount.target().display();
        match mount {
            Mount::Bind {
                source,
                target,
                depth: Depth::Single,
            } => sys::mount_bind(source, target),
            Mount::Bind {
                source,
                target,
                depth: Depth::Recursive,
            } => sys::mount_bind_recursive(source, target),
            Mount::Filesystem {
                kind,
                source,
                target,
                flags,
                data,
            } => {
                let data = c_string("mount", data)?;
                sys::mount(source.as_str(), target, kind.as_str(), *flags, data.as_c_str())
            }
            Mount::Overlay {
                lower,
                upper,
                target,
                options,
            } => {
                return mount_overlay(lower, upper.as_ref(), target, options);
            }
            Mount::RemountBind { target, flags } => sys::mount_remount(target, MountFlags::BIND | *flags, ""),
            Mount::Remount { target, flags, data } => sys::mount_remount(target, *flags, data.as_str()),
            Mount::Propagate {
                target,
                propagation,
                depth,
            } => {
                let kind = match propagation {
                    Propagation::Private => MountPropagationFlags::PRIVATE,
                    Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
                    Propagation::Shared => MountPropagationFlags::SHARED,
                    Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
                };
                let depth = match depth {
                    Depth::Single => MountPropagationFlags::empty(),
                    Depth::Recursive => MountPropagationFlags::REC,
                };
                sys::mount_change(target, kind | depth)
            }
            Mount::Move { source, target } => sys::mount_move(source, target),
        }
        .context("mount", subject)
    }

    fn unmount(&self, target: &Path, how: Unmount) -> Result<bool> {
        let flags = match how {
            Unmount::Plain => UnmountFlags::empty(),
            Unmount::Detach => UnmountFlags::DETACH,
            Unmount::Force => UnmountFlags::FORCE,
        };
        match sys::unmount(target, flags | UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(Error::kernel("unmount", target.display(), error)),
        }
    }

    fn table(&self) -> Result<Vec<MountInfo>> {
        let path = "/proc/thread-self/mountinfo";
        std::fs::read_to_string(path)
            .map(|text| parse_mountinfo(&text))
            .context("read", path)
    }

    fn is_mount_point(&self, path: &Path) -> Result<bool> {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
        match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
            Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
                Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
            }
            Ok(_) => Ok(self.table()?.iter().any(|m| m.target == path)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
            Err(error) => Err(Error::kernel("stat", path.display(), error)),
        }
    }

    fn set_read_only_recursive(&self, target: &Path) -> Result<()> {
        let dir = rustix::fs::open(
            target,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .context("open", target.display())?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_RDONLY,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the descriptor is open, the path is an empty C string, and the structure outlives the
        // call with the size given beside it.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                dir.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if done == 0 {
            return Ok(());
        }
        Err(Error::kernel(
            "make read-only with all below",
            target.display(),
            std::io::Error::last_os_error(),
        ))
    }
}

fn mount_overlay(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    target: &Path,
    options: &str,
) -> Result<()> {
    let layers: Vec<String> = lower.iter().map(|dir| escape_layer(dir)).collect();
    let mut data = format!("lowerdir={}", layers.join(":"));
    if let Some(OverlayUpper { dir, work }) = upper {
        data.push_str(&format!(
            ",upperdir={},workdir={}",
            escape_option(dir),
            escape_option(work)
        ));
    }
    if !options.is_empty() {
        data.push(',');
        data.push_str(options);
    }
    if data.len() <= LONGEST_DATA {
        let data = c_string("mount overlay", &data)?;
        return sys::mount("overlay", target, "overlay", MountFlags::empty(), data.as_c_str())
            .context("mount overlay at", target.display());
    }
    mount_overlay_by_parts(lower, upper, target, options).context("mount overlay at", target.display())
}

fn mount_overlay_by_parts(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    target: &Path,
    options: &str,
) -> rustix::io::Result<()> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
    let config = sys::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    sys::fsconfig_set_string(&config, "source", "overlay")?;
    for dir in lower {
        sys::fsconfig_set_string(&config, "lowerdir+", dir)?;
    }
    if let Some(OverlayUpper { dir, work }) = upper {
        sys::fsconfig_set_string(&config, "upperdir", dir)?;
        sys::fsconfig_set_string(&config, "workdir", work)?;
    }
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => sys::fsconfig_set_string(&config, key, value)?,
            None => sys::fsconfig_set_flag(&config, option)?,
        }
    }
    sys::fsconfig_create(&config)?;
    let mounted = sys::fsmount(&config, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    sys::move_mount(
        &mounted,
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Layers are parted by colons, options by commas; overlayfs takes a backslash before either.
pub(super) fn escape_layer(dir: &Path) -> String {
    escape_option(dir).replace(':', "\\:")
}

fn escape_option(dir: &Path) -> String {
    dir.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,")
}

fn c_string(operation: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Invalid {
        operation,
        detail: format!("{text:?} holds a zero byte"),
    })
}
