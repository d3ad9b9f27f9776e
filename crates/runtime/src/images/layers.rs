//! Unpacked layers: `layers/<chain id>/fs`, ready to be stacked by overlayfs.
//!
//! **Invariant:** a directory under its chain id is complete and was checked against its diff id; unpacking
//! happens beside it, under a name starting with a dot, and ends in one rename.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::content::{Content, Tee, check_digest, check_size};
use super::source::Packing;
use super::tree::{self, Usage};
use super::{Digest, ImageError, integrity, io_error};

const READ_AHEAD: usize = 256 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Layers {
    root: PathBuf,
}

/// The file `layer.json` beside `fs`.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    diff_id: Digest,
    usage: Usage,
}

/// A layer as it comes: its bytes, and what they were promised to be.
pub(crate) struct Incoming<'a> {
    pub(crate) what: String,
    pub(crate) stream: Box<dyn Read + 'a>,
    /// Of the packed bytes; unknown in a `docker save` archive.
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    pub(crate) diff_id: Digest,
}

/// What a layer turned out to be.
pub(crate) struct Arrived {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) packing: Packing,
}

impl Layers {
    /// Opens the store, discarding what an earlier process left half-unpacked.
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let root = root.join("layers");
        fs::create_dir_all(&root).map_err(|error| io_error("create", &root, error))?;
        for entry in fs::read_dir(&root)
            .map_err(|error| io_error("list", &root, error))?
            .filter_map(Result::ok)
        {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_dir_all(entry.path()).map_err(|error| io_error("remove", &entry.path(), error))?;
            }
        }
        Ok(Layers { root })
    }

    /// The directory that overlayfs stacks.
    pub(crate) fn fs(&self, chain_id: &Digest) -> PathBuf {
        self.root.join(chain_id.hex()).join("fs")
    }

    pub(crate) fn has(&self, chain_id: &Digest) -> bool {
        self.root.join(chain_id.hex()).is_dir()
    }

    /// Whether the directory and its note are there and go together; not what the files hold.
    pub(crate) fn is_whole(&self, chain_id: &Digest, diff_id: &Digest) -> bool {
        let place = self.root.join(chain_id.hex());
        let note = fs::read(place.join("layer.json")).ok();
        let note = note.and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        place.join("fs").is_dir() && note.is_some_and(|note| note.diff_id == *diff_id)
    }

    /// Removes a layer that is not what it should be.
    pub(crate) fn discard(&self, chain_id: &Digest) -> Result<(), ImageError> {
        let place = self.root.join(chain_id.hex());
        let doomed = self.root.join(format!(".gone-{}", chain_id.hex()));
        match fs::rename(&place, &doomed) {
            Ok(()) => fs::remove_dir_all(&doomed).map_err(|error| io_error("remove", &doomed, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", &place, error)),
        }
    }

    /// Unpacks a blob beside the layers and tells whether the layer is just that.
    pub(crate) fn matches(
        &self,
        content: &Content,
        blob: &Digest,
        diff_id: &Digest,
        chain: &[Digest],
    ) -> Result<bool, ImageError> {
        let Some(chain_id) = chain.last() else {
            return Ok(true);
        };
        let mut file = content.open_blob(blob)?;
        let (fresh, _) = self.unpack_beside(&format!("layer {blob}"), &mut file, diff_id, chain)?;
        integrity::same_tree(&fresh.path().join("fs"), &self.fs(chain_id))
            .map_err(|error| io_error("compare", &self.fs(chain_id), error))
    }

    /// Takes a layer in: its bytes into the content store, its files under `chain_id` (the last of `chain`).
    pub(crate) fn receive(
        &self,
        incoming: Incoming<'_>,
        content: &Content,
        chain: &[Digest],
    ) -> Result<Arrived, ImageError> {
        let Incoming {
            what,
            stream,
            digest,
            size,
            diff_id,
        } = incoming;
        let blob = content.temporary()?;
        let copy = blob
            .reopen()
            .map_err(|error| io_error("open", blob.path(), error))?;
        let mut packed = Tee::new(stream, Some(copy));
        let packing = self.unpack(&what, &mut packed, &diff_id, chain)?;
        let failed = |error| ImageError::Malformed(format!("{what}: {error}"));
        let (actual, len) = packed.finish().map_err(failed)?;
        check_size(&what, size, len)?;
        if let Some(expected) = &digest {
            check_digest(&what, expected, &actual)?;
        }
        content.keep(blob, &actual)?;
        Ok(Arrived {
            digest: actual,
            size: len,
            packing,
        })
    }

    /// Unpacks a layer whose bytes are in the content store already.
    pub(crate) fn unpack_blob(
        &self,
        content: &Content,
        blob: &Digest,
        diff_id: &Digest,
        chain: &[Digest],
    ) -> Result<(), ImageError> {
        if chain.last().is_some_and(|id| self.has(id)) {
            return Ok(());
        }
        let mut file = content.open_blob(blob)?;
        self.unpack(&format!("layer {blob}"), &mut file, diff_id, chain)
            .map(drop)
    }

    fn unpack(
        &self,
        what: &str,
        packed: &mut dyn Read,
        diff_id: &Digest,
        chain: &[Digest],
    ) -> Result<Packing, ImageError> {
        let Some(chain_id) = chain.last() else {
            return Err(ImageError::Malformed("a layer without a place".to_owned()));
        };
        let (target, packing) = self.unpack_beside(what, packed, diff_id, chain)?;
        let place = self.root.join(chain_id.hex());
        let target = target.keep();
        match fs::rename(&target, &place) {
            Ok(()) => Ok(packing),
            // Somebody else was faster with the same layer.
            Err(_) if self.has(chain_id) => {
                fs::remove_dir_all(&target).map_err(|error| io_error("remove", &target, error))?;
                Ok(packing)
            }
            Err(error) => Err(io_error("create", &place, error)),
        }
    }

    /// Unpacks and checks a layer in a directory that is not its place yet.
    fn unpack_beside(
        &self,
        what: &str,
        packed: &mut dyn Read,
        diff_id: &Digest,
        chain: &[Digest],
    ) -> Result<(tempfile::TempDir, Packing), ImageError> {
        let below = chain.split_last().map_or(&[][..], |(_, below)| below);
        let failed = |error: io::Error| ImageError::Malformed(format!("{what}: {error}"));
        let mut packed = BufReader::with_capacity(READ_AHEAD, packed);
        let packing = Packing::of(io::BufRead::fill_buf(&mut packed).map_err(failed)?);
        let mut plain = Tee::new(packing.unpack(packed).map_err(failed)?, None);
        let target = tempfile::Builder::new()
            .prefix(".unpack-")
            .tempdir_in(&self.root)
            .map_err(|error| io_error("create a directory in", &self.root, error))?;
        let files = target.path().join("fs");
        fs::create_dir(&files).map_err(|error| io_error("create", &files, error))?;
        let below: Vec<PathBuf> = below.iter().rev().map(|id| self.fs(id)).collect();
        let usage = tree::apply(&mut plain, &files, &below)?;
        let (actual, _) = plain.finish().map_err(failed)?;
        check_digest(&format!("{what}, unpacked,"), diff_id, &actual)?;
        let note = Note {
            diff_id: diff_id.clone(),
            usage,
        };
        let note_path = target.path().join("layer.json");
        let text = serde_json::to_vec(&note).map_err(|error| failed(error.into()))?;
        fs::write(&note_path, text).map_err(|error| io_error("write", &note_path, error))?;
        Ok((target, packing))
    }

    /// What the layers take on disk, by what was noted when they were unpacked.
    pub(crate) fn usage(&self) -> Usage {
        let mut total = Usage::default();
        let Ok(entries) = fs::read_dir(&self.root) else {
            return total;
        };
        for entry in entries.filter_map(Result::ok) {
            let note = fs::read(entry.path().join("layer.json")).ok();
            if let Some(note) = note.and_then(|text| serde_json::from_slice::<Note>(&text).ok()) {
                total.bytes += note.usage.bytes;
                total.inodes += note.usage.inodes;
            }
        }
        total
    }

    /// Removes every layer not in `keep`.
    pub(crate) fn retain(&self, keep: &HashSet<Digest>) -> Result<(), ImageError> {
        let entries = fs::read_dir(&self.root).map_err(|error| io_error("list", &self.root, error))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|hex| Digest::parse(&format!("sha256:{hex}")));
            let Some(id) = id.filter(|id| !keep.contains(id)) else {
                continue;
            };
            // Out of sight in one step, then away: a crash in between leaves a dotted name.
            let doomed = self.root.join(format!(".gone-{}", id.hex()));
            fs::rename(entry.path(), &doomed).map_err(|error| io_error("remove", &entry.path(), error))?;
            fs::remove_dir_all(&doomed).map_err(|error| io_error("remove", &doomed, error))?;
        }
        Ok(())
    }
}
