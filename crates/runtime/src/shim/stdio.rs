//! A container's input and output inside the shim: pipes or a terminal on one side, the log and attached
//! clients on the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use jiff::Timestamp;
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use super::files;
use super::log::{LogFile, Splitter, Stream};
use super::protocol::{StartSpec, recv_with_fds};

/// As much as one read takes; small, because the buffer is the shim's largest piece of memory.
pub(super) const READ: usize = 16 * 1024;

/// What goes out of a container, and the input that goes in.
#[derive(Debug)]
pub(super) struct ContainerIo {
    pub(super) outputs: Vec<Output>,
    pub(super) input: Option<Input>,
    pub(super) log: LogFile,
    /// Where the terminal will come from, until it has come.
    console: Option<UnixListener>,
}

#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
    splitter: Splitter,
}

#[derive(Debug)]
pub(super) struct Input {
    pub(super) fd: OwnedFd,
    pub(super) pending: VecDeque<u8>,
    close_after: bool,
}

/// The ends that the container gets.
pub(super) struct Ends {
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

/// The three ends of a process that is told nothing and tells nothing.
pub(super) fn null_ends() -> Ends {
    Ends {
        stdin: Stdio::null(),
        stdout: Stdio::null(),
        stderr: Stdio::null(),
    }
}

impl ContainerIo {
    pub(super) fn open(spec: &StartSpec) -> io::Result<(ContainerIo, Ends)> {
        let log = LogFile::open(&spec.log_path)?;
        if spec.tty {
            let console = Some(listen_for_console(&spec.dir)?);
            return Ok((
                ContainerIo {
                    outputs: Vec::new(),
                    input: None,
                    log,
                    console,
                },
                null_ends(),
            ));
        }
        let (stdout, stdout_end) = output(Stream::Stdout, spec)?;
        let (stderr, stderr_end) = output(Stream::Stderr, spec)?;
        let (input, stdin) = match spec.stdin {
            true => {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                rustix::fs::fchown(&reader, owner(spec.uid), group(spec.gid))?;
                set_nonblocking(&writer)?;
                (
                    Some(Input {
                        fd: writer,
                        pending: VecDeque::new(),
                        close_after: false,
                    }),
                    Stdio::from(reader),
                )
            }
            false => (None, Stdio::null()),
        };
        let ends = Ends {
            stdin,
            stdout: stdout_end,
            stderr: stderr_end,
        };
        Ok((
            ContainerIo {
                outputs: vec![stdout, stderr],
                input,
                log,
                console: None,
            },
            ends,
        ))
    }

    /// The container runs: its terminal waits in the console socket.
    pub(super) fn started(&mut self, wants_input: bool) -> io::Result<()> {
        let Some(console) = self.console.take() else {
            return Ok(());
        };
        let master = take_console(&console)?;
        set_nonblocking(&master)?;
        if wants_input {
            let fd = master.try_clone()?;
            self.input = Some(Input {
                fd,
                pending: VecDeque::new(),
                close_after: false,
            });
        }
        self.outputs.push(Output {
            fd: master,
            stream: Stream::Stdout,
            splitter: Splitter::new(Stream::Stdout),
        });
        Ok(())
    }

    /// Terminal size, when there is a terminal.
    pub(super) fn terminal(&self) -> Option<&OwnedFd> {
        self.outputs.first().map(|output| &output.fd)
    }

    /// Reads once from output `index`. `None` when the stream has ended, and the output is gone.
    pub(super) fn read(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        now: Timestamp,
    ) -> Option<(Stream, usize)> {
        let output = &mut self.outputs[index];
        let got = match rustix::io::read(&output.fd, &mut buffer[..]) {
            Ok(got) if got > 0 => got,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Some((output.stream, 0)),
            // The last one to hold a terminal's other side has left: EIO.
            Ok(_) | Err(_) => {
                let mut output = self.outputs.remove(index);
                let mut records = Vec::new();
                output.splitter.finish(now, &mut records);
                self.write_log(&records);
                return None;
            }
        };
        let mut records = Vec::with_capacity(got + 64);
        output.splitter.feed(&buffer[..got], now, &mut records);
        let stream = output.stream;
        self.write_log(&records);
        Some((stream, got))
    }

    /// The container has ended: what is left unfinished becomes the last record.
    pub(super) fn finish(&mut self, now: Timestamp) {
        let mut records = Vec::new();
        for output in &mut self.outputs {
            output.splitter.finish(now, &mut records);
        }
        self.write_log(&records);
        self.outputs.clear();
        self.input = None;
    }

    fn write_log(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        // A full disk costs records. Blocking here instead would stop the container's own work.
        self.log.append(records).ok();
    }
}

impl Input {
    /// How much may still be queued; attached clients are not read while it is zero.
    pub(super) fn room(&self) -> usize {
        (4 * READ).saturating_sub(self.pending.len())
    }

    pub(super) fn close_when_empty(&mut self) {
        self.close_after = true;
    }

    /// Writes what the container takes now. `false` when the input is to be closed.
    pub(super) fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.fd, self.pending.as_slices().0) {
                Ok(written) => {
                    self.pending.drain(..written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        if self.pending.capacity() > READ {
            self.pending = VecDeque::new();
        }
        !self.close_after
    }

    pub(super) fn interest(&self) -> PollFlags {
        match self.pending.is_empty() {
            true => PollFlags::empty(),
            false => PollFlags::OUT,
        }
    }
}

fn output(stream: Stream, spec: &StartSpec) -> io::Result<(Output, Stdio)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // A payload without root may open /dev/stdout, which leads back to this pipe.
    rustix::fs::fchown(&writer, owner(spec.uid), group(spec.gid))?;
    set_nonblocking(&reader)?;
    Ok((
        Output {
            fd: reader,
            stream,
            splitter: Splitter::new(stream),
        },
        Stdio::from(writer),
    ))
}

fn owner(uid: u32) -> Option<rustix::fs::Uid> {
    Some(rustix::fs::Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<rustix::fs::Gid> {
    Some(rustix::fs::Gid::from_raw(gid))
}

fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(())
}

/// Where libcontainer will send the master side of the container's terminal.
pub(super) fn listen_for_console(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(files::CONSOLE);
    std::fs::remove_file(&path).ok();
    // The directory's own path may be longer than a socket's name can be.
    let handle = std::fs::File::open(dir)?;
    use std::os::fd::AsRawFd;
    let short = format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), files::CONSOLE);
    let listener = UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) fn take_console(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _) = listener.accept()?;
    let mut fds = Vec::new();
    let mut name = [0; 256];
    recv_with_fds(socket.as_fd(), &mut name, &mut fds)?;
    fds.pop()
        .ok_or_else(|| io::Error::other("no terminal came with the console message"))
}
