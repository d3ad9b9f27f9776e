//! The shim's loop: one thread, one `poll`, no timer.
//!
//! **Invariant:** an exit is on disk before anybody hears of it, and the container's last output is in its
//! log before that.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use linux::process::Processes;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use rustix::process::WaitStatus;

use super::links::{Link, LinkKind};
use super::protocol::{ContainerState, Exit, Reply, Request, StartSpec, State, read_frame, write_frame};
use super::stdio::{self, ContainerIo, READ};
use super::{files, pod};

/// Patience with a runtime that has begun to speak; it is on this machine.
const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// An attached client that has this much unread holds the container's output back.
const ATTACH_BACKLOG: usize = 64 * 1024;

pub(super) struct Server {
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
    /// Speaks when a file of the pod's directory is deleted.
    directory: OwnedFd,
    pub(super) pause_pid: Option<i32>,
    pub(super) containers: HashMap<String, Container>,
    /// Helpers at work, by their pid.
    pub(super) launches: HashMap<i32, Launch>,
    /// Ends of processes whose helper has not told us yet whose they are.
    pub(super) unclaimed: HashMap<i32, WaitStatus>,
    pub(super) links: Vec<Link>,
    pub(super) done: bool,
}

pub(super) struct Container {
    pub(super) spec: StartSpec,
    pub(super) io: ContainerIo,
    pub(super) pid: i32,
    pub(super) exit: Option<Exit>,
    /// Sent as soon as there is somebody to send it to.
    pub(super) waiting_signal: Option<i32>,
}

/// A helper process and who waits for what it comes to.
pub(super) struct Launch {
    pub(super) container: String,
    pub(super) what: Launching,
    pub(super) socket: UnixStream,
}

pub(super) enum Launching {
    Container,
    Exec {
        exec_id: String,
        console: Option<UnixListener>,
    },
}

/// What a poll entry belongs to.
#[derive(Clone, Copy)]
enum Source<'a> {
    Signals,
    Directory,
    Listener,
    Output(&'a str, usize),
    Input(&'a str),
    Link(usize),
}

#[derive(Clone)]
enum Ready {
    Signals,
    Directory,
    Listener,
    Output(String, usize),
    Input(String),
    Link(usize, PollFlags),
}

impl Server {
    pub(super) fn new(listener: UnixListener, pause_pid: Option<i32>) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        listener.set_nonblocking(true)?;
        let directory = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&directory, ".", inotify::WatchFlags::DELETE)?;
        Ok(Server {
            listener,
            signals,
            directory,
            pause_pid,
            containers: HashMap::new(),
            launches: HashMap::new(),
            unclaimed: HashMap::new(),
            links: Vec::new(),
            done: false,
        })
    }

    pub(super) fn run(mut self) {
        let mut buffer = vec![0_u8; READ];
        while !self.done {
            for ready in self.wait() {
                match ready {
                    Ready::Signals => self.reap(&mut buffer),
                    Ready::Directory => self.directory_changed(&mut buffer),
                    Ready::Listener => self.accept(),
                    Ready::Output(id, index) => self.output(&id, index, &mut buffer),
                    Ready::Input(id) => self.input(&id),
                    Ready::Link(index, events) => self.link(index, events, &mut buffer),
                }
            }
            self.links.retain(|link| !matches!(link.kind, LinkKind::Gone));
        }
        std::fs::remove_file(files::SOCKET).ok();
    }

    fn wait(&self) -> Vec<Ready> {
        let mut sources = vec![Source::Signals, Source::Directory, Source::Listener];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.directory, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for (id, container) in &self.containers {
            if !self.held_back(id) {
                // Highest index first: reading may remove an output.
                for (index, output) in container.io.outputs.iter().enumerate().rev() {
                    sources.push(Source::Output(id, index));
                    fds.push(PollFd::new(&output.fd, PollFlags::IN));
                }
            }
            if let Some(input) = container
                .io
                .input
                .as_ref()
                .filter(|input| !input.interest().is_empty())
            {
                sources.push(Source::Input(id));
                fds.push(PollFd::new(&input.fd, input.interest()));
            }
        }
        for (index, link) in self.links.iter().enumerate() {
            sources.push(Source::Link(index));
            fds.push(PollFd::new(&link.socket, self.link_interest(link)));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Vec::new(),
            // Only a wrong argument can cause this, and going on would spin.
            Err(error) => panic!("poll: {error}"),
        }
        let ready = fds
            .iter()
            .zip(&sources)
            .filter(|(fd, _)| !fd.revents().is_empty());
        ready
            .map(|(fd, source)| match *source {
                Source::Signals => Ready::Signals,
                Source::Directory => Ready::Directory,
                Source::Listener => Ready::Listener,
                Source::Output(id, index) => Ready::Output(id.to_owned(), index),
                Source::Input(id) => Ready::Input(id.to_owned()),
                Source::Link(index) => Ready::Link(index, fd.revents()),
            })
            .collect()
    }

    fn link_interest(&self, link: &Link) -> PollFlags {
        let mut flags = PollFlags::empty();
        match &link.kind {
            LinkKind::Attach {
                container,
                outgoing,
                stdin,
                ..
            } => {
                let input = self.containers.get(container).and_then(|c| c.io.input.as_ref());
                if !*stdin || input.is_none_or(|input| input.room() > 0) {
                    flags |= PollFlags::IN;
                }
                if !outgoing.is_empty() {
                    flags |= PollFlags::OUT;
                }
            }
            _ => flags |= PollFlags::IN,
        }
        flags
    }

    /// Whether an attached client is too far behind to read more of this container's output.
    fn held_back(&self, id: &str) -> bool {
        self.links.iter().any(|link| match &link.kind {
            LinkKind::Attach {
                container, outgoing, ..
            } => container == id && outgoing.len() > ATTACH_BACKLOG,
            _ => false,
        })
    }

    // === requests ===

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            let set = socket
                .set_read_timeout(Some(PEER_PATIENCE))
                .and_then(|()| socket.set_write_timeout(Some(PEER_PATIENCE)));
            let mut received = Vec::new();
            // A client that says nothing sensible is dropped; nothing else depends on it.
            if let (Ok(()), Ok(Some(request))) = (set, read_frame::<Request>(&socket, &mut received)) {
                self.request(socket, request, received);
            }
        }
    }

    fn request(&mut self, socket: UnixStream, request: Request, received: Vec<OwnedFd>) {
        match request {
            Request::State => answer(&socket, &Reply::State(self.state())),
            Request::Start { container } => self.start(socket, container),
            Request::Kill { id, signal } => answer(&socket, &self.kill(&id, signal)),
            Request::Exec { id, exec_id, tty } => self.exec(socket, id, exec_id, tty, received),
            Request::Attach {
                id,
                stdin,
                stdin_once,
            } => self.attach(socket, id, stdin, stdin_once),
            Request::Resize {
                id,
                exec_id,
                width,
                height,
            } => {
                answer(&socket, &self.resize(&id, exec_id.as_deref(), width, height));
            }
            Request::ReopenLog { id } => answer(
                &socket,
                &match self.containers.get_mut(&id) {
                    Some(container) => done(container.io.log.reopen()),
                    None => Reply::NotFound,
                },
            ),
            Request::Sockets => send_sockets(&socket),
            Request::Subscribe => {
                answer(&socket, &Reply::State(self.state()));
                self.links.push(Link {
                    socket,
                    kind: LinkKind::Subscriber,
                });
            }
            Request::Forget { id } => {
                if self
                    .containers
                    .get(&id)
                    .is_some_and(|container| container.exit.is_some())
                {
                    self.containers.remove(&id);
                }
                answer(&socket, &Reply::Done);
            }
            Request::Shutdown => {
                self.shutdown();
                answer(&socket, &Reply::Done);
            }
        }
    }

    fn state(&self) -> State {
        let containers = self.containers.iter().map(|(id, container)| ContainerState {
            id: id.clone(),
            pid: container.pid,
            exit: container.exit.clone(),
        });
        State {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            pause_pid: self.pause_pid,
            containers: containers.collect(),
        }
    }

    fn start(&mut self, socket: UnixStream, spec: StartSpec) {
        if self.containers.contains_key(&spec.id) {
            return answer(&socket, &failed("the container was started before"));
        }
        let adj = spec.oom_score_adj.map(|adj| adj.to_string()).unwrap_or_default();
        let spawned = ContainerIo::open(&spec).and_then(|(io, ends)| {
            let args = [Path::new("container"), &spec.dir, Path::new(&adj)];
            Ok((io, helper(&args, &spec.dir, ends)?))
        });
        match spawned {
            Ok((io, helper)) => {
                let launch = Launch {
                    container: spec.id.clone(),
                    what: Launching::Container,
                    socket,
                };
                self.launches.insert(helper, launch);
                self.containers.insert(
                    spec.id.clone(),
                    Container {
                        spec,
                        io,
                        pid: 0,
                        exit: None,
                        waiting_signal: None,
                    },
                );
            }
            Err(error) => answer(&socket, &failed(error)),
        }
    }

    fn exec(&mut self, socket: UnixStream, id: String, exec_id: String, tty: bool, received: Vec<OwnedFd>) {
        let Some(container) = self
            .containers
            .get(&id)
            .filter(|c| c.exit.is_none() && c.pid != 0)
        else {
            return answer(&socket, &Reply::NotFound);
        };
        let dir = container.spec.dir.join(files::EXECS).join(&exec_id);
        let prepared = match (tty, <[OwnedFd; 3]>::try_from(received)) {
            (true, _) => stdio::listen_for_console(&dir).map(|listener| (stdio::null_ends(), Some(listener))),
            (false, Ok([stdin, stdout, stderr])) => {
                let ends = stdio::Ends {
                    stdin: stdin.into(),
                    stdout: stdout.into(),
                    stderr: stderr.into(),
                };
                Ok((ends, None))
            }
            (false, Err(_)) => Err(io::ErrorKind::InvalidInput.into()),
        };
        let spawned = prepared.and_then(|(ends, console)| {
            let args = [Path::new("exec"), &container.spec.dir, &dir];
            Ok((helper(&args, &container.spec.dir, ends)?, console))
        });
        match spawned {
            Ok((helper, console)) => {
                let what = Launching::Exec { exec_id, console };
                self.launches.insert(
                    helper,
                    Launch {
                        container: id,
                        what,
                        socket,
                    },
                );
            }
            Err(error) => answer(&socket, &failed(error)),
        }
    }

    fn attach(&mut self, socket: UnixStream, id: String, stdin: bool, stdin_once: bool) {
        let running = self
            .containers
            .get(&id)
            .is_some_and(|container| container.exit.is_none());
        if !running {
            return answer(&socket, &Reply::NotFound);
        }
        answer(&socket, &Reply::Done);
        if socket.set_nonblocking(true).is_ok() {
            let kind = LinkKind::Attach {
                container: id,
                stdin,
                stdin_once,
                incoming: Vec::new(),
                outgoing: Vec::new(),
            };
            self.links.push(Link { socket, kind });
        }
    }

    fn kill(&mut self, id: &str, signal: i32) -> Reply {
        match self.containers.get_mut(id) {
            Some(container) if container.exit.is_some() => Reply::Done,
            // On its way: the signal waits for it.
            Some(container) if container.pid == 0 => {
                container.waiting_signal = Some(signal);
                Reply::Done
            }
            Some(container) => done(send_signal(container.pid, signal)),
            None => Reply::NotFound,
        }
    }

    fn resize(&self, id: &str, exec_id: Option<&str>, width: u16, height: u16) -> Reply {
        let size = rustix::termios::Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let set = |fd: &OwnedFd| done(rustix::termios::tcsetwinsize(fd, size).map_err(Into::into));
        let Some(wanted) = exec_id else {
            return self
                .containers
                .get(id)
                .and_then(|c| c.io.terminal())
                .map_or(Reply::NotFound, set);
        };
        let found = self.links.iter().find_map(|link| match &link.kind {
            LinkKind::Exec {
                container,
                exec_id,
                terminal,
                ..
            } if container == id && exec_id == wanted => terminal.as_ref(),
            _ => None,
        });
        found.map_or(Reply::NotFound, set)
    }

    /// Whoever deletes the pod's directory from under us has no more use for the pod, and no more way to say so.
    fn directory_changed(&mut self, buffer: &mut [u8]) {
        while rustix::io::read(&self.directory, &mut *buffer).is_ok_and(|got| got > 0) {}
        if !Path::new(files::SOCKET).exists() {
            self.shutdown();
        }
    }

    fn shutdown(&mut self) {
        let running = self
            .containers
            .values()
            .filter(|c| c.exit.is_none() && c.pid != 0);
        for pid in running.map(|c| c.pid).chain(self.pause_pid) {
            // Already gone is as good.
            send_signal(pid, Signal::SIGKILL as i32).ok();
        }
        self.done = true;
    }
}

fn helper(args: &[&Path], dir: &Path, ends: stdio::Ends) -> io::Result<i32> {
    let child = Command::new("/proc/self/exe")
        .args(pod::self_args())
        .args(args)
        .stdin(ends.stdin)
        .stdout(ends.stdout)
        .stderr(ends.stderr)
        .env_clear()
        .current_dir(dir)
        .spawn()?;
    Ok(i32::try_from(child.id()).expect("a pid is a positive i32"))
}

pub(super) fn answer(socket: &UnixStream, reply: &Reply) {
    // A client that left before its answer has asked for nothing that must be undone.
    write_frame(socket, reply, &[]).ok();
}

pub(super) fn failed(message: impl ToString) -> Reply {
    Reply::Failed {
        message: message.to_string(),
    }
}

fn done(result: io::Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => failed(error),
    }
}

fn send_sockets(socket: &UnixStream) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let make = |family| {
        socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
    };
    let Ok(v4) = make(AddressFamily::INET) else {
        return answer(socket, &failed("no IPv4 socket"));
    };
    let mut fds = vec![v4];
    // A kernel without IPv6 has only the one.
    fds.extend(make(AddressFamily::INET6).ok());
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    write_frame(socket, &Reply::Done, &borrowed).ok();
}

pub(super) fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    let pid = u32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    linux::Kernel
        .signal(pid, signal)
        .map(drop)
        .map_err(io::Error::other)
}
