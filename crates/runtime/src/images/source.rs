//! Where an archive's parts are read from: a directory, or a tar file indexed once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::content::Content;
use super::{ImageError, io_error};

/// No archive describes itself in more.
const MAX_METADATA: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) enum Source {
    Directory(PathBuf),
    Tar {
        file: File,
        index: HashMap<String, Member>,
        _scratch: Option<tempfile::NamedTempFile>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Member {
    Data {
        offset: u64,
        len: u64,
    },
    /// Old `docker save` writes a repeated layer as a link.
    Link(String),
}

/// How a stream is packed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub(crate) fn of(head: &[u8]) -> Packing {
        match head {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }

    pub(crate) fn unpack<'a>(self, stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Packing::Plain => Box::new(stream),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(stream)?),
        })
    }
}

impl Source {
    pub(crate) fn open(path: &Path, content: &Content) -> Result<Source, ImageError> {
        let metadata = std::fs::metadata(path).map_err(|error| io_error("open", path, error))?;
        if metadata.is_dir() {
            return Ok(Source::Directory(path.to_owned()));
        }
        let file = File::open(path).map_err(|error| io_error("open", path, error))?;
        Source::tar(file, content)
    }

    /// Indexes a tar file, unpacking it to a scratch file first if it is compressed.
    pub(crate) fn tar(mut file: File, content: &Content) -> Result<Source, ImageError> {
        let mut head = [0; 4];
        let got = read_some(&mut file, &mut head).map_err(not_an_archive)?;
        file.rewind().map_err(not_an_archive)?;
        let packing = Packing::of(&head[..got]);
        if packing == Packing::Plain {
            return Ok(Source::Tar {
                index: index(&file)?,
                file,
                _scratch: None,
            });
        }
        let mut scratch = content.temporary()?;
        let mut stream = packing.unpack(BufReader::new(file)).map_err(not_an_archive)?;
        io::copy(&mut stream, &mut scratch).map_err(not_an_archive)?;
        let file = scratch
            .reopen()
            .map_err(|error| io_error("open", scratch.path(), error))?;
        Ok(Source::Tar {
            index: index(&file)?,
            file,
            _scratch: Some(scratch),
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Source::Directory(root) => inside(root, name).is_ok_and(|path| path.is_file()),
            Source::Tar { index, .. } => index.contains_key(name),
        }
    }

    /// The member's bytes and how many there are.
    pub(crate) fn read(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), ImageError> {
        match self {
            Source::Directory(root) => {
                let path = inside(root, name)?;
                let file = File::open(&path).map_err(|error| missing(name, &error))?;
                let len = file
                    .metadata()
                    .map_err(|error| io_error("read", &path, error))?
                    .len();
                Ok((Box::new(file), len))
            }
            Source::Tar { file, index, .. } => {
                let mut name = name.to_owned();
                // A link to a link is as far as any real archive goes; eight ends a circle.
                for _ in 0..8 {
                    match index.get(&name) {
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(Member::Data { offset, len }) => {
                            let section = Section {
                                file,
                                at: *offset,
                                end: offset + len,
                            };
                            return Ok((Box::new(section), *len));
                        }
                        None => break,
                    }
                }
                Err(ImageError::Malformed(format!("the archive has no {name}")))
            }
        }
    }

    /// A small member whole.
    pub(crate) fn metadata(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (mut stream, len) = self.read(name)?;
        if len > MAX_METADATA {
            return Err(ImageError::Malformed(format!("{name} is too large: {len} bytes")));
        }
        let mut data = Vec::new();
        stream.read_to_end(&mut data).map_err(not_an_archive)?;
        if data.len() as u64 != len {
            return Err(ImageError::Malformed(format!("the archive ends within {name}")));
        }
        Ok(data)
    }
}

/// A part of a file, read at its own position.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let room = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = self.file.read_at(&mut buffer[..room], self.at)?;
        if got == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

fn index(file: &File) -> Result<HashMap<String, Member>, ImageError> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(0)).map_err(not_an_archive)?;
    let total = file.metadata().map_err(not_an_archive)?.len();
    let mut archive = tar::Archive::new(reader);
    let mut members = HashMap::new();
    for entry in archive.entries_with_seek().map_err(not_an_archive)? {
        let entry = entry.map_err(not_an_archive)?;
        let path = entry.path().map_err(not_an_archive)?.into_owned();
        let Some(name) = plain(&path) else { continue };
        let kind = entry.header().entry_type();
        let member = if kind.is_file() {
            let (offset, len) = (entry.raw_file_position(), entry.size());
            if offset.saturating_add(len) > total {
                return Err(ImageError::Malformed(format!("the archive ends within {name}")));
            }
            Member::Data { offset, len }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let Some(target) = entry.link_name().map_err(not_an_archive)? else {
                continue;
            };
            let base = if kind.is_symlink() {
                path.parent().unwrap_or(Path::new(""))
            } else {
                Path::new("")
            };
            let Some(target) = plain(&base.join(target)) else {
                continue;
            };
            Member::Link(target)
        } else {
            continue;
        };
        members.insert(name, member);
    }
    match members.is_empty() {
        true => Err(ImageError::NotAnArchive("it holds no files".to_owned())),
        false => Ok(members),
    }
}

/// A member's name without `.` and `..`, or nothing if it leads out.
fn plain(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir | Component::RootDir => {}
            Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn inside(root: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let harmless = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    match harmless {
        true => Ok(root.join(name)),
        false => Err(ImageError::Malformed(format!("a member named {name:?}"))),
    }
}

fn read_some(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

fn missing(name: &str, error: &io::Error) -> ImageError {
    ImageError::Malformed(format!("the image has no readable {name}: {error}"))
}

fn not_an_archive(error: io::Error) -> ImageError {
    ImageError::NotAnArchive(error.to_string())
}
