//! Reading a container's log from its end or beginning, and following it across rotation.
//!
//! Follows upstream's `cri-client/pkg/logs`. Following waits for the directory to change (inotify) and for the
//! container to end; it never polls.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use jiff::Timestamp;
use linux::watch::DirectoryWatch;
use tokio::sync::mpsc;

use super::line::{Line, Stream, parse};

/// What to show, in the terms of `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Timestamp>,
    pub follow: bool,
    pub timestamps: bool,
    pub stream: Option<Stream>,
}

const CHUNK: usize = 32 * 1024;
/// Chunks that may wait for a slow client.
const QUEUED: usize = 8;

/// The bytes of a log, piece by piece, until its end or, followed, until `ended` resolves and all is read.
pub fn stream(
    path: PathBuf,
    options: Options,
    ended: BoxFuture<'static, ()>,
) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let path = path
        .canonicalize()
        .map_err(|e| named("failed to try resolving symlinks in path", &path, e))?;
    let mut file = File::open(&path).map_err(|e| named("failed to open log file", &path, e))?;
    let start = match options.tail_lines {
        Some(lines) => tail_start(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start))?;
    let (sender, receiver) = mpsc::channel(QUEUED);
    tokio::spawn(async move {
        let mut reader = Follower {
            path,
            file,
            rest: BytesMut::new(),
            out: Out::new(options),
            sender,
        };
        if let Err(error) = reader.run(ended).await {
            // The client may have gone; then nobody hears this either.
            drop(reader.sender.send(Err(error)).await);
        }
    });
    Ok(receiver)
}

fn named(what: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{what} {:?}: {error}", path.display().to_string()),
    )
}

struct Follower {
    path: PathBuf,
    file: File,
    rest: BytesMut,
    out: Out,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Follower {
    async fn run(&mut self, mut ended: BoxFuture<'static, ()>) -> io::Result<()> {
        let follow = self.out.options.follow;
        // Before the first read, so that nothing written meanwhile is missed.
        let mut watch = match (follow, self.path.parent()) {
            (true, Some(directory)) => Some(DirectoryWatch::new(directory).map_err(io::Error::other)?),
            _ => None,
        };
        let mut over = false;
        loop {
            if !self.read_all().await? {
                return Ok(());
            }
            if follow && self.rotated() {
                self.file =
                    File::open(&self.path).map_err(|e| named("failed to open log file", &self.path, e))?;
                continue;
            }
            let Some(watch) = watch.as_mut().filter(|_| !over) else {
                return self.last_line().await;
            };
            tokio::select! {
                changed = watch.changed() => changed.map_err(io::Error::other)?,
                () = &mut ended => over = true,
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// Reads to the end; false when enough was shown.
    async fn read_all(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(true);
            }
            self.rest.extend_from_slice(&buffer[..count]);
            while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line = self.rest.split_to(end + 1);
                if !self.out.line(&line) {
                    self.flush().await;
                    return Ok(false);
                }
            }
            if !self.flush().await {
                return Ok(false);
            }
        }
    }

    /// A line without its newline at the end of a log that nobody writes any more.
    async fn last_line(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.out.line(&rest);
        }
        self.flush().await;
        Ok(())
    }

    async fn flush(&mut self) -> bool {
        let ready = std::mem::take(&mut self.out.ready);
        ready.is_empty() || self.sender.send(Ok(ready.freeze())).await.is_ok()
    }

    /// Whether the path names another file than the one that is open.
    fn rotated(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
            // Between the rename and the runtime's new file there is none.
            _ => false,
        }
    }
}

/// Chooses lines and forms them.
struct Out {
    options: Options,
    remaining: u64,
    at_line_start: bool,
    ready: BytesMut,
}

impl Out {
    fn new(options: Options) -> Self {
        Self {
            remaining: options.limit_bytes.unwrap_or(u64::MAX),
            options,
            at_line_start: true,
            ready: BytesMut::new(),
        }
    }

    /// Returns whether more is wanted.
    fn line(&mut self, raw: &[u8]) -> bool {
        let Some(line) = parse(raw) else {
            tracing::debug!(
                length = raw.len(),
                "a line of a container log is not in the format"
            );
            return true;
        };
        let starts = self.at_line_start;
        self.at_line_start = line.text.is_empty() || line.text.ends_with(b"\n");
        if !self.wanted(&line) {
            return true;
        }
        if self.options.timestamps && starts {
            self.put(line.time_text.as_bytes());
            self.put(b" ");
        }
        self.put(line.text);
        self.remaining > 0
    }

    fn wanted(&self, line: &Line<'_>) -> bool {
        self.options.since.is_none_or(|since| line.time >= since)
            && self.options.stream.is_none_or(|stream| line.stream == stream)
    }

    fn put(&mut self, bytes: &[u8]) {
        let count = bytes
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.ready.extend_from_slice(&bytes[..count]);
        self.remaining -= count as u64;
    }
}

/// Where the last `lines` lines begin.
fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut found = 0;
    let mut buffer = vec![0; CHUNK];
    while end > 0 {
        let size = end.min(CHUNK as u64);
        let start = end - size;
        file.seek(SeekFrom::Start(start))?;
        let block = &mut buffer[..usize::try_from(size).unwrap_or(CHUNK)];
        file.read_exact(block)?;
        for (i, byte) in block.iter().enumerate().rev() {
            let position = start + i as u64;
            // The newline that ends the file begins no line.
            if *byte == b'\n' && position + 1 != length {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The end of a log as text: at most so many lines and bytes.
pub fn last_bytes(path: &Path, lines: usize, bytes: usize) -> io::Result<String> {
    let mut file = File::open(path).map_err(|e| named("failed to open log file", path, e))?;
    let start = tail_start(&mut file, lines as u64)?;
    file.seek(SeekFrom::Start(start))?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw)?;
    let text: Vec<u8> = raw
        .split_inclusive(|b| *b == b'\n')
        .filter_map(parse)
        .flat_map(|l| l.text.to_vec())
        .collect();
    let from = text.len().saturating_sub(bytes);
    Ok(String::from_utf8_lossy(&text[from..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::io::Write;

    fn line(second: u32, stream: &str, tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.000000000Z {stream} {tag} {text}\n")
    }

    fn sample() -> String {
        [
            line(1, "stdout", "F", "one"),
            line(2, "stderr", "F", "two"),
            line(3, "stdout", "P", "thr"),
            line(4, "stdout", "F", "ee"),
            "garbage\n".to_owned(),
            line(5, "stdout", "F", "four"),
        ]
        .concat()
    }

    async fn all(mut receiver: mpsc::Receiver<io::Result<Bytes>>) -> String {
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn options() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, sample()).unwrap();
        let since: Timestamp = "2026-01-01T00:00:04Z".parse().unwrap();
        let cases = [
            (Options::default(), "one\ntwo\nthree\nfour\n"),
            (
                Options {
                    tail_lines: Some(1),
                    ..Options::default()
                },
                "four\n",
            ),
            (
                Options {
                    tail_lines: Some(0),
                    ..Options::default()
                },
                "",
            ),
            (
                Options {
                    tail_lines: Some(100),
                    ..Options::default()
                },
                "one\ntwo\nthree\nfour\n",
            ),
            (
                Options {
                    limit_bytes: Some(6),
                    ..Options::default()
                },
                "one\ntw",
            ),
            (
                Options {
                    since: Some(since),
                    ..Options::default()
                },
                "ee\nfour\n",
            ),
            (
                Options {
                    stream: Some(Stream::Stderr),
                    ..Options::default()
                },
                "two\n",
            ),
            (
                Options {
                    timestamps: true,
                    tail_lines: Some(4),
                    ..Options::default()
                },
                "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:05.000000000Z four\n",
            ),
        ];
        for (options, expected) in cases {
            let ended = futures::future::ready(()).boxed();
            let receiver = stream(path.clone(), options.clone(), ended).unwrap();
            assert_eq!(all(receiver).await, expected, "{options:?}");
        }
        assert_eq!(last_bytes(&path, 80, 6).unwrap(), "\nfour\n");
    }

    #[tokio::test]
    async fn follows_across_rotation_until_the_container_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, line(1, "stdout", "F", "one")).unwrap();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let options = Options {
            follow: true,
            ..Options::default()
        };
        let mut receiver = stream(path.clone(), options, ended.map(|_| ()).boxed()).unwrap();
        let mut next = async || receiver.recv().await.map(|chunk| chunk.unwrap());
        assert_eq!(next().await.unwrap(), "one\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(line(2, "stdout", "F", "two").as_bytes()).unwrap();
        assert_eq!(next().await.unwrap(), "two\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, line(3, "stdout", "F", "three")).unwrap();
        assert_eq!(next().await.unwrap(), "three\n");
        std::fs::write(
            &path,
            [line(3, "stdout", "F", "three"), line(4, "stdout", "F", "four")].concat(),
        )
        .unwrap();
        end.send(()).unwrap();
        assert_eq!(next().await.unwrap(), "four\n");
        assert_eq!(next().await, None);
    }
}
