//! What the runtime and a pod's shim say to each other over the shim's unix socket.
//!
//! One connection carries one request: a frame (length as four bytes, big end first, then JSON) that may
//! bring file descriptors, answered by one [`Reply`], also with descriptors. Three requests keep their
//! connection: `Subscribe` and `Exec` get [`Event`] frames, `Attach` turns into data frames (see [`data`]).
//!
//! **Invariant:** the shim outlives the runtime that started it, so a newer runtime must understand an older
//! shim: fields are only ever added, with a default.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// No frame is longer: a request holds at most one command line and its environment.
pub(crate) const MAX_FRAME: usize = 8 << 20;
/// No frame brings more descriptors: an exec's three.
pub(crate) const MAX_FDS: usize = 4;

/// What a shim is started with; the file `sandbox.json` in the pod's directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    pub id: String,
    /// Set for a network of its own; where to keep it mounted.
    pub netns: Option<PathBuf>,
    pub own_ipc: bool,
    /// Set for a UTS namespace of its own.
    pub hostname: Option<String>,
    /// A pid namespace that all containers share.
    pub shared_pid: bool,
    pub sysctls: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub(crate) enum Request {
    /// Who is there.
    State,
    /// Runs the container whose directory is prepared.
    Start {
        container: StartSpec,
    },
    /// Sends a signal to the container's first process.
    Kill {
        id: String,
        signal: i32,
    },
    /// Runs one more process in a container; brings stdin, stdout and stderr unless `tty`.
    Exec {
        id: String,
        exec_id: String,
        tty: bool,
    },
    /// Joins the container's output and input.
    Attach {
        id: String,
        stdin: bool,
        stdin_once: bool,
    },
    Resize {
        id: String,
        exec_id: Option<String>,
        width: u16,
        height: u16,
    },
    ReopenLog {
        id: String,
    },
    /// Two TCP sockets of the pod's network, IPv4 then IPv6, not yet connected.
    Sockets,
    Subscribe,
    /// Forgets an exited container.
    Forget {
        id: String,
    },
    /// Kills what is left and exits.
    Shutdown,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StartSpec {
    pub id: String,
    /// Holds `config.json`; gets `exit.json`.
    pub dir: PathBuf,
    pub log_path: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// Whose the ends of the output pipes are, so that `/dev/stdout` opens for a process without root.
    pub uid: u32,
    pub gid: u32,
    pub oom_score_adj: Option<i32>,
    /// The file that counts out-of-memory kills of the container's cgroup.
    pub oom_file: Option<PathBuf>,
    /// Everything in these cgroups dies with the first process (a shared pid namespace leaves orphans).
    pub kill_cgroup: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    Done,
    Started {
        pid: i32,
    },
    State(State),
    Failed {
        message: String,
    },
    /// There is no such container or exec here.
    NotFound,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub pid: i32,
    /// The first process of the shared pid namespace.
    pub pause_pid: Option<i32>,
    pub containers: Vec<ContainerState>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ContainerState {
    pub id: String,
    pub pid: i32,
    pub exit: Option<Exit>,
}

/// How a container ended; also the file `exit.json` in its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub code: i32,
    /// Nanoseconds since 1970.
    pub at: i64,
    #[serde(default)]
    pub oom_killed: bool,
    /// Set when it never ran: why.
    #[serde(default)]
    pub message: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Event {
    Exited {
        id: String,
        exit: Exit,
    },
    ExecExited {
        code: i32,
    },
    /// A start that was asked for, perhaps by a runtime that is no more, has succeeded.
    Started {
        id: String,
        pid: i32,
    },
    StartFailed {
        id: String,
        message: String,
    },
}

/// Frames of an attached connection: one byte of kind, four of length, then the data.
pub(crate) mod data {
    pub(crate) const STDIN: u8 = 0;
    pub(crate) const STDOUT: u8 = 1;
    pub(crate) const STDERR: u8 = 2;
    pub(crate) const CLOSE_STDIN: u8 = 3;
    pub(crate) const HEADER: usize = 5;

    pub(crate) fn header(kind: u8, len: usize) -> [u8; HEADER] {
        let len = u32::try_from(len)
            .expect("a data frame is at most one read long")
            .to_be_bytes();
        [kind, len[0], len[1], len[2], len[3]]
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let len = u32::try_from(frame.len() - 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    Ok(frame)
}

/// The length a frame's head announces, refused when it cannot be one of ours.
pub(crate) fn frame_len(head: [u8; 4]) -> io::Result<usize> {
    let len = u32::from_be_bytes(head) as usize;
    match len <= MAX_FRAME {
        true => Ok(len),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long")),
    }
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(Into::into)
}

/// One `sendmsg`; descriptors travel with the first byte.
pub(crate) fn send_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::INVAL);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// One `recvmsg`; the descriptors it brought are closed on exec.
pub(crate) fn recv_with_fds(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got.bytes)
}

/// Sends a frame on a blocking socket.
pub(crate) fn write_frame<T: Serialize>(
    socket: &UnixStream,
    value: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let frame = encode(value)?;
    let sent = send_with_fds(socket.as_fd(), &frame, fds)?;
    let mut socket = socket;
    socket.write_all(&frame[sent..])
}

/// Receives a frame on a blocking socket. `None` when the other side has nothing more to say.
pub(crate) fn read_frame<T: DeserializeOwned>(
    socket: &UnixStream,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    let got = recv_with_fds(socket.as_fd(), &mut head, fds)?;
    if got == 0 {
        return Ok(None);
    }
    let mut socket = socket;
    socket.read_exact(&mut head[got..])?;
    let mut body = vec![0; frame_len(head)?];
    socket.read_exact(&mut body)?;
    decode(&body).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_its_value_and_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let request = Request::Exec {
            id: "c".into(),
            exec_id: "e".into(),
            tty: false,
        };
        write_frame(&a, &request, &[writer.as_fd()]).unwrap();
        drop((a, writer));
        let mut fds = Vec::new();
        let got: Request = read_frame(&b, &mut fds).unwrap().unwrap();
        assert!(matches!(got, Request::Exec { id, .. } if id == "c"));
        rustix::io::write(&fds[0], b"through").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 7);
        assert!(read_frame::<Request>(&b, &mut fds).unwrap().is_none());
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused() {
        assert!(frame_len(((MAX_FRAME + 1) as u32).to_be_bytes()).is_err());
    }
}
