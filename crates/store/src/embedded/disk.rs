//! The file under the embedded engine, behind a trait so that tests can tear, fill and lose it.
//!
//! The data directory is locked with `flock` on a file of its own, because the others are opened anew after an
//! input/output error while the lock must hold without a gap.

use crate::{Error, Result};
use parking_lot::Mutex;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The names of the files of a store.
pub(crate) const TABLES: &str = "store.redb";
pub(crate) const LOGS: [&str; 2] = ["log.0", "log.1"];
const LOCK: &str = "lock";

/// Where an embedded store lives: a few named files.
pub trait Disk: Debug + Send + Sync + 'static {
    /// A file. An error of kind `NotFound` if there has never been one.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a file with these contents, durable, all or nothing.
    fn create(&self, name: &str, contents: &[u8]) -> io::Result<()>;

    /// What to call a file in errors.
    fn path(&self, name: &str) -> PathBuf;

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
    /// Open while locked.
    lock: Mutex<Option<Lock>>,
}

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
            path: dir.to_owned(),
            lock: Mutex::new(Some(Lock(lock))),
        })
    }
}

/// The locked file.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child forked elsewhere in this process holds the file open until it executes
        // its program. Should unlocking fail, the lock goes with that.
        self.0.unlock().ok();
    }
}

impl Disk for DataDir {
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Box::new(DataFile(file)))
    }

    fn create(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        let unfinished = path.with_added_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all_at(contents, 0)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        // The new name is durable only with its directory.
        File::open(&self.path)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn close(&self) {
        self.lock.lock().take();
    }
}

#[derive(Debug)]
struct DataFile(File);

impl DiskFile for DataFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
