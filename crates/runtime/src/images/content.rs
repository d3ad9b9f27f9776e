//! The content store: blobs named by their digest under `content/blobs/sha256`.
//!
//! **Invariant:** a file there holds exactly what its name says; it is written elsewhere, checked, and
//! renamed into place, so a crash leaves nothing but files in `content/ingest`, emptied at every start.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use super::{Digest, ImageError, io_error};

#[derive(Clone, Debug)]
pub(crate) struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
}

/// A blob on its way in. Dropped before `commit` it leaves nothing.
#[derive(Debug)]
pub(crate) struct Ingest {
    file: tempfile::NamedTempFile,
    hash: Hash,
    blobs: PathBuf,
}

/// A running SHA-256 with its length.
#[derive(Clone)]
pub(crate) struct Hash {
    context: Context,
    len: u64,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Hash {
    pub(crate) fn new() -> Self {
        Hash {
            context: Context::new(&SHA256),
            len: 0,
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.context.update(data);
        self.len += data.len() as u64;
    }

    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::from_raw(self.context.finish().as_ref()), self.len)
    }
}

/// Passes reads through and hashes what went by; optionally keeps a copy.
pub(crate) struct Tee<R> {
    inner: R,
    hash: Hash,
    copy: Option<File>,
}

impl<R: Read> Tee<R> {
    pub(crate) fn new(inner: R, copy: Option<File>) -> Self {
        Tee {
            inner,
            hash: Hash::new(),
            copy,
        }
    }

    /// Reads on to the end and gives the digest and length of everything.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut rest = vec![0; 64 * 1024];
        while self.read(&mut rest)? > 0 {}
        Ok(self.hash.finish())
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        if let Some(copy) = &mut self.copy {
            copy.write_all(&buffer[..got])?;
        }
        Ok(got)
    }
}

impl Content {
    /// Opens the store under `root`, discarding what an earlier process left half-written.
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let blobs = root.join("content/blobs/sha256");
        let ingest = root.join("content/ingest");
        match fs::remove_dir_all(&ingest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("clear", &ingest, error));
            }
            _ => {}
        }
        for dir in [&blobs, &ingest] {
            fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        }
        Ok(Content { blobs, ingest })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The blob's length, if it is here.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest))
            .ok()
            .map(|metadata| metadata.len())
    }

    pub(crate) fn ingest(&self) -> Result<Ingest, ImageError> {
        let file = self.temporary()?;
        Ok(Ingest {
            file,
            hash: Hash::new(),
            blobs: self.blobs.clone(),
        })
    }

    /// A scratch file on the store's own filesystem.
    pub(crate) fn temporary(&self) -> Result<tempfile::NamedTempFile, ImageError> {
        tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(&self.ingest)
            .map_err(|error| io_error("create a file in", &self.ingest, error))
    }

    pub(crate) fn put(&self, data: &[u8]) -> Result<Digest, ImageError> {
        let mut ingest = self.ingest()?;
        ingest
            .write_all(data)
            .map_err(|error| io_error("write to", &self.ingest, error))?;
        let digest = Digest::of(data);
        ingest.commit("blob", &digest, Some(data.len() as u64))?;
        Ok(digest)
    }

    /// A small blob (manifest, configuration), checked against its name.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let data = fs::read(&path).map_err(|error| io_error("read", &path, error))?;
        check_digest("stored blob", digest, &Digest::of(&data))?;
        Ok(data)
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| io_error("open", &path, error))
    }

    /// Removes every blob not in `keep`; gives how many bytes went.
    pub(crate) fn retain(&self, keep: &HashSet<Digest>) -> Result<u64, ImageError> {
        let entries = fs::read_dir(&self.blobs).map_err(|error| io_error("list", &self.blobs, error))?;
        let mut freed = 0;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| Digest::parse(&format!("sha256:{hex}")));
            if digest.is_some_and(|digest| keep.contains(&digest)) {
                continue;
            }
            let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or(0);
            fs::remove_file(entry.path()).map_err(|error| io_error("remove", &entry.path(), error))?;
            freed += size;
        }
        Ok(freed)
    }
}

impl Write for Ingest {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.hash.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Ingest {
    /// Takes the blob in under its name, if it is what it should be.
    pub(crate) fn commit(self, what: &str, expected: &Digest, size: Option<u64>) -> Result<(), ImageError> {
        let (actual, len) = self.hash.finish();
        check_size(what, size, len)?;
        check_digest(what, expected, &actual)?;
        keep(self.file, &self.blobs, expected)
    }
}

/// Moves a checked file into the store.
pub(crate) fn keep(file: tempfile::NamedTempFile, blobs: &Path, digest: &Digest) -> Result<(), ImageError> {
    let path = blobs.join(digest.hex());
    file.persist(&path)
        .map_err(|error| io_error("write", &path, error.error))?;
    Ok(())
}

impl Content {
    /// As [`Ingest::commit`] for a file that somebody else wrote and checked.
    pub(crate) fn keep(&self, file: tempfile::NamedTempFile, digest: &Digest) -> Result<(), ImageError> {
        keep(file, &self.blobs, digest)
    }
}

pub(crate) fn check_digest(what: &str, expected: &Digest, actual: &Digest) -> Result<(), ImageError> {
    match expected == actual {
        true => Ok(()),
        false => Err(ImageError::Digest {
            what: what.to_owned(),
            expected: expected.clone(),
            actual: actual.clone(),
        }),
    }
}

pub(crate) fn check_size(what: &str, expected: Option<u64>, actual: u64) -> Result<(), ImageError> {
    match expected {
        Some(expected) if expected != actual => Err(ImageError::Malformed(format!(
            "{what} has {actual} bytes where {expected} were promised"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matches_its_name_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let content = Content::open(root.path()).unwrap();
        let digest = content.put(b"hello").unwrap();
        assert_eq!(content.read(&digest).unwrap(), b"hello");

        let mut wrong = content.ingest().unwrap();
        wrong.write_all(b"other").unwrap();
        assert!(matches!(
            wrong.commit("layer", &digest, None),
            Err(ImageError::Digest { .. })
        ));
        let mut short = content.ingest().unwrap();
        short.write_all(b"hell").unwrap();
        assert!(matches!(
            short.commit("layer", &digest, Some(5)),
            Err(ImageError::Malformed(_))
        ));

        assert_eq!(content.retain(&HashSet::new()).unwrap(), 5);
        assert!(content.size(&digest).is_none());
        assert_eq!(
            fs::read_dir(root.path().join("content/ingest")).unwrap().count(),
            0
        );
    }
}
