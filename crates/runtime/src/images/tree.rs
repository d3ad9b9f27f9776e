//! Unpacking one layer: a tar stream becomes a directory that serves as one overlay layer.
//!
//! **Invariant:** nothing outside the target directory is ever touched, whatever the stream says. Every
//! name is walked component by component from the target's own descriptor; a symbolic link on the way, be
//! it from this layer or one below, is followed inside the tree only.
//!
//! Whiteouts take overlayfs's form: `.wh.name` becomes a character device 0:0, `.wh..wh..opq` the xattr
//! `trusted.overlay.opaque`. A directory the stream does not mention but needs takes owner, mode and times
//! from the layers below, because an overlay shows the topmost one's.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use tar::EntryType;

use super::ImageError;

const OPAQUE: &str = "trusted.overlay.opaque";
/// As many symbolic links as the kernel follows in one name.
const MAX_LINKS: usize = 40;

/// What a layer takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// Unpacks `stream` into `target`, an empty directory; `below` are the layers under it, topmost first.
pub(crate) fn apply(stream: impl Read, target: &Path, below: &[PathBuf]) -> Result<Usage, ImageError> {
    let root =
        open_dir(CWD, target.as_os_str()).map_err(|error| super::io_error("open", target, error.into()))?;
    let mut tree = Tree {
        root,
        below,
        parent: None,
        dirs: Vec::new(),
        usage: Usage::default(),
    };
    let mut archive = tar::Archive::new(stream);
    let malformed = |error: io::Error| ImageError::Malformed(format!("layer: {error}"));
    for entry in archive.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        tree.entry(&mut entry).map_err(|problem| match problem {
            Problem::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => malformed(error),
            Problem::Io(error) => super::io_error("unpack", &name, error),
            Problem::Name(why) => ImageError::Malformed(format!("layer entry {:?}: {why}", name.display())),
        })?;
    }
    tree.finish()
        .map_err(|error| super::io_error("unpack", target, error))
}

enum Problem {
    Io(io::Error),
    /// The entry itself is refused.
    Name(&'static str),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Problem::Io(error)
    }
}

impl From<rustix::io::Errno> for Problem {
    fn from(error: rustix::io::Errno) -> Self {
        Problem::Io(error.into())
    }
}

struct Tree<'a> {
    root: OwnedFd,
    below: &'a [PathBuf],
    /// The directory of the last entry: neighbours come one after the other.
    parent: Option<(Vec<OsString>, OwnedFd)>,
    /// Directories whose time is set at the end, when nothing in them changes any more.
    dirs: Vec<(PathBuf, Timestamps)>,
    usage: Usage,
}

/// Owner, mode and time of an entry.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    times: Timestamps,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Tree<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Problem> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let mut parts = components(&entry.path_bytes())?;
        let attributes = attributes(entry)?;
        let Some(name) = parts.pop() else {
            // The layer's root directory itself.
            set_attributes(&self.root, &attributes)?;
            self.dirs.push((PathBuf::from("."), attributes.times));
            return Ok(());
        };
        let parent = self.parent(&parts)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(&parent, hidden);
        }
        self.make_room(&parent, &name, kind)?;
        self.usage.inodes += 1;
        match kind {
            EntryType::Directory => {
                directory(&parent, &name, &attributes)?;
                self.dirs
                    .push((parts.iter().collect::<PathBuf>().join(&name), attributes.times));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&parent, &name, &attributes, entry)
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or(Problem::Name("a symbolic link without a target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, &*name)?;
                set_link_attributes(&parent, &name, &attributes)
            }
            EntryType::Link => {
                let target = entry
                    .link_name_bytes()
                    .ok_or(Problem::Name("a hard link without a target"))?
                    .into_owned();
                self.hard_link(&parent, &name, &target)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let device = rustix::fs::makedev(
                    header.device_major()?.unwrap_or(0),
                    header.device_minor()?.unwrap_or(0),
                );
                let file_type = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let mode = Mode::from_raw_mode(attributes.mode);
                rustix::fs::mknodat(&parent, &*name, file_type, mode, device)?;
                set_link_attributes(&parent, &name, &attributes)?;
                rustix::fs::chmodat(&parent, &*name, mode, AtFlags::empty())?;
                Ok(())
            }
            _ => Err(Problem::Name("an unknown kind of entry")),
        }
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        attributes: &Attributes,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Problem> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(file);
        let promised = entry.size();
        let copied = io::copy(entry, &mut file)?;
        if copied < promised {
            return Err(Problem::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.usage.bytes += copied;
        set_attributes(&file, attributes)?;
        rustix::fs::futimens(&file, &attributes.times)?;
        Ok(())
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &OsStr, target: &[u8]) -> Result<(), Problem> {
        let mut parts = components(target)?;
        let target_name = parts.pop().ok_or(Problem::Name("a hard link to the root"))?;
        let parent = parent.try_clone()?;
        let target_parent = self.parent(&parts)?;
        match rustix::fs::linkat(&target_parent, &*target_name, &parent, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => {}
            other => return Ok(other?),
        }
        // The other name may stand in a layer below: bring it up first, as writing to it would.
        parts.push(target_name.clone());
        let source = self
            .find_below(&parts)
            .ok_or(Problem::Name("a hard link to a missing file"))?;
        copy_up(&source, &target_parent, &target_name)?;
        Ok(rustix::fs::linkat(
            &target_parent,
            &*target_name,
            &parent,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Removes what stands in the way of a new entry.
    fn make_room(&mut self, parent: &OwnedFd, name: &OsStr, kind: EntryType) -> Result<(), Problem> {
        let Some(existing) = lstat(parent, name)? else {
            return Ok(());
        };
        let is_dir = FileType::from_raw_mode(existing.st_mode) == FileType::Directory;
        if is_dir && kind == EntryType::Directory {
            return Ok(());
        }
        self.parent = None;
        if is_dir {
            remove_tree(parent, name)?;
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        }
        Ok(())
    }

    /// The directory that holds an entry, made if need be.
    fn parent(&mut self, parts: &[OsString]) -> Result<OwnedFd, Problem> {
        if let Some((known, fd)) = &self.parent
            && known == parts
        {
            return Ok(fd.try_clone()?);
        }
        let fd = self.walk(parts)?;
        self.parent = Some((parts.to_vec(), fd.try_clone()?));
        Ok(fd)
    }

    fn walk(&mut self, parts: &[OsString]) -> Result<OwnedFd, Problem> {
        let mut rest: Vec<OsString> = parts.iter().rev().cloned().collect();
        let mut here: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                here.pop();
                continue;
            }
            let dir = here.last().map_or(&self.root, |(_, fd)| fd).try_clone()?;
            let target = match lstat(&dir, &part)? {
                Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => None,
                    FileType::Symlink => Some(rustix::fs::readlinkat(&dir, &*part, Vec::new())?.into_bytes()),
                    _ => return Err(Problem::Name("a file where a directory is needed")),
                },
                None => {
                    let path: Vec<OsString> = here
                        .iter()
                        .map(|(name, _)| name.clone())
                        .chain([part.clone()])
                        .collect();
                    self.missing(&dir, &part, &path)?
                }
            };
            match target {
                None => {
                    let fd = open_dir(&dir, &part)?;
                    here.push((part, fd));
                }
                Some(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Problem::Name("too many symbolic links"));
                    }
                    if target.first() == Some(&b'/') {
                        here.clear();
                    }
                    let words = target
                        .split(|b| *b == b'/')
                        .filter(|word| !matches!(*word, b"" | b"."));
                    rest.extend(words.rev().map(|word| OsStr::from_bytes(word).to_owned()));
                }
            }
        }
        match here.pop() {
            Some((_, fd)) => Ok(fd),
            None => Ok(self.root.try_clone()?),
        }
    }

    /// A directory on the way that this layer does not have: follows a link below, or makes the directory.
    fn missing(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        path: &[OsString],
    ) -> Result<Option<Vec<u8>>, Problem> {
        let source = self.find_below(path);
        if let Some(source) = &source
            && source.is_symlink()
        {
            return Ok(Some(std::fs::read_link(source)?.into_os_string().into_vec()));
        }
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
        self.usage.inodes += 1;
        let fd = open_dir(dir, name)?;
        if let Some(source) = source {
            let stat = rustix::fs::lstat(&source)?;
            let attributes = Attributes {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: stat.st_mode & 0o7777,
                times: times(stat.st_mtime, 0),
                xattrs: Vec::new(),
            };
            set_attributes(&fd, &attributes)?;
            self.dirs.push((path.iter().collect(), attributes.times));
        }
        Ok(None)
    }

    /// Where the topmost layer below has `path`. Names only: links on the way were resolved by the walk.
    fn find_below(&self, path: &[OsString]) -> Option<PathBuf> {
        for layer in self.below {
            let mut at = layer.clone();
            for (depth, part) in path.iter().enumerate() {
                at.push(part);
                let Ok(stat) = rustix::fs::lstat(&at) else { break };
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                    return None;
                }
                if depth + 1 == path.len() {
                    return Some(at);
                }
                if kind != FileType::Directory {
                    return None;
                }
            }
        }
        None
    }

    fn finish(self) -> io::Result<Usage> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for (dir, times) in &self.dirs {
            // A directory's time is a nicety: one that cannot be set does not make the layer wrong.
            if let Ok(fd) = rustix::fs::openat2(&self.root, dir, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            {
                rustix::fs::futimens(&fd, times).ok();
            }
        }
        Ok(self.usage)
    }
}

fn directory(parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> Result<(), Problem> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    set_attributes(open_dir(parent, name)?, attributes)
}

/// The name's parts. An absolute name counts from the layer's root; `..` is refused.
fn components(name: &[u8]) -> Result<Vec<OsString>, Problem> {
    let mut parts = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Problem::Name("a name that leads upwards")),
            _ if part.contains(&0) => return Err(Problem::Name("a name with a zero byte")),
            _ => parts.push(OsStr::from_bytes(part).to_owned()),
        }
    }
    Ok(parts)
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Attributes, Problem> {
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else {
                continue;
            };
            // An image has no business with the overlay's own notes.
            let is_overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
            if !is_overlay {
                xattrs.push((
                    OsStr::from_bytes(name).to_owned(),
                    extension.value_bytes().to_vec(),
                ));
            }
        }
    }
    let header = entry.header();
    let old = header.as_old();
    let narrow = |id: u64| u32::try_from(id).map_err(|_| Problem::Name("an owner beyond 32 bits"));
    let mode = number(&old.mode, || header.mode().map(u64::from))?;
    Ok(Attributes {
        uid: narrow(number(&old.uid, || header.uid())?)?,
        gid: narrow(number(&old.gid, || header.gid())?)?,
        mode: mode as u32 & 0o7777,
        times: times(
            i64::try_from(number(&old.mtime, || header.mtime())?).unwrap_or(0),
            0,
        ),
        xattrs,
    })
}

/// A header field left blank is zero, as every tar has it.
fn number(field: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    match field.iter().all(|b| matches!(b, 0 | b' ')) {
        true => Ok(0),
        false => parse(),
    }
}

fn times(seconds: i64, nanoseconds: i64) -> Timestamps {
    let moment = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: moment,
        last_modification: moment,
    }
}

/// Owner first: changing it clears the set-uid bits and file capabilities.
fn set_attributes(fd: impl AsFd, attributes: &Attributes) -> Result<(), Problem> {
    let owner = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::fchown(&fd, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in &attributes.xattrs {
        match rustix::fs::fsetxattr(&fd, &**name, value, XattrFlags::empty()) {
            // The filesystem or the kernel has no such attributes (SELinux labels, mostly).
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn set_link_attributes(parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> Result<(), Problem> {
    let owner = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::chownat(
        parent,
        name,
        Some(owner.0),
        Some(owner.1),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    rustix::fs::utimensat(parent, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn whiteout(parent: &OwnedFd, hidden: &[u8]) -> Result<(), Problem> {
    match hidden {
        b".wh..opq" => rustix::fs::fsetxattr(parent, OPAQUE, b"y", XattrFlags::empty())?,
        // Bookkeeping of a filesystem long gone.
        _ if hidden.starts_with(b".wh.") => {}
        b"" | b"." | b".." => return Err(Problem::Name("a whiteout of nothing")),
        _ => {
            let name = OsStr::from_bytes(hidden);
            match lstat(parent, name)? {
                None => {
                    rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?;
                }
                // Hides what is below, not what this layer brings under the same name.
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    rustix::fs::fsetxattr(open_dir(parent, name)?, OPAQUE, b"y", XattrFlags::empty())?;
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn copy_up(source: &Path, parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
    let stat = rustix::fs::lstat(source)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Problem::Name("a hard link to something other than a file"));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut to = std::fs::File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
    let from = rustix::fs::open(
        source,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    io::copy(&mut std::fs::File::from(from), &mut to)?;
    let attributes = Attributes {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        times: times(stat.st_mtime, 0),
        xattrs: Vec::new(),
    };
    set_attributes(&to, &attributes)?;
    rustix::fs::futimens(&to, &attributes.times)?;
    Ok(())
}

fn remove_tree(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // `remove_dir_all` does not follow links; the descriptor keeps the way to it fixed.
    let path = Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(name);
    std::fs::remove_dir_all(path)
}

fn lstat(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_dir(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
