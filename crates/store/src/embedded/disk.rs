//! The file under the embedded engine, behind a trait so that tests can tear, fill and lose it.
//!
//! The file grows by `fallocate`, so a full disk shows when the file grows and not in the middle of a
//! commit. The data directory is locked with `flock` on a file of its own, because redb's file is
//! opened anew after an input/output error while the lock must hold without a gap.

use crate::{Error, Result};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where an embedded store lives. It is opened once at start-up, and again after an input/output error.
pub trait Disk: Debug + Send + Sync + 'static {
    /// The file. An error of kind `NotFound` if there has never been one.
    fn open(&self) -> io::Result<Box<dyn DiskFile>>;

    /// Makes the file with these contents, durable, all or nothing.
    fn create(&self, contents: &[u8]) -> io::Result<()>;

    /// After a write failed for lack of space: can the file grow now as it was to grow then?
    fn has_space(&self) -> io::Result<()>;

    /// What to call it in errors.
    fn path(&self) -> &Path;

    /// Its size in bytes.
    fn size(&self) -> u64;

    /// The store is closed; somebody else may have the place.
    fn close(&self) {}
}

/// An open file of a [`Disk`].
pub trait DiskFile: Debug + Send + Sync + 'static {
    fn size(&self) -> io::Result<u64>;

    /// Fills `out`; a read beyond the end is an error.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Cuts the file, or lengthens it with zeros.
    fn resize(&self, size: u64) -> io::Result<()>;

    /// Durable only after [`DiskFile::sync`].
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    fn sync(&self) -> io::Result<()>;
}

/// A data directory of the file system, locked against other processes while this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The length the file last failed to grow to, 0 if it did not fail.
    refused: Arc<AtomicU64>,
    /// Open while locked.
    lock: Mutex<Option<File>>,
}

const FILE: &str = "store.redb";
const LOCK: &str = "lock";

impl DataDir {
    /// Makes the directory if need be and locks it.
    pub fn lock(dir: &Path) -> Result<Self> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io {
                operation,
                path,
                source: Arc::new(source),
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("make the data directory", dir))?;
        let lock_path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("write to the data directory, lock file", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
        }
        Ok(Self {
            path: dir.join(FILE),
            refused: Arc::default(),
            lock: Mutex::new(Some(lock)),
        })
    }
}

impl Disk for DataDir {
    fn open(&self) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        Ok(Box::new(DataFile {
            file,
            refused: self.refused.clone(),
        }))
    }

    fn create(&self, contents: &[u8]) -> io::Result<()> {
        let unfinished = self.path.with_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        allocate(&file, FallocateFlags::empty(), 0, contents.len() as u64)?;
        file.write_all_at(contents, 0)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &self.path)?;
        match self.path.parent() {
            // The new name is durable only with its directory.
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }

    fn has_space(&self) -> io::Result<()> {
        let wanted = self.refused.load(Ordering::Acquire);
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let len = file.metadata()?.len();
        if wanted > len {
            // Stays reserved beyond the end of the file, so that the growth to come cannot fail.
            allocate(&file, FallocateFlags::KEEP_SIZE, len, wanted)?;
        }
        self.refused.store(0, Ordering::Release);
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        // Only a metric; a file that cannot be looked at shows by its other errors.
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }

    fn close(&self) {
        self.lock.lock().take();
    }
}

/// Reserves the bytes from `from` to `to`. File systems that cannot reserve do nothing.
fn allocate(file: &File, flags: FallocateFlags, from: u64, to: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, flags, from, to - from) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

#[derive(Debug)]
struct DataFile {
    file: File,
    refused: Arc<AtomicU64>,
}

impl DiskFile for DataFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        let old = self.size()?;
        if size > old
            && let Err(error) = allocate(&self.file, FallocateFlags::empty(), old, size)
        {
            if error.kind() == ErrorKind::StorageFull {
                self.refused.store(size, Ordering::Release);
                // A refused reservation may have grown the file part of the way.
                self.file.set_len(old)?;
            }
            return Err(error);
        }
        self.file.set_len(size)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
