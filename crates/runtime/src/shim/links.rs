//! Connections that stay: subscribers, execs whose end is waited for, attached clients.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use rustix::event::PollFlags;

use super::log;
use super::protocol::data;
use super::server::{Server, send_signal};
use super::stdio::READ;

/// A connection that stays.
pub(super) struct Link {
    pub(super) socket: UnixStream,
    pub(super) kind: LinkKind,
}

pub(super) enum LinkKind {
    Subscriber,
    Exec {
        container: String,
        exec_id: String,
        pid: i32,
        terminal: Option<OwnedFd>,
    },
    Attach {
        container: String,
        stdin: bool,
        stdin_once: bool,
        incoming: Vec<u8>,
        outgoing: Vec<u8>,
    },
    /// To be dropped at the end of the round.
    Gone,
}

impl Server {
    pub(super) fn output(&mut self, id: &str, index: usize, buffer: &mut [u8]) {
        self.pump(id, index, buffer);
    }

    /// Moves one read's worth from a container to its log and its clients; `false` when there was nothing.
    pub(super) fn pump(&mut self, id: &str, index: usize, buffer: &mut [u8]) -> bool {
        let Some(container) = self.containers.get_mut(id).filter(|c| index < c.io.outputs.len()) else {
            return false;
        };
        let Some((stream, got)) = container.io.read(index, buffer, Timestamp::now()) else {
            return false;
        };
        if got == 0 {
            return false;
        }
        let kind = match stream {
            log::Stream::Stdout => data::STDOUT,
            log::Stream::Stderr => data::STDERR,
        };
        for link in &mut self.links {
            let LinkKind::Attach {
                container, outgoing, ..
            } = &mut link.kind
            else {
                continue;
            };
            if container == id {
                outgoing.extend_from_slice(&data::header(kind, got));
                outgoing.extend_from_slice(&buffer[..got]);
                if flush(&link.socket, outgoing).is_err() {
                    link.kind = LinkKind::Gone;
                }
            }
        }
        true
    }

    pub(super) fn input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.io.input.as_mut().is_some_and(|input| !input.flush()) {
            container.io.input = None;
        }
    }

    pub(super) fn link(&mut self, index: usize, events: PollFlags, buffer: &mut [u8]) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        match &mut link.kind {
            LinkKind::Attach { outgoing, .. } => {
                if events.contains(PollFlags::OUT) && flush(&link.socket, outgoing).is_err() {
                    return self.detach(index);
                }
                if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.attach_input(index, buffer);
                }
            }
            LinkKind::Subscriber => {
                // Nothing is said on these but goodbye.
                if !matches!(
                    rustix::io::read(&link.socket, &mut buffer[..1]),
                    Err(rustix::io::Errno::AGAIN)
                ) {
                    link.kind = LinkKind::Gone;
                }
            }
            LinkKind::Exec { pid, .. } => {
                // The client that wanted this process has left.
                send_signal(*pid, Signal::SIGKILL as i32).ok();
                link.kind = LinkKind::Gone;
            }
            LinkKind::Gone => {}
        }
    }

    pub(super) fn attach_input(&mut self, index: usize, buffer: &mut [u8]) {
        let link = &mut self.links[index];
        let LinkKind::Attach {
            container,
            stdin,
            incoming,
            ..
        } = &mut link.kind
        else {
            return;
        };
        match rustix::io::read(&link.socket, &mut buffer[..]) {
            Ok(0) => return self.detach(index),
            Ok(got) => incoming.extend_from_slice(&buffer[..got]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => return self.detach(index),
        }
        let id = container.clone();
        let mut close = false;
        let target = self.containers.get_mut(&id).filter(|_| *stdin);
        let mut input = target.and_then(|container| container.io.input.as_mut());
        while incoming.len() >= data::HEADER {
            let length = u32::from_be_bytes([incoming[1], incoming[2], incoming[3], incoming[4]]) as usize;
            let Some(body) = incoming.get(data::HEADER..data::HEADER + length) else {
                break;
            };
            match (incoming[0], &mut input) {
                (data::STDIN, Some(input)) => input.pending.extend(body),
                (data::CLOSE_STDIN, _) => close = true,
                _ => {}
            }
            incoming.drain(..data::HEADER + length);
        }
        self.input(&id);
        if close {
            self.stdin_ended(index);
        }
    }

    /// An attached client has sent its last input: with `stdin_once` it was everybody's last.
    pub(super) fn stdin_ended(&mut self, index: usize) {
        let LinkKind::Attach {
            container,
            stdin: true,
            stdin_once: true,
            ..
        } = &self.links[index].kind
        else {
            return;
        };
        let id = container.clone();
        if let Some(input) = self.containers.get_mut(&id).and_then(|c| c.io.input.as_mut()) {
            input.close_when_empty();
        }
        self.input(&id);
    }

    pub(super) fn detach(&mut self, index: usize) {
        self.stdin_ended(index);
        self.links[index].kind = LinkKind::Gone;
    }
}

fn flush(socket: &UnixStream, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let mut socket = socket;
    while !outgoing.is_empty() {
        match socket.write(outgoing) {
            Ok(written) => {
                outgoing.drain(..written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if outgoing.capacity() > READ {
        *outgoing = Vec::new();
    }
    Ok(())
}

pub(super) fn flush_and_close(link: &mut Link) {
    if let LinkKind::Attach { outgoing, .. } = &mut link.kind
        && !outgoing.is_empty()
        && link.socket.set_nonblocking(false).is_ok()
    {
        flush(&link.socket, outgoing).ok();
    }
    link.kind = LinkKind::Gone;
}
