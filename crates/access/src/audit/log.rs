//! The log: one event a line, rotated by size, old files kept by number and age.
//!
//! Rotated files are named as upstream's are: `audit-2026-01-02T15-04-05.000.log`, with `.gz` if compressed.

use super::{Backend, Event};
use flate2::write::GzEncoder;
use machinery::clock::Clock;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// When a request waits for its event to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Never: a thread writes.
    Batch,
    Blocking,
    /// And if it cannot be written, the request fails.
    BlockingStrict,
}

#[derive(Debug, Clone)]
pub struct LogOptions {
    /// `-` is the standard output.
    pub path: PathBuf,
    pub mode: Mode,
    /// Days old files are kept; 0 for ever.
    pub max_age: u32,
    /// Old files kept; 0 for all.
    pub max_backups: usize,
    /// Megabytes a file grows to.
    pub max_size: u64,
    pub compress: bool,
    /// Events waiting in batch mode.
    pub buffer: usize,
}

/// The log backend.
pub struct Log {
    mode: Mode,
    way: Way,
}

enum Way {
    Direct(Mutex<Rotating>),
    Queued(SyncSender<Vec<u8>>),
}

impl Log {
    pub fn open(options: LogOptions, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let (mode, buffer) = (options.mode, options.buffer);
        let mut out = Rotating::open(options, clock)?;
        let way = match mode {
            Mode::Batch => {
                let (sender, receiver) = sync_channel::<Vec<u8>>(buffer);
                std::thread::Builder::new()
                    .name("audit-log".to_owned())
                    .spawn(move || {
                        for line in receiver {
                            if let Err(error) = out.write(&line) {
                                tracing::error!(%error, "writing the audit log");
                            }
                        }
                    })?;
                Way::Queued(sender)
            }
            Mode::Blocking | Mode::BlockingStrict => Way::Direct(Mutex::new(out)),
        };
        Ok(Self { mode, way })
    }
}

impl Backend for Log {
    fn take(&self, event: &Event) -> bool {
        let mut line = match serde_json::to_vec(event) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "an audit event has no JSON form");
                return false;
            }
        };
        line.push(b'\n');
        match &self.way {
            Way::Direct(out) => match out.lock().write(&line) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(%error, "writing the audit log");
                    false
                }
            },
            Way::Queued(queue) => match queue.try_send(line) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    tracing::error!("audit buffer queue blocked; an event is lost");
                    false
                }
                Err(TrySendError::Disconnected(_)) => false,
            },
        }
    }

    fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }
}

struct Rotating {
    options: LogOptions,
    clock: Arc<dyn Clock>,
    /// `None`: the standard output.
    file: Option<File>,
    size: u64,
}

impl Rotating {
    fn open(options: LogOptions, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let mut this = Self {
            options,
            clock,
            file: None,
            size: 0,
        };
        if this.options.path != Path::new("-") {
            if let Some(parent) = this.options.path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            this.reopen()?;
        }
        Ok(this)
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.options.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        let limit = self.options.max_size.max(1) << 20;
        if self.file.is_some() && self.size > 0 && self.size + line.len() as u64 > limit {
            self.rotate()?;
        }
        self.size += line.len() as u64;
        match &mut self.file {
            Some(file) => file.write_all(line),
            None => std::io::stdout().lock().write_all(line),
        }
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let path = &self.options.path;
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let (stem, extension) = (part(path.file_stem()), part(path.extension()));
        let dot = if extension.is_empty() { "" } else { "." };
        let time = self.clock.now().strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string();
        let old = path.with_file_name(format!("{stem}-{time}{dot}{extension}"));
        std::fs::rename(path, &old)?;
        self.reopen()?;
        if self.options.compress {
            compress(&old)?;
        }
        self.forget_old(&format!("{stem}-"))
    }

    /// Removes the rotated files that are too many or too old.
    fn forget_old(&self, prefix: &str) -> std::io::Result<()> {
        let directory = match self.options.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut old = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(prefix).and_then(|rest| rest.get(..23));
            // Only what this made: the rest of the name is a time.
            let time =
                time.and_then(|time| jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S.%f", time).ok());
            if let Some(time) = time.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok()) {
                old.push((time.timestamp(), name));
            }
        }
        old.sort();
        old.reverse();
        let oldest = match self.options.max_age {
            0 => None,
            days => Some(self.clock.now().as_second() - i64::from(days) * 86_400),
        };
        for (at, (time, name)) in old.iter().enumerate() {
            let surplus = self.options.max_backups > 0 && at >= self.options.max_backups;
            if surplus || oldest.is_some_and(|oldest| time.as_second() < oldest) {
                std::fs::remove_file(directory.join(name))?;
            }
        }
        Ok(())
    }
}

fn compress(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut encoder = GzEncoder::new(File::create(&name)?, flate2::Compression::default());
    std::io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(path)
}
