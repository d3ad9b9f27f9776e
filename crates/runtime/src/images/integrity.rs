//! Whether what is stored is still what it was: a quick look at each start, a thorough one when asked for.
//!
//! A layer is unpacked from its blob, so one that is damaged is made anew from it; an image whose blob or
//! configuration is damaged too is forgotten, because only its registry or archive has it whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::content::{Content, Tee};
use super::layers::Layers;
use super::record::{ConfigFile, ImageRecord};
use super::store::{Images, Inner, run_blocking};
use super::{Digest, ImageError, Progress};

/// Something that was wrong, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A layer's files were not what its blob says; they were unpacked anew.
    LayerRepaired { image: String, layer: Digest },
    /// As above, but containers stand on the layer; it is repaired when asked again without them.
    LayerInUse { image: String, layer: Digest },
    /// The image cannot be made whole from what is here, and is forgotten.
    ImageForgotten { image: String, reason: String },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finding::LayerRepaired { image, layer } => {
                write!(f, "{image}: layer {layer} was damaged and has been unpacked anew")
            }
            Finding::LayerInUse { image, layer } => {
                write!(f, "{image}: layer {layer} is damaged, and in use by containers")
            }
            Finding::ImageForgotten { image, reason } => {
                write!(
                    f,
                    "{image}: damaged and forgotten, pull or import it again: {reason}"
                )
            }
        }
    }
}

impl Images {
    /// Reads everything that is stored and repairs what it can; gives what was wrong.
    pub async fn check(&self, progress: Progress) -> Result<Vec<Finding>, ImageError> {
        let inner = self.inner.clone();
        run_blocking(move || {
            let _lease = inner.lease.blocking_read();
            inner.check(&progress)
        })
        .await
    }
}

impl Inner {
    fn check(&self, progress: &Progress) -> Result<Vec<Finding>, ImageError> {
        let mut findings = Vec::new();
        let records = self.records.lock().clone();
        for record in records {
            let image = record
                .tags
                .first()
                .cloned()
                .unwrap_or_else(|| record.id.to_string());
            progress(format!("checking {image}"));
            if let Err(error) = self.check_image(&record, &image, &mut findings) {
                let mut records = self.records.lock();
                records.retain(|other| other.id != record.id);
                self.save(&records)?;
                self.collection_due
                    .store(true, std::sync::atomic::Ordering::SeqCst);
                let reason = super::describe(&error);
                findings.push(Finding::ImageForgotten { image, reason });
            }
        }
        for finding in &findings {
            tracing::warn!(%finding, "the image store was damaged");
        }
        Ok(findings)
    }

    fn check_image(
        &self,
        record: &ImageRecord,
        image: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<(), ImageError> {
        let config = ConfigFile::parse(&self.content.read(&record.id)?)?;
        self.content.read(&record.manifest)?;
        for (at, layer) in record.chain.iter().enumerate() {
            let (Some(blob), Some(diff_id)) = (record.blobs.get(at), config.rootfs.diff_ids.get(at)) else {
                return Err(ImageError::Malformed(format!("no blob of layer {layer}")));
            };
            let chain = &record.chain[..=at];
            verify_blob(&self.content, blob)?;
            if self.layers.is_whole(layer, diff_id)
                && self.layers.matches(&self.content, blob, diff_id, chain)?
            {
                continue;
            }
            let (image, layer) = (image.to_owned(), layer.clone());
            if (self.in_use)().contains(&layer) {
                findings.push(Finding::LayerInUse { image, layer });
                continue;
            }
            self.layers.discard(&layer)?;
            self.layers.unpack_blob(&self.content, blob, diff_id, chain)?;
            findings.push(Finding::LayerRepaired { image, layer });
        }
        Ok(())
    }
}

/// The look at each start: configuration as named, every layer in its place; a missing one is unpacked again.
pub(super) fn restore(record: &ImageRecord, content: &Content, layers: &Layers) -> Result<(), ImageError> {
    let config = ConfigFile::parse(&content.read(&record.id)?)?;
    for (at, layer) in record.chain.iter().enumerate() {
        let Some(diff_id) = config.rootfs.diff_ids.get(at) else {
            return Err(ImageError::Malformed(format!(
                "the configuration does not name layer {layer}"
            )));
        };
        if layers.is_whole(layer, diff_id) {
            continue;
        }
        let blob = record
            .blobs
            .get(at)
            .ok_or_else(|| ImageError::Malformed(format!("no blob of layer {layer}")))?;
        layers.discard(layer)?;
        layers.unpack_blob(content, blob, diff_id, &record.chain[..=at])?;
        tracing::warn!(image = %record.id, %layer, "a layer was incomplete on disk and has been unpacked anew");
    }
    Ok(())
}

fn verify_blob(content: &Content, blob: &Digest) -> Result<(), ImageError> {
    let path = content.path(blob);
    let file = Tee::new(content.open_blob(blob)?, None);
    let (actual, _) = file
        .finish()
        .map_err(|error| super::io_error("read", &path, error))?;
    super::content::check_digest(&format!("blob {}", path.display()), blob, &actual)
}

/// Whether two trees hold the same: names, kinds, owners, modes, contents. Times of directories may differ.
pub(super) fn same_tree(one: &Path, other: &Path) -> io::Result<bool> {
    let mut pending = vec![(one.to_owned(), other.to_owned())];
    while let Some((one, other)) = pending.pop() {
        let (a, b) = match (fs::symlink_metadata(&one), fs::symlink_metadata(&other)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) => return Err(error),
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            (_, Err(error)) => return Err(error),
        };
        let kind = a.file_type();
        let special = kind.is_char_device() || kind.is_block_device();
        if (a.mode(), a.uid(), a.gid()) != (b.mode(), b.uid(), b.gid()) || special && a.rdev() != b.rdev() {
            return Ok(false);
        }
        let same = if kind.is_dir() {
            let names = names(&one)?;
            let same = names == self::names(&other)?;
            pending.extend(names.into_iter().map(|name| (one.join(&name), other.join(&name))));
            same
        } else if kind.is_symlink() {
            fs::read_link(&one)? == fs::read_link(&other)?
        } else if kind.is_file() {
            a.len() == b.len() && same_content(&one, &other)?
        } else {
            true
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let got = one.read(&mut a)?;
        if got == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        match other.read_exact(&mut b[..got]) {
            Ok(()) if a[..got] == b[..got] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
