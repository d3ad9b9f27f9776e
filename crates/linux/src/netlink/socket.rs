//! A netlink socket with requests, dumps and the kernel's own words about errors.
//!
//! **Invariant:** a socket belongs for ever to the network namespace it was opened in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::wire::{self, Message, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR};
use crate::error::Context;
use crate::namespace::{Net, in_net};
use crate::{Error, Result};

/// Enough for any single answer; dumps come in parts smaller than this.
const BUFFER: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

/// A refusal of one message.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) sequence: u32,
    pub(crate) errno: i32,
    /// The kernel's explanation, where it has one.
    pub(crate) reason: Option<String>,
}

impl Refusal {
    pub(crate) fn into_error(self, operation: &'static str, subject: impl std::fmt::Display) -> Error {
        let source = io::Error::from_raw_os_error(self.errno);
        match self.reason {
            Some(reason) => Error::Refused {
                operation,
                subject: subject.to_string(),
                reason,
                source,
            },
            None => Error::kernel(operation, subject, source),
        }
    }
}

/// What one answer message means.
pub(crate) enum Answer<'a> {
    Data(Message<'a>),
    Acknowledged(u32),
    Refused(Refusal),
    Done,
}

impl Socket {
    /// `None` is the routing protocol.
    pub(crate) fn open(protocol: Option<Protocol>, net: &Net) -> Result<Self> {
        match net {
            Net::Own => Self::open_here(protocol),
            Net::At(path) => in_net(path, || Self::open_here(protocol)),
        }
    }

    fn open_here(protocol: Option<Protocol>) -> Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .context("open", "netlink socket")?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).context("bind", "netlink socket")?;
        // Both are niceties of newer kernels; without them errors are only less well explained.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(&fd, option);
        }
        Ok(Socket {
            fd,
            buffer: vec![0; BUFFER],
            sequence: 0,
        })
    }

    /// Room for the answers to a large batch: one per message, more where one is refused.
    pub(crate) fn widen(&self, bytes: usize) {
        use rustix::net::sockopt;
        let bytes = bytes.clamp(1 << 20, 256 << 20);
        // The forced variants need CAP_NET_ADMIN over the first user namespace; the plain ones are capped.
        if sockopt::set_socket_send_buffer_size_force(&self.fd, bytes).is_err()
            && let Err(error) = sockopt::set_socket_send_buffer_size(&self.fd, bytes)
        {
            tracing::debug!(%error, bytes, "netlink send buffer not widened");
        }
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err()
            && let Err(error) = sockopt::set_socket_recv_buffer_size(&self.fd, bytes)
        {
            tracing::debug!(%error, bytes, "netlink receive buffer not widened");
        }
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let to = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &to)
            .map(drop)
            .context("send", "netlink message")
    }

    /// Shows what is queued already, without waiting.
    pub(crate) fn drain(&mut self, mut see: impl FnMut(Answer<'_>) -> Flow) -> Result<()> {
        while self.receive_with(RecvFlags::DONTWAIT, &mut see)?.is_some() {}
        Ok(())
    }

    /// Waits for one datagram and shows each message in it until `see` says stop.
    fn receive(&mut self, see: impl FnMut(Answer<'_>) -> Flow) -> Result<Flow> {
        Ok(self.receive_with(RecvFlags::empty(), see)?.unwrap_or(Flow::More))
    }

    /// `None` when nothing is queued and the flags say not to wait.
    fn receive_with(
        &mut self,
        flags: RecvFlags,
        mut see: impl FnMut(Answer<'_>) -> Flow,
    ) -> Result<Option<Flow>> {
        let length = loop {
            match rustix::net::recv(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(Error::kernel("receive", "netlink answer", error)),
            }
        };
        let Some(bytes) = self.buffer.get(..length) else {
            return Err(Error::answer(
                "receive",
                "netlink answer",
                format_args!("{length} bytes at once"),
            ));
        };
        for message in wire::messages(bytes) {
            let answer = match message.kind {
                NLMSG_DONE => Answer::Done,
                NLMSG_ERROR => read_error(message)?,
                _ => Answer::Data(message),
            };
            if see(answer) == Flow::Stop {
                return Ok(Some(Flow::Stop));
            }
        }
        Ok(Some(Flow::More))
    }

    /// One request, answered by data, an acknowledgement or both.
    pub(crate) fn request(
        &mut self,
        bytes: &[u8],
        sequence: u32,
        mut data: impl FnMut(Message<'_>),
    ) -> Result<std::result::Result<(), Refusal>> {
        self.send(bytes)?;
        let mut refusal = None;
        loop {
            let flow = self.receive(|answer| match answer {
                Answer::Data(message) if message.sequence == sequence => {
                    data(message);
                    Flow::More
                }
                Answer::Acknowledged(of) if of == sequence => Flow::Stop,
                Answer::Refused(why) if why.sequence == sequence => {
                    refusal = Some(why);
                    Flow::Stop
                }
                Answer::Done => Flow::Stop,
                // Left over from a request that was given up.
                _ => Flow::More,
            })?;
            if flow == Flow::Stop {
                return Ok(refusal.map_or(Ok(()), Err));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    More,
    Stop,
}

fn read_error(message: Message<'_>) -> Result<Answer<'_>> {
    const REASON: u16 = 1;
    let broken = || Error::answer("receive", "netlink answer", "an error message cut short");
    let code = message
        .payload
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes);
    let code = code.ok_or_else(broken)?;
    if code == 0 {
        return Ok(Answer::Acknowledged(message.sequence));
    }
    let reason = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            let original = message.payload.get(4..)?;
            let length = u32::from_ne_bytes(original.get(..4)?.try_into().ok()?) as usize;
            let skip = if message.flags & NLM_F_CAPPED != 0 {
                wire::HEADER
            } else {
                length.next_multiple_of(4)
            };
            wire::attribute(original.get(skip..)?, REASON).map(wire::text)
        })
        .flatten();
    Ok(Answer::Refused(Refusal {
        sequence: message.sequence,
        errno: -code,
        reason,
    }))
}

fn set_option(fd: &OwnedFd, option: libc::c_int) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open and the value points to an int of the size given.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done != 0 {
        tracing::debug!(option, error = %io::Error::last_os_error(), "netlink option not set");
    }
}
