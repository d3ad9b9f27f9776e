//! Mounts: bind, overlay, tmpfs and any other filesystem, propagation, read-only remounts, unmounting,
//! and the mount table.
//!
//! **Invariant:** nothing here follows up on a failed call with another; a caller that wants "mounted
//! read-only or not at all" unmounts itself.
//!
//! Mount data longer than a page (overlay with many layers) goes through the newer `fsconfig` calls,
//! which take one layer at a time.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{self as sys, MountPropagationFlags};

pub use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::Context;
use crate::{Error, Kernel, Result};

/// One mount to make or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Makes `source` visible at `target`.
    Bind {
        source: PathBuf,
        target: PathBuf,
        depth: Depth,
    },
    /// Mounts a filesystem by its type (`tmpfs`, `proc`, `mqueue`, `nfs` …).
    Filesystem {
        kind: String,
        source: String,
        target: PathBuf,
        flags: MountFlags,
        data: String,
    },
    /// An overlay of read-only `lower` layers (topmost first) with an optional writable one.
    Overlay {
        lower: Vec<PathBuf>,
        upper: Option<OverlayUpper>,
        target: PathBuf,
        options: String,
    },
    /// Changes the flags of the bind mount at `target` (`MountFlags::RDONLY` and so on).
    RemountBind { target: PathBuf, flags: MountFlags },
    /// Changes the flags and data of the filesystem mounted at `target`.
    Remount {
        target: PathBuf,
        flags: MountFlags,
        data: String,
    },
    /// Changes how mounts made under `target` spread.
    Propagate {
        target: PathBuf,
        propagation: Propagation,
        depth: Depth,
    },
    /// Moves a mount.
    Move { source: PathBuf, target: PathBuf },
}

/// The writable part of an overlay; both directories are on one filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayUpper {
    pub dir: PathBuf,
    pub work: PathBuf,
}

/// Whether a change reaches the mounts below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Single,
    Recursive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// How hard to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails with `EBUSY` while in use.
    Plain,
    /// Out of sight now, gone when the last user leaves.
    Detach,
    /// For filesystems whose server went away.
    Force,
}

impl Mount {
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Mount::Bind {
            source: source.into(),
            target: target.into(),
            depth: Depth::Single,
        }
    }

    pub fn bind_recursive(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Mount::Bind {
            source: source.into(),
            target: target.into(),
            depth: Depth::Recursive,
        }
    }

    /// A tmpfs; `data` as in `size=64m,mode=0755`.
    pub fn tmpfs(target: impl Into<PathBuf>, data: impl Into<String>) -> Self {
        Mount::Filesystem {
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            target: target.into(),
            flags: MountFlags::NOSUID | MountFlags::NODEV,
            data: data.into(),
        }
    }

    pub fn read_only(target: impl Into<PathBuf>) -> Self {
        Mount::RemountBind {
            target: target.into(),
            flags: MountFlags::RDONLY,
        }
    }

    pub fn propagate(target: impl Into<PathBuf>, propagation: Propagation, depth: Depth) -> Self {
        Mount::Propagate {
            target: target.into(),
            propagation,
            depth,
        }
    }

    /// Where the mount is or will be.
    pub fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. }
            | Mount::Filesystem { target, .. }
            | Mount::Overlay { target, .. }
            | Mount::RemountBind { target, .. }
            | Mount::Remount { target, .. }
            | Mount::Propagate { target, .. }
            | Mount::Move { target, .. } => target,
        }
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    pub id: u32,
    pub parent: u32,
    pub device: (u32, u32),
    /// The directory of the filesystem that forms this mount's root.
    pub root: PathBuf,
    pub target: PathBuf,
    /// Per-mount options (`rw`, `nosuid` …).
    pub options: Vec<String>,
    /// `shared:1`, `master:2` …; empty for a private mount.
    pub propagation: Vec<String>,
    pub kind: String,
    pub source: String,
    /// Per-filesystem options.
    pub super_options: Vec<String>,
}

impl MountInfo {
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|o| o == "ro")
    }

    pub fn is_shared(&self) -> bool {
        self.propagation.iter().any(|o| o.starts_with("shared:"))
    }
}

/// What can be asked of the mount tree of the calling thread.
pub trait Mounts: Send + Sync {
    fn mount(&self, mount: &Mount) -> Result<()>;
    /// Unmounts one mount; `Ok(false)` when nothing was mounted there.
    fn unmount(&self, target: &Path, how: Unmount) -> Result<bool>;
    /// All mounts in the order they were made.
    fn table(&self) -> Result<Vec<MountInfo>>;
    /// Whether `path` itself is the root of a mount; `false` when it does not exist.
    fn is_mount_point(&self, path: &Path) -> Result<bool>;
    /// Sets mount attributes on a whole tree at once (recursive read-only).
    fn set_read_only_recursive(&self, target: &Path) -> Result<()>;
}

/// Unmounts everything at and under `path`, innermost first, and says how many mounts went.
pub fn unmount_under(mounts: &dyn Mounts, path: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in mounts
        .table()?
        .iter()
        .rev()
        .filter(|m| m.target.starts_with(path))
    {
        count += usize::from(mounts.unmount(&entry.target, Unmount::Detach)?);
    }
    Ok(count)
}

/// Parses the text of a `mountinfo` file; lines it cannot read are left out.
pub fn parse_mountinfo(text: &str) -> Vec<MountInfo> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<MountInfo> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let parent = left.next()?.parse().ok()?;
    let (major, minor) = left.next()?.split_once(':')?;
    let root = unescape(left.next()?);
    let target = unescape(left.next()?);
    let options = list(left.next()?);
    let propagation = left.filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let mut right = right.split(' ');
    Some(MountInfo {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: root.into(),
        target: target.into(),
        options,
        propagation,
        kind: right.next()?.to_owned(),
        source: unescape(right.next()?),
        super_options: list(right.next().unwrap_or("")),
    })
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

// === the kernel ===

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
fn escape_layer(dir: &Path) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_their_escapes() {
        let text = "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                    broken line\n\
                    37 36 0:5 / /proc ro - proc proc rw\n";
        let table = parse_mountinfo(text);
        assert_eq!(table.len(), 2);
        assert_eq!(table[0].target, Path::new("/mnt/a b"));
        assert_eq!(table[0].propagation, ["master:1", "shared:2"]);
        assert!(table[0].is_shared() && !table[0].is_read_only());
        assert_eq!(table[0].super_options, ["rw", "errors=continue"]);
        assert!(table[1].is_read_only() && !table[1].is_shared());
    }

    #[test]
    fn layer_names_with_separators_are_escaped() {
        assert_eq!(escape_layer(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }

    #[test]
    fn unmounting_under_a_path_goes_innermost_first_and_spares_neighbours() {
        let fake = crate::fake::Recorder::default();
        for target in ["/d/pods", "/d/pods/a", "/d/podsx", "/d/pods/a/b"] {
            fake.mount(&Mount::tmpfs(target, "")).unwrap();
        }
        assert_eq!(unmount_under(&fake, Path::new("/d/pods")).unwrap(), 3);
        let left: Vec<_> = fake.table().unwrap().into_iter().map(|m| m.target).collect();
        assert_eq!(left, [Path::new("/d/podsx")]);
        assert_eq!(
            fake.calls()[4..],
            [
                "unmount /d/pods/a/b detach",
                "unmount /d/pods/a detach",
                "unmount /d/pods detach"
            ]
        );
    }

    /// Runs a test in a mount namespace that ends with it, or says why it cannot.
    fn in_own_mounts(test: impl FnOnce(&Path) -> Result<()> + Send) {
        use rustix::thread::UnshareFlags;
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let outcome = crate::check::in_new(UnshareFlags::NEWNS | UnshareFlags::FS, || {
            Kernel.mount(&Mount::propagate("/", Propagation::Private, Depth::Recursive))?;
            Kernel.mount(&Mount::tmpfs(dir.path(), "size=16m,mode=0755"))?;
            test(dir.path())
        });
        outcome.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    #[test]
    fn mounts_are_made_changed_found_and_undone() {
        in_own_mounts(|dir| {
            let [a, b, c] = ["a", "b b", "c"].map(|name| dir.join(name));
            for path in [&a, &b, &c] {
                std::fs::create_dir(path).unwrap();
            }
            Kernel.mount(&Mount::tmpfs(&a, "size=1m"))?;
            std::fs::create_dir(a.join("inner")).unwrap();
            Kernel.mount(&Mount::tmpfs(a.join("inner"), ""))?;
            Kernel.mount(&Mount::bind_recursive(&a, &b))?;
            assert!(Kernel.is_mount_point(&b)? && !Kernel.is_mount_point(&c)?);
            assert!(!Kernel.is_mount_point(&dir.join("nothing"))?);
            assert!(
                Kernel
                    .table()?
                    .iter()
                    .any(|m| m.target == b.join("inner") && m.kind == "tmpfs")
            );
            Kernel.set_read_only_recursive(&b)?;
            assert!(
                std::fs::write(b.join("x"), "").is_err() && std::fs::write(b.join("inner/x"), "").is_err()
            );
            std::fs::write(a.join("x"), "").unwrap();
            Kernel.mount(&Mount::bind(&a, &c))?;
            Kernel.mount(&Mount::read_only(&c))?;
            assert!(std::fs::write(c.join("x"), "").is_err());
            assert_eq!(
                Kernel.unmount(&a, Unmount::Plain).unwrap_err().errno(),
                Some(libc::EBUSY)
            );
            assert_eq!(unmount_under(&Kernel, &b)?, 2);
            assert!(!Kernel.unmount(&b, Unmount::Plain)?, "nothing there any more");
            Ok(())
        });
    }

    #[test]
    fn an_overlay_may_have_more_layers_than_fit_a_page() {
        in_own_mounts(|dir| {
            let layers: Vec<PathBuf> = (0..100)
                .map(|n| dir.join(format!("layer-with-a-rather-long-name-{n:03}-{}", "x".repeat(20))))
                .collect();
            for (n, layer) in layers.iter().enumerate() {
                std::fs::create_dir(layer).unwrap();
                std::fs::write(layer.join(n.to_string()), "").unwrap();
                std::fs::write(layer.join("same"), n.to_string()).unwrap();
            }
            let [upper, work, target] = ["upper", "work", "merged"].map(|name| dir.join(name));
            for path in [&upper, &work, &target] {
                std::fs::create_dir(path).unwrap();
            }
            let overlay = Mount::Overlay {
                lower: layers,
                upper: Some(OverlayUpper {
                    dir: upper.clone(),
                    work,
                }),
                target: target.clone(),
                options: String::new(),
            };
            match Kernel.mount(&overlay) {
                // Kernels before 6.7 take no single layers.
                Err(error) if error.errno() == Some(libc::EINVAL) => {
                    println!("skipped: {}", error.chain());
                    return Ok(());
                }
                other => other?,
            }
            assert_eq!(std::fs::read_dir(&target).unwrap().count(), 101);
            assert_eq!(
                std::fs::read_to_string(target.join("same")).unwrap(),
                "0",
                "the first is on top"
            );
            std::fs::write(target.join("new"), "").unwrap();
            assert!(upper.join("new").exists());
            Ok(())
        });
    }
}
