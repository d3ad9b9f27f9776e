//! The image store: records, and how images come and go.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::archive::{self, Candidate};
use super::content::Content;
use super::hosts::Registries;
use super::layers::{Incoming, Layers};
use super::record::{ConfigFile, Descriptor, ImageConfig, ImageRecord, Manifest};
use super::source::{Packing, Source};
use super::{Digest, ImageError, Progress, Reference, integrity, io_error};

/// A cheap handle on the image store of one runtime.
#[derive(Clone)]
pub struct Images {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    root: PathBuf,
    pub(super) content: Content,
    pub(super) layers: Layers,
    pub(super) registries: Registries,
    pub(super) records: Mutex<Vec<ImageRecord>>,
    /// Held shared while something is taken in whose record is not yet written; collecting waits for none.
    pub(super) lease: RwLock<()>,
    pub(super) collection_due: AtomicBool,
    /// The layers that containers stand on, whatever becomes of their image.
    pub(super) in_use: Box<dyn Fn() -> Vec<Digest> + Send + Sync>,
}

/// What images take on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsInfo {
    pub path: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images")
            .field("root", &self.inner.root)
            .finish_non_exhaustive()
    }
}

impl Images {
    /// Opens the store under `root`. `in_use` tells which layers containers stand on.
    pub fn open(
        root: &Path,
        registries: Registries,
        in_use: impl Fn() -> Vec<Digest> + Send + Sync + 'static,
    ) -> Result<Images, ImageError> {
        let content = Content::open(root)?;
        let layers = Layers::open(root)?;
        let mut records = load(root)?;
        // What was lost behind our back is no image any more.
        records.retain(|record| match integrity::restore(record, &content, &layers) {
            Ok(()) => true,
            Err(error) => {
                let error = super::describe(&error);
                tracing::warn!(image = %record.id, tags = ?record.tags, error, "image is damaged on disk and is forgotten");
                false
            }
        });
        let inner = Inner {
            root: root.to_owned(),
            content,
            layers,
            registries,
            records: Mutex::new(records),
            lease: RwLock::new(()),
            collection_due: AtomicBool::new(true),
            in_use: Box::new(in_use),
        };
        Ok(Images {
            inner: Arc::new(inner),
        })
    }

    pub fn list(&self) -> Vec<ImageRecord> {
        self.inner.records.lock().clone()
    }

    /// The image a name, a digest or an id (whole, with or without `sha256:`) leads to.
    pub fn find(&self, name: &str) -> Option<ImageRecord> {
        let records = self.inner.records.lock();
        let by_id = |record: &&ImageRecord| record.id.hex() == name.strip_prefix("sha256:").unwrap_or(name);
        if let Some(found) = records.iter().find(by_id) {
            return Some(found.clone());
        }
        let reference = Reference::parse(name).ok()?;
        let wanted = match &reference.digest {
            Some(digest) => format!("{}@{digest}", reference.repository()),
            None => reference.to_string(),
        };
        let found = |record: &&ImageRecord| record.tags.contains(&wanted) || record.digests.contains(&wanted);
        records.iter().find(found).cloned()
    }

    /// The container defaults an image brings.
    pub fn config(&self, record: &ImageRecord) -> Result<ImageConfig, ImageError> {
        let file = ConfigFile::parse(&self.inner.content.read(&record.id)?)?;
        Ok(file.config.unwrap_or_default())
    }

    /// The unpacked layers, topmost first, as an overlay takes them.
    pub fn lower_dirs(&self, chain: &[Digest]) -> Vec<PathBuf> {
        chain.iter().rev().map(|id| self.inner.layers.fs(id)).collect()
    }

    /// Forgets an image, all its names with it. Nothing there is nothing wrong.
    pub async fn remove(&self, name: &str) -> Result<(), ImageError> {
        let Some(record) = self.find(name) else {
            return Ok(());
        };
        {
            let mut records = self.inner.records.lock();
            records.retain(|other| other.id != record.id);
            self.inner.save(&records)?;
        }
        self.collect().await
    }

    /// Removes what no record and no container needs, now or as soon as nobody is taking something in.
    pub async fn collect(&self) -> Result<(), ImageError> {
        self.inner.collection_due.store(true, Ordering::SeqCst);
        let inner = self.inner.clone();
        run_blocking(move || inner.collect_if_idle()).await
    }

    pub fn fs_info(&self) -> FsInfo {
        let usage = self.inner.layers.usage();
        let blobs: u64 = self.list().iter().map(|record| record.size).sum();
        FsInfo {
            path: self.inner.root.clone(),
            bytes: usage.bytes + blobs,
            inodes: usage.inodes,
        }
    }

    /// Takes in the images of an archive: a file or a directory. `name` is for an archive without names.
    pub async fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: Progress,
    ) -> Result<Vec<ImageRecord>, ImageError> {
        let (inner, path) = (self.inner.clone(), path.to_owned());
        let name = name
            .map(|name| Reference::parse(name).map(|name| name.to_string()))
            .transpose()?;
        run_blocking(move || inner.import(&path, name, &progress)).await
    }

    /// A file to collect an uploaded archive in; it vanishes when dropped.
    pub fn upload(&self) -> Result<tempfile::NamedTempFile, ImageError> {
        self.inner.content.temporary()
    }
}

impl Inner {
    fn import(
        &self,
        path: &Path,
        name: Option<String>,
        progress: &Progress,
    ) -> Result<Vec<ImageRecord>, ImageError> {
        let result = {
            let _lease = self.lease.blocking_read();
            self.import_leased(path, name, progress)
        };
        if result.is_err() {
            self.collection_due.store(true, Ordering::SeqCst);
        }
        self.collect_if_idle()?;
        result
    }

    fn import_leased(
        &self,
        path: &Path,
        name: Option<String>,
        progress: &Progress,
    ) -> Result<Vec<ImageRecord>, ImageError> {
        let source = Source::open(path, &self.content)?;
        let mut candidates = archive::read(&source)?;
        if let (Some(name), [only]) = (name, candidates.as_mut_slice()) {
            only.tags = vec![name];
        }
        // All of them or none: records come last.
        let taken: Vec<ImageRecord> = candidates
            .into_iter()
            .map(|candidate| self.take_in(&source, candidate, progress))
            .collect::<Result<_, _>>()?;
        for record in &taken {
            self.record(record.clone())?;
        }
        Ok(taken)
    }

    fn take_in(
        &self,
        source: &Source,
        candidate: Candidate,
        progress: &Progress,
    ) -> Result<ImageRecord, ImageError> {
        let id = self.content.put(&candidate.config_bytes)?;
        let chain = candidate.config.chain();
        let mut size = candidate.config_bytes.len() as u64;
        let mut layers: Vec<Descriptor> = Vec::new();
        let total = candidate.layers.len();
        for (at, part) in candidate.layers.iter().enumerate() {
            let diff_id = &candidate.config.rootfs.diff_ids[at];
            progress(format!("layer {}/{total}: {diff_id}", at + 1));
            let (stream, len) = source.read(&part.member)?;
            let incoming = Incoming {
                what: part.member.clone(),
                stream,
                digest: part.digest.clone(),
                size: part.size.or(Some(len)),
                diff_id: diff_id.clone(),
            };
            let arrived = self.layers.receive(incoming, &self.content, &chain[..=at])?;
            size += arrived.size;
            layers.push(Descriptor {
                media_type: media_type(arrived.packing).to_owned(),
                digest: arrived.digest,
                size: arrived.size,
                platform: None,
                annotations: None,
            });
        }
        let blobs = layers.iter().map(|layer| layer.digest.clone()).collect();
        let manifest = match candidate.manifest {
            Some(bytes) => self.content.put(&bytes)?,
            None => self
                .content
                .put(&made_manifest(&id, candidate.config_bytes.len() as u64, layers)?)?,
        };
        let user = candidate
            .config
            .config
            .map(|config| config.user)
            .unwrap_or_default();
        Ok(ImageRecord {
            id,
            manifest,
            blobs,
            chain,
            tags: candidate.tags,
            digests: Vec::new(),
            size,
            user,
        })
    }

    /// Writes a record down; its names leave whoever had them before.
    pub(super) fn record(&self, new: ImageRecord) -> Result<(), ImageError> {
        let mut records = self.records.lock();
        for other in records.iter_mut() {
            other.tags.retain(|tag| !new.tags.contains(tag));
        }
        match records.iter_mut().find(|other| other.id == new.id) {
            Some(known) => {
                known.tags.extend(new.tags);
                known.digests.extend(
                    new.digests
                        .into_iter()
                        .filter(|d| !known.digests.contains(d))
                        .collect::<Vec<_>>(),
                );
                (known.manifest, known.blobs, known.size) = (new.manifest, new.blobs, new.size);
            }
            None => records.push(new),
        }
        self.save(&records)
    }

    pub(super) fn save(&self, records: &[ImageRecord]) -> Result<(), ImageError> {
        let path = self.root.join("images.json");
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
            serde_json::to_writer(&mut file, records)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| io_error("write", &path, error))
    }

    pub(super) fn collect_if_idle(&self) -> Result<(), ImageError> {
        if !self.collection_due.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Whoever holds the lease collects when it is done.
        let Ok(_alone) = self.lease.try_write() else {
            return Ok(());
        };
        self.collection_due.store(false, Ordering::SeqCst);
        let mut blobs = HashSet::new();
        let mut layers: HashSet<Digest> = (self.in_use)().into_iter().collect();
        for record in self.records.lock().iter() {
            blobs.extend([record.id.clone(), record.manifest.clone()]);
            blobs.extend(record.blobs.iter().cloned());
            layers.extend(record.chain.iter().cloned());
        }
        self.content.retain(&blobs)?;
        self.layers.retain(&layers)
    }
}

/// Runs work that reads and writes files off the runtime's own threads.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn load(root: &Path) -> Result<Vec<ImageRecord>, ImageError> {
    let path = root.join("images.json");
    match fs::read(&path) {
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(records) => Ok(records),
            // The images can be had again; a node that does not start cannot.
            Err(error) => {
                let aside = root.join("images.json.damaged");
                fs::rename(&path, &aside).map_err(|error| io_error("move aside", &path, error))?;
                tracing::error!(%error, kept = %aside.display(), "the list of images is damaged: all are forgotten");
                Ok(Vec::new())
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error("read", &path, error)),
    }
}

fn media_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

fn made_manifest(config: &Digest, size: u64, layers: Vec<Descriptor>) -> Result<Vec<u8>, ImageError> {
    let config = Descriptor {
        media_type: "application/vnd.oci.image.config.v1+json".to_owned(),
        digest: config.clone(),
        size,
        platform: None,
        annotations: None,
    };
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    let manifest = Manifest {
        schema_version: 2,
        media_type,
        config,
        layers,
    };
    serde_json::to_vec(&manifest).map_err(|error| ImageError::Malformed(error.to_string()))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
