//! Container logs in the CRI format, one line a record:
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stdout P the first 16 KiB of a longer one
//! ```
//!
//! **Invariant:** every byte a container wrote stands in exactly one record, in order within its stream;
//! the newline that ends a line is the record's own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Longest piece of a line in one record, containerd's default.
pub(crate) const MAX_LINE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into records. Holds only the unfinished line.
#[derive(Debug)]
pub(crate) struct Splitter {
    stream: Stream,
    pending: Vec<u8>,
}

impl Splitter {
    pub(crate) fn new(stream: Stream) -> Self {
        Splitter {
            stream,
            pending: Vec::new(),
        }
    }

    /// Takes what the container wrote and appends finished records to `out`.
    pub(crate) fn feed(&mut self, mut data: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while let Some(end) = data.iter().position(|&b| b == b'\n') {
            self.line(&data[..end], now, out);
            data = &data[end + 1..];
        }
        self.pending.extend_from_slice(data);
        let whole = self.pending.len() / MAX_LINE * MAX_LINE;
        if whole > 0 {
            for piece in self.pending[..whole].chunks(MAX_LINE) {
                record(self.stream, 'P', piece, now, out);
            }
            self.pending.drain(..whole);
        }
    }

    /// The stream ended: what is left becomes a last, partial record.
    pub(crate) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            record(self.stream, 'P', &self.pending, now, out);
            self.pending = Vec::new();
        }
    }

    fn line(&mut self, end: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        if self.pending.is_empty() && end.len() <= MAX_LINE {
            return record(self.stream, 'F', end, now, out);
        }
        self.pending.extend_from_slice(end);
        let mut rest = self.pending.as_slice();
        while rest.len() > MAX_LINE {
            let (piece, tail) = rest.split_at(MAX_LINE);
            record(self.stream, 'P', piece, now, out);
            rest = tail;
        }
        record(self.stream, 'F', rest, now, out);
        // Long lines are rare: give their memory back rather than keep it for the container's life.
        self.pending = Vec::new();
    }
}

fn record(stream: Stream, tag: char, content: &[u8], now: Timestamp, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    write!(out, "{now:.9} {} {tag} ", stream.name()).expect("a vector takes every write");
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// The log file, opened again after the kubelet has moved it away.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

impl LogFile {
    /// A log nobody asked for has an empty path and swallows everything.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = match path.as_os_str().is_empty() {
            true => None,
            false => Some(open(path)?),
        };
        Ok(LogFile {
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            self.file = Some(open(&self.path)?);
        }
        Ok(())
    }

    pub(crate) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(records),
            None => Ok(()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(char, usize)> {
        let mut splitter = Splitter::new(Stream::Stdout);
        let mut out = Vec::new();
        let now = Timestamp::UNIX_EPOCH;
        for chunk in chunks {
            splitter.feed(chunk, now, &mut out);
        }
        splitter.finish(now, &mut out);
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                assert_eq!(parts.next(), Some("1970-01-01T00:00:00.000000000Z"));
                assert_eq!(parts.next(), Some("stdout"));
                (
                    parts.next().unwrap().chars().next().unwrap(),
                    parts.next().unwrap().len(),
                )
            })
            .collect()
    }

    #[test]
    fn lines_are_cut_whole_and_partial() {
        let long = vec![b'x'; MAX_LINE + 5];
        let exact = vec![b'y'; MAX_LINE];
        assert_eq!(cut(&[b"one\ntwo\n"]), [('F', 3), ('F', 3)]);
        assert_eq!(cut(&[b"on", b"e\n", b"\n"]), [('F', 3), ('F', 0)]);
        assert_eq!(cut(&[b"no newline"]), [('P', 10)]);
        assert_eq!(cut(&[&long, b"\n"]), [('P', MAX_LINE), ('F', 5)]);
        assert_eq!(
            cut(&[&[long.as_slice(), b"\n"].concat()]),
            [('P', MAX_LINE), ('F', 5)]
        );
        assert_eq!(cut(&[&exact, b"\n"]), [('P', MAX_LINE), ('F', 0)]);
        assert_eq!(cut(&[&[exact.as_slice(), b"\n"].concat()]), [('F', MAX_LINE)]);
    }
}
