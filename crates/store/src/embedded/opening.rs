//! Opening the tables: the file `redb` is given, the first contents, and what `redb`'s errors mean.

use super::disk::{Disk, DiskFile, TABLES};
use super::storage::{EVENTS, FORMAT, FORMAT_KEY, Fault, LEASES, SECRET_KEY, STATE, VALUES, unavailable};
use crate::{Error, Result};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) fn open_database(disk: &Arc<dyn Disk>, cache_bytes: usize) -> Result<Database> {
    let path = || disk.path(TABLES);
    let failed = |operation| {
        move |source: io::Error| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace { path: path() },
            _ => Error::Io {
                operation,
                path: path(),
                source: Arc::new(source),
            },
        }
    };
    let file = match disk.open(TABLES) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            disk.create(TABLES, &blank(&path)?).map_err(failed("create"))?;
            disk.open(TABLES).map_err(failed("open"))?
        }
        other => other.map_err(failed("open"))?,
    };
    let opened = guarded(&path, || {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(Backend(file))?;
        let format = database
            .begin_read()?
            .open_table(STATE)?
            .get(FORMAT_KEY)?
            .map(|format| format.value());
        Ok((database, format))
    });
    match opened {
        Ok((database, Some(FORMAT))) => Ok(database),
        Ok((_, format)) => {
            let detail = format!(
                "it has format {}, this version reads {FORMAT}",
                format.unwrap_or_default()
            );
            Err(Error::Corrupt { path: path(), detail })
        }
        Err(Fault::Failed(error)) => Err(error),
        Err(Fault::Shut) => Err(unavailable("an error while opening", None)),
    }
}

/// The contents of a store without keys. Made in memory, so that a crash while a store is first made leaves
/// either nothing or all of it.
fn blank(path: &dyn Fn() -> PathBuf) -> Result<Vec<u8>> {
    let contents = Arc::new(Mutex::new(Vec::new()));
    let made = guarded(path, || {
        let database = Database::builder().create_with_backend(Backend(Box::new(Blank(contents.clone()))))?;
        let transaction = database.begin_write()?;
        transaction.open_table(EVENTS)?;
        transaction.open_table(VALUES)?;
        transaction.open_table(LEASES)?;
        {
            let mut state = transaction.open_table(STATE)?;
            state.insert(FORMAT_KEY, FORMAT)?;
            // Only has to be unknown to clients; nothing the store does depends on it.
            state.insert(SECRET_KEY, RandomState::new().hash_one(FORMAT) >> 32)?;
        }
        transaction.commit()?;
        Ok(())
    });
    match made {
        Ok(()) => Ok(std::mem::take(&mut contents.lock())),
        Err(Fault::Failed(error)) => Err(error),
        Err(Fault::Shut) => Err(unavailable("cannot make an empty store", None)),
    }
}

/// Runs an access to `redb`, turning its errors and panics into ours.
pub(crate) fn guarded<T>(
    path: &dyn Fn() -> PathBuf,
    access: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, Fault> {
    // Whatever state a panic leaves behind is dropped with the database: the next access opens it anew.
    match catch_unwind(AssertUnwindSafe(access)) {
        Ok(result) => result.map_err(|error| fault(path, error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic");
            Err(Fault::Failed(Error::Corrupt {
                path: path(),
                detail: format!("the database stopped at: {text}"),
            }))
        }
    }
}

fn fault(path: &dyn Fn() -> PathBuf, error: redb::Error) -> Fault {
    let path = path();
    Fault::Failed(match error {
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            return Fault::Shut;
        }
        redb::Error::Io(source) => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace { path },
            // A file that is too short, or not a database at all.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Error::Corrupt {
                path,
                detail: source.to_string(),
            },
            _ => unavailable("input/output error", Some(Arc::new(source))),
        },
        redb::Error::Corrupted(detail) => Error::Corrupt { path, detail },
        error @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::RepairAborted) => Error::Corrupt {
            path,
            detail: error.to_string(),
        },
        error => unavailable("database error", Some(Arc::new(error))),
    })
}

/// What `redb` is given as its file.
#[derive(Debug)]
struct Backend(Box<dyn DiskFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.resize(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// A file in memory.
#[derive(Debug)]
struct Blank(Arc<Mutex<Vec<u8>>>);

impl DiskFile for Blank {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        out.copy_from_slice(
            self.0
                .lock()
                .get(start..start + out.len())
                .ok_or(ErrorKind::UnexpectedEof)?,
        );
        Ok(())
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.0.lock().resize(size as usize, 0);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        let mut contents = self.0.lock();
        contents
            .get_mut(start..start + data.len())
            .ok_or(ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
