//! A container's root filesystem: an overlay of the image's layers under a directory of its own.

use std::path::{Path, PathBuf};

use linux::mount::{Mount, MountFlags, Mounts, OverlayUpper, Unmount};
use linux::{Error, Kernel};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Mounts `lower` (topmost first) with a fresh writable layer at `dir/rootfs`.
pub(super) fn mount(dir: &Path, lower: Vec<PathBuf>) -> linux::Result<()> {
    let target = dir.join("rootfs");
    let upper = OverlayUpper {
        dir: dir.join("upper"),
        work: dir.join("work"),
    };
    for path in [&target, &upper.dir, &upper.work] {
        std::fs::create_dir_all(path).map_err(|error| Error::kernel("create", path.display(), error))?;
    }
    if lower.is_empty() {
        // An image without layers: the writable one is all there is.
        return Kernel.mount(&Mount::bind(&upper.dir, &target));
    }
    take_root_mode(&lower, &upper.dir)?;
    Kernel.mount(&Mount::Overlay {
        lower,
        upper: Some(upper),
        target,
        options: String::new(),
    })
}

/// The root directory looks as the image has it, not as we made ours.
fn take_root_mode(lower: &[PathBuf], upper: &Path) -> linux::Result<()> {
    let Some(top) = lower.first() else { return Ok(()) };
    let stat = rustix::fs::stat(top).map_err(|error| Error::kernel("stat", top.display(), error))?;
    let owner = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::chown(upper, Some(owner.0), Some(owner.1))
        .and_then(|()| rustix::fs::chmod(upper, Mode::from_raw_mode(stat.st_mode & 0o7777)))
        .map_err(|error| Error::kernel("set mode of", upper.display(), error))
}

/// Makes an image visible, read-only, for mounting into a container; gives where.
pub(super) fn mount_image(target: &Path, lower: &[PathBuf]) -> linux::Result<()> {
    std::fs::create_dir_all(target).map_err(|error| Error::kernel("create", target.display(), error))?;
    match lower {
        [] => Ok(()),
        [only] => {
            Kernel.mount(&Mount::bind(only, target))?;
            Kernel.mount(&Mount::RemountBind {
                target: target.to_owned(),
                flags: MountFlags::RDONLY,
            })
        }
        many => Kernel.mount(&Mount::Overlay {
            lower: many.to_vec(),
            upper: None,
            target: target.to_owned(),
            options: String::new(),
        }),
    }
}

/// Takes every mount under a container's directory away.
pub(super) fn unmount_all(dir: &Path) -> linux::Result<()> {
    linux::mount::unmount_under(&Kernel, dir).map(drop)
}

pub(super) fn unmount(target: &Path) -> linux::Result<()> {
    Kernel.unmount(target, Unmount::Detach).map(drop)
}

/// Makes the working directory in a container's tree, following its links but never out of it.
pub(super) fn make_working_dir(rootfs: &Path, dir: &str) -> std::io::Result<()> {
    let root = rustix::fs::open(
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut here = root.try_clone()?;
    let mut path = PathBuf::new();
    for part in dir.split('/').filter(|part| !part.is_empty() && *part != ".") {
        path.push(part);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat2(&root, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        here = match open() {
            Err(rustix::io::Errno::NOENT) if part != ".." => {
                match rustix::fs::mkdirat(&here, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open()?
            }
            // Not a directory: the start itself will say so in known words.
            Err(rustix::io::Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_directory_is_made_inside() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../..", root.join("out")).unwrap();
        make_working_dir(&root, "/link/a/b").unwrap();
        assert!(root.join("real/a/b").is_dir());
        make_working_dir(&root, "/out/c").unwrap();
        assert!(root.join("c").is_dir());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
