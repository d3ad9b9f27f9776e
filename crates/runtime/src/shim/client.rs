//! The runtime's side of a shim: starting one, finding one again, and asking it things.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::protocol::{self, Event, Reply, Request, SandboxSpec, State, recv_with_fds, send_with_fds};
use super::{files, pod};

/// How often a shim that hangs up too early is called.
const ATTEMPTS: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("reach the pod's shim")]
    Unreachable(#[source] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("not found in the pod's shim")]
    NotFound,
    #[error("the pod's shim answered out of turn")]
    Protocol,
}

impl From<io::Error> for ShimError {
    fn from(error: io::Error) -> Self {
        ShimError::Unreachable(error)
    }
}

/// A pod's shim, named by the pod's directory. Every call makes its own connection.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    dir: PathBuf,
}

/// A process started by exec. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Exec {
    connection: Connection,
    /// The terminal's master side, when one was asked for.
    pub(crate) terminal: Option<OwnedFd>,
}

/// One connection to a shim.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
}

/// Starts a shim in `dir` and waits until it serves. `command` is our own executable and its words.
pub(crate) async fn spawn(dir: &Path, spec: &SandboxSpec, command: &[OsString]) -> Result<Shim, ShimError> {
    let text = serde_json::to_vec(spec).map_err(io::Error::from)?;
    tokio::fs::write(dir.join(files::SANDBOX), text).await?;
    let (program, words) = command.split_first().ok_or(ShimError::Protocol)?;
    let mut child = Command::new(program)
        .args(words)
        .arg("pod")
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().ok_or(ShimError::Protocol)?;
    let mut word = String::new();
    BufReader::new(stdout).read_line(&mut word).await?;
    // Reaps it whenever it ends; who needs to know of the end watches the subscription.
    tokio::spawn(async move { child.wait().await });
    match word.trim() {
        pod::READY => Ok(Shim { dir: dir.to_owned() }),
        "" => Err(ShimError::Failed("the pod's shim died at its start".to_owned())),
        reason => Err(ShimError::Failed(reason.to_owned())),
    }
}

impl Shim {
    /// The shim that serves in `dir`, if one does.
    pub(crate) fn at(dir: &Path) -> Shim {
        Shim { dir: dir.to_owned() }
    }

    /// Asks and takes the reply, with the descriptors it brings.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ShimError> {
        let (reply, fds, _) = self.converse(request, fds).await?;
        Ok((reply, fds))
    }

    /// For requests that answer no more than that they were done.
    pub(crate) async fn tell(&self, request: &Request) -> Result<(), ShimError> {
        match self.ask(request, &[]).await?.0 {
            Reply::Done => Ok(()),
            other => Err(other.into_error()),
        }
    }

    /// Starts the container and gives the pid of its first process.
    pub(crate) async fn start(&self, container: protocol::StartSpec) -> Result<i32, ShimError> {
        match self.ask(&Request::Start { container }, &[]).await?.0 {
            Reply::Started { pid } => Ok(pid),
            other => Err(other.into_error()),
        }
    }

    /// What is there, and from now on every exit.
    pub(crate) async fn subscribe(&self) -> Result<(State, Connection), ShimError> {
        match self.converse(&Request::Subscribe, &[]).await? {
            (Reply::State(state), _, connection) => Ok((state, connection)),
            (other, ..) => Err(other.into_error()),
        }
    }

    pub(crate) async fn exec(
        &self,
        id: &str,
        exec_id: &str,
        tty: bool,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Exec, ShimError> {
        let request = Request::Exec {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            tty,
        };
        match self.converse(&request, fds).await? {
            (Reply::Started { .. }, mut received, connection) => Ok(Exec {
                connection,
                terminal: received.pop(),
            }),
            (other, ..) => Err(other.into_error()),
        }
    }

    /// Joins a container's streams; the connection then carries data frames.
    pub(crate) async fn attach(
        &self,
        id: &str,
        stdin: bool,
        stdin_once: bool,
    ) -> Result<UnixStream, ShimError> {
        let request = Request::Attach {
            id: id.to_owned(),
            stdin,
            stdin_once,
        };
        match self.converse(&request, &[]).await? {
            (Reply::Done, _, connection) => Ok(connection.socket),
            (other, ..) => Err(other.into_error()),
        }
    }

    /// Unconnected TCP sockets in the pod's network: IPv4 and, if there is one, IPv6.
    pub(crate) async fn sockets(&self) -> Result<Vec<OwnedFd>, ShimError> {
        match self.ask(&Request::Sockets, &[]).await? {
            (Reply::Done, fds) if !fds.is_empty() => Ok(fds),
            (other, _) => Err(other.into_error()),
        }
    }

    async fn converse(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>, Connection), ShimError> {
        let mut connection = self.ask_patiently(request, fds).await?;
        let mut received = Vec::new();
        let reply = connection
            .receive(&mut received)
            .await?
            .ok_or(ShimError::Protocol)?;
        Ok((reply, received, connection))
    }

    /// Connects and sends. On a machine so busy that we took longer to speak than the shim listens, it has hung
    /// up without having read the request, which may then be sent again.
    async fn ask_patiently(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Connection> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let mut connection = self.connect().await?;
            match connection.send(request, fds).await {
                Ok(()) => return Ok(connection),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && left > 0 => {
                    tracing::debug!(dir = %self.dir.display(), "the shim hung up before it was asked");
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        // The pod's path may be longer than a socket address; the way over a descriptor never is.
        let dir = std::fs::File::open(&self.dir)?;
        let short = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), files::SOCKET);
        Ok(Connection {
            socket: UnixStream::connect(short).await?,
        })
    }
}

impl Exec {
    /// Waits for the process's end.
    pub(crate) async fn wait(&mut self) -> Result<i32, ShimError> {
        match self.connection.receive::<Event>(&mut Vec::new()).await? {
            Some(Event::ExecExited { code }) => Ok(code),
            Some(_) => Err(ShimError::Protocol),
            None => Err(ShimError::Unreachable(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Connection {
    /// The next event. `None` when the shim is gone.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        self.receive(&mut Vec::new()).await.ok().flatten()
    }

    async fn send<T: Serialize>(&mut self, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = protocol::encode(value)?;
        let sent = loop {
            self.socket.writable().await?;
            let attempt = self.socket.try_io(Interest::WRITABLE, || {
                send_with_fds(self.socket.as_fd(), &frame, fds).map_err(Into::into)
            });
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        self.socket.write_all(&frame[sent..]).await
    }

    async fn receive<T: DeserializeOwned>(&mut self, fds: &mut Vec<OwnedFd>) -> io::Result<Option<T>> {
        let mut head = [0; 4];
        let got = loop {
            self.socket.readable().await?;
            let attempt = self.socket.try_io(Interest::READABLE, || {
                recv_with_fds(self.socket.as_fd(), &mut head, fds).map_err(Into::into)
            });
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        if got == 0 {
            return Ok(None);
        }
        self.socket.read_exact(&mut head[got..]).await?;
        let mut body = vec![0; protocol::frame_len(head)?];
        self.socket.read_exact(&mut body).await?;
        protocol::decode(&body).map(Some)
    }
}

impl Reply {
    fn into_error(self) -> ShimError {
        match self {
            Reply::Failed { message } => ShimError::Failed(message),
            Reply::NotFound => ShimError::NotFound,
            Reply::Done | Reply::Started { .. } | Reply::State(_) => ShimError::Protocol,
        }
    }
}
