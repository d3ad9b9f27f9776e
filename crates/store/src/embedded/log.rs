//! The write-ahead log: what is acknowledged is in here until the tables hold it too.
//!
//! Two files are filled in turn. A frame is one commit:
//!
//! ```text
//! length u32 · CRC-32 of length and what follows u32 · sequence u64 · payload · zeros up to a multiple of 8
//! ```
//!
//! Files are overwritten, not shortened, so behind the newest frame lie old ones; they are told by their
//! sequence. The checksum starts from a secret of the store, so that no value a client writes can pass
//! for a frame.
//!
//! **Invariant:** a frame is acknowledged only after a sync, and the next is written only after that. So only
//! the newest frame can be torn, and a damaged frame with a whole one behind it is corruption.
//! **Invariant:** a file is filled anew only when the tables hold everything in it.
//! **Invariant:** after a failed write or sync, nothing is written before that frame has been made
//! invalid; a frame whose commit was refused is never replayed by a store that went on.

use super::disk::{Disk, DiskFile, LOGS};
use super::storage::unavailable;
use crate::{Error, Result};
use std::io::{self, ErrorKind};
use std::sync::Arc;

const HEADER: usize = 16;
const ALIGN: usize = 8;

pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    segments: [Segment; 2],
    active: usize,
    /// Of the next frame.
    sequence: u64,
    secret: u32,
    /// A file this full is left for the other.
    limit: u64,
    /// The frame at the end of the active file failed and may be there or not.
    in_doubt: bool,
    frame: Vec<u8>,
}

struct Segment {
    file: Box<dyn DiskFile>,
    size: u64,
    /// Where the next frame goes.
    end: u64,
    /// Sequence of the newest frame, 0 if none.
    last: u64,
}

/// Why a frame was not written. Nothing of it is in effect.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Both files hold what the tables do not have yet.
    Full,
    Failed(Error),
}

impl Log {
    /// Makes the two files the first time.
    pub(crate) fn create(disk: &dyn Disk, limit: u64) -> Result<()> {
        for name in LOGS {
            match disk.open(name) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    disk.create(name, &vec![0; limit as usize])
                        .map_err(|error| failed(disk, name, error))?;
                }
                Err(error) => return Err(failed(disk, name, error)),
            }
        }
        Ok(())
    }

    /// Reads what the tables do not have, frame by frame after `saved`. The log is then to be saved as a whole
    /// before anything is appended.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        secret: u32,
        limit: u64,
        saved: u64,
        mut replay: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<Self> {
        let open = |name| -> Result<(Segment, Vec<u8>)> {
            let fail = |error| failed(&*disk, name, error);
            let file = disk.open(name).map_err(fail)?;
            let size = file.size().map_err(fail)?;
            let mut contents = vec![0; size as usize];
            file.read(0, &mut contents).map_err(fail)?;
            Ok((
                Segment {
                    file,
                    size,
                    end: 0,
                    last: 0,
                },
                contents,
            ))
        };
        let (first, first_contents) = open(LOGS[0])?;
        let (second, second_contents) = open(LOGS[1])?;
        let mut newest = saved;
        let mut runs: Vec<_> = [(&first_contents, LOGS[0]), (&second_contents, LOGS[1])]
            .map(|(contents, name)| {
                (
                    Frames {
                        contents,
                        at: 0,
                        secret,
                    },
                    name,
                )
            })
            .into();
        runs.sort_by_key(|(frames, _)| frames.clone().next().map_or(u64::MAX, |(sequence, _)| sequence));
        for (frames, name) in &mut runs {
            let corrupt = |detail: String| Error::Corrupt {
                path: disk.path(name),
                detail,
            };
            let mut expected = None;
            while let Some((sequence, payload)) = frames.clone().next() {
                if expected.is_some_and(|expected| expected != sequence) {
                    // An old frame behind the newest one.
                    break;
                }
                expected = Some(sequence + 1);
                frames.next();
                if sequence <= saved {
                    continue;
                }
                if sequence != newest + 1 {
                    return Err(corrupt(format!(
                        "frame {} is missing before {sequence}",
                        newest + 1
                    )));
                }
                replay(payload).ok_or_else(|| corrupt(format!("frame {sequence} makes no sense")))?;
                newest = sequence;
            }
        }
        for (frames, name) in runs {
            if let Some(sequence) = frames.later_than(newest) {
                let detail = format!("frame {} is damaged, but {sequence} is whole", newest + 1);
                return Err(Error::Corrupt {
                    path: disk.path(name),
                    detail,
                });
            }
        }
        let sequence = newest + 1;
        let (segments, frame) = ([first, second], Vec::new());
        Ok(Self {
            disk,
            segments,
            active: 0,
            sequence,
            secret,
            limit,
            in_doubt: false,
            frame,
        })
    }

    /// Writes and syncs one frame. `saved` is the newest one the tables hold.
    pub(crate) fn append(&mut self, saved: u64, encode: impl FnOnce(&mut Vec<u8>)) -> Result<u64, Refused> {
        if self.in_doubt {
            self.retract()?;
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.resize(HEADER, 0);
        encode(&mut frame);
        seal(&mut frame, self.sequence, self.secret);
        frame.resize(frame.len().next_multiple_of(ALIGN), 0);
        let written = self.write(saved, &frame);
        if frame.capacity() <= 1 << 20 {
            self.frame = frame;
        }
        written
    }

    /// Whether frames of the file not in use now wait for the tables.
    pub(crate) fn waits_for_tables(&self, saved: u64) -> bool {
        self.segments[1 - self.active].last > saved
    }

    fn write(&mut self, saved: u64, frame: &[u8]) -> Result<u64, Refused> {
        let len = frame.len() as u64;
        let active = &self.segments[self.active];
        if active.end > 0 && active.end + len > self.limit {
            let other = &mut self.segments[1 - self.active];
            if other.last > saved {
                return Err(Refused::Full);
            }
            (other.end, other.last) = (0, 0);
            self.active = 1 - self.active;
        }
        let name = LOGS[self.active];
        let segment = &mut self.segments[self.active];
        if segment.end + len > segment.size {
            segment
                .file
                .resize(segment.end + len)
                .map_err(|error| Refused::Failed(failed(&*self.disk, name, error)))?;
            segment.size = segment.end + len;
        }
        if let Err(error) = segment
            .file
            .write(segment.end, frame)
            .and_then(|()| segment.file.sync())
        {
            self.in_doubt = true;
            let refused = Refused::Failed(failed(&*self.disk, name, error));
            // If this fails too, the next append tries again before anything else.
            return Err(self.retract().err().unwrap_or(refused));
        }
        segment.end += len;
        segment.last = self.sequence;
        self.sequence += 1;
        Ok(segment.last)
    }

    /// Makes sure that the frame that failed is not there.
    fn retract(&mut self) -> Result<(), Refused> {
        let segment = &self.segments[self.active];
        let done = segment
            .file
            .write(segment.end, &[0; HEADER])
            .and_then(|()| segment.file.sync());
        done.map_err(|error| Refused::Failed(failed(&*self.disk, LOGS[self.active], error)))?;
        self.in_doubt = false;
        Ok(())
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("sequence", &self.sequence)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

/// Whole frames one after the other.
#[derive(Clone)]
struct Frames<'a> {
    contents: &'a [u8],
    at: usize,
    secret: u32,
}

impl<'a> Iterator for Frames<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.contents.get(self.at..)?;
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let frame = rest.get(..length).filter(|frame| frame.len() >= HEADER)?;
        let sum = u32::from_le_bytes(*frame[4..].first_chunk()?);
        let sequence = u64::from_le_bytes(*frame[8..].first_chunk()?);
        if checksum(self.secret, frame) != sum {
            return None;
        }
        self.at += length.next_multiple_of(ALIGN);
        Some((sequence, &frame[HEADER..]))
    }
}

impl Frames<'_> {
    /// Looks behind the last whole frame for one newer than `newest`.
    fn later_than(&self, newest: u64) -> Option<u64> {
        // Nothing this far ahead was ever written; it spares most checksums.
        let plausible = newest + 1..newest + (1 << 24);
        (self.at..self.contents.len().saturating_sub(HEADER))
            .step_by(ALIGN)
            .find_map(|at| {
                let sequence = u64::from_le_bytes(*self.contents[at + 8..].first_chunk()?);
                plausible
                    .contains(&sequence)
                    .then(|| Frames { at, ..self.clone() }.next())
                    .flatten()
                    .map(|(found, _)| found)
            })
    }
}

fn seal(frame: &mut [u8], sequence: u64, secret: u32) {
    let length = frame.len() as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[8..HEADER].copy_from_slice(&sequence.to_le_bytes());
    let sum = checksum(secret, frame);
    frame[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(secret: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(secret);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

fn failed(disk: &dyn Disk, name: &str, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace {
            path: disk.path(name),
        },
        _ => unavailable("input/output error in the log", Some(Arc::new(error))),
    }
}
