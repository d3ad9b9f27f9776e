//! The shim's loop: one thread, one `poll`, no timer.
//!
//! **Invariant:** an exit is on disk before anybody hears of it, and the container's last output is in its
//! log before that.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use linux::process::Processes;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{WaitOptions, WaitStatus};

use super::launch::Outcome;
use super::protocol::{
    ContainerState, Event, Exit, Reply, Request, StartSpec, State, data, read_frame, write_frame,
};
use super::stdio::{self, ContainerIo, READ};
use super::{files, log, pod};

/// Patience with a runtime that has begun to speak; it is on this machine.
const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// An attached client that has this much unread holds the container's output back.
const ATTACH_BACKLOG: usize = 64 * 1024;

pub(super) struct Server {
    listener: UnixListener,
    signals: SignalFd,
    pause_pid: Option<i32>,
    containers: HashMap<String, Container>,
    /// Helpers at work, by their pid.
    launches: HashMap<i32, Launch>,
    /// Ends of processes whose helper has not told us yet whose they are.
    unclaimed: HashMap<i32, WaitStatus>,
    links: Vec<Link>,
    done: bool,
}

struct Container {
    spec: StartSpec,
    io: ContainerIo,
    pid: i32,
    exit: Option<Exit>,
}

/// A helper process and who waits for what it comes to.
struct Launch {
    container: String,
    what: Launching,
    socket: UnixStream,
}

enum Launching {
    Container,
    Exec {
        exec_id: String,
        console: Option<UnixListener>,
    },
}

/// A connection that stays.
struct Link {
    socket: UnixStream,
    kind: LinkKind,
}

enum LinkKind {
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

/// What a poll entry belongs to.
#[derive(Clone, Copy)]
enum Source<'a> {
    Signals,
    Listener,
    Output(&'a str, usize),
    Input(&'a str),
    Link(usize),
}

#[derive(Clone)]
enum Ready {
    Signals,
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
        Ok(Server {
            listener,
            signals,
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
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
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

    fn kill(&self, id: &str, signal: i32) -> Reply {
        match self.containers.get(id) {
            Some(container) if container.exit.is_none() && container.pid != 0 => {
                match send_signal(container.pid, signal) {
                    Ok(()) => Reply::Done,
                    Err(error) => failed(error),
                }
            }
            // It has ended, which is all a signal could ask for.
            Some(_) => Reply::Done,
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

    // === children ===

    fn reap(&mut self, buffer: &mut [u8]) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if let Some(launch) = self.launches.remove(&pid) {
                self.launched(launch, buffer);
            } else if !self.ended(pid, status, buffer) && !self.launches.is_empty() {
                self.unclaimed.insert(pid, status);
            }
        }
        if self.launches.is_empty() {
            self.unclaimed.clear();
        }
    }

    fn launched(&mut self, launch: Launch, buffer: &mut [u8]) {
        let Launch {
            container: id,
            what,
            socket,
        } = launch;
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let dir = match &what {
            Launching::Container => container.spec.dir.clone(),
            Launching::Exec { exec_id, .. } => container.spec.dir.join(files::EXECS).join(exec_id),
        };
        let pid = match Outcome::take(&dir) {
            Outcome::Started { pid } => pid,
            Outcome::Failed { message } => {
                if let Launching::Container = what {
                    container.io.finish(Timestamp::now());
                    self.containers.remove(&id);
                }
                return answer(&socket, &failed(message));
            }
        };
        match what {
            Launching::Container => {
                container.pid = pid;
                let reply = match container.io.started(container.spec.stdin) {
                    Ok(()) => Reply::Started { pid },
                    Err(error) => {
                        send_signal(pid, Signal::SIGKILL as i32).ok();
                        failed(error)
                    }
                };
                answer(&socket, &reply);
            }
            Launching::Exec { exec_id, console } => {
                let terminal = match console.map(|listener| stdio::take_console(&listener)).transpose() {
                    Ok(terminal) => terminal,
                    Err(error) => {
                        send_signal(pid, Signal::SIGKILL as i32).ok();
                        return answer(&socket, &failed(error));
                    }
                };
                let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                // A client that left is noticed when its connection is polled.
                write_frame(&socket, &Reply::Started { pid }, &fds).ok();
                self.links.push(Link {
                    socket,
                    kind: LinkKind::Exec {
                        container: id,
                        exec_id,
                        pid,
                        terminal,
                    },
                });
            }
        }
        if let Some(status) = self.unclaimed.remove(&pid) {
            self.ended(pid, status, buffer);
        }
    }

    /// Handles the end of a process that is ours; `false` when it is not known (yet).
    fn ended(&mut self, pid: i32, status: WaitStatus, buffer: &mut [u8]) -> bool {
        let code = exit_code(status);
        for link in &mut self.links {
            if let LinkKind::Exec { pid: exec_pid, .. } = link.kind
                && exec_pid == pid
            {
                // The client may be gone; then nobody wants the code.
                write_frame(&link.socket, &Event::ExecExited { code }, &[]).ok();
                link.kind = LinkKind::Gone;
                return true;
            }
        }
        let Some(id) = self
            .containers
            .iter()
            .find(|(_, c)| c.pid == pid && c.exit.is_none())
            .map(|(id, _)| id.clone())
        else {
            return false;
        };
        self.container_ended(&id, code, buffer);
        true
    }

    fn container_ended(&mut self, id: &str, code: i32, buffer: &mut [u8]) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        if let Some(cgroup) = &container.spec.kill_cgroup {
            kill_all(cgroup);
        }
        self.drain(id, buffer);
        let now = Timestamp::now();
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.io.finish(now);
        let oom_killed = container.spec.oom_file.as_deref().is_some_and(was_oom_killed);
        let at = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        let exit = Exit {
            code,
            at,
            oom_killed,
            message: String::new(),
        };
        container.exit = Some(exit.clone());
        // If the disk is full the runtime still learns it from our memory.
        write_exit(&container.spec.dir, &exit).ok();
        self.tell(&Event::Exited {
            id: id.to_owned(),
            exit,
        });
        for link in &mut self.links {
            if matches!(&link.kind, LinkKind::Attach { container, .. } if container == id) {
                flush_and_close(link);
            }
        }
    }

    /// Takes what the ended container left in its pipes.
    fn drain(&mut self, id: &str, buffer: &mut [u8]) {
        let count = self
            .containers
            .get(id)
            .map_or(0, |container| container.io.outputs.len());
        for index in (0..count).rev() {
            while self.pump(id, index, buffer) {}
        }
    }

    fn tell(&mut self, event: &Event) {
        for link in &mut self.links {
            if matches!(link.kind, LinkKind::Subscriber) && write_frame(&link.socket, event, &[]).is_err() {
                link.kind = LinkKind::Gone;
            }
        }
    }

    // === data ===

    fn output(&mut self, id: &str, index: usize, buffer: &mut [u8]) {
        self.pump(id, index, buffer);
    }

    /// Moves one read's worth from a container to its log and its clients; `false` when there was nothing.
    fn pump(&mut self, id: &str, index: usize, buffer: &mut [u8]) -> bool {
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

    fn input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.io.input.as_mut().is_some_and(|input| !input.flush()) {
            container.io.input = None;
        }
    }

    fn link(&mut self, index: usize, events: PollFlags, buffer: &mut [u8]) {
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

    fn attach_input(&mut self, index: usize, buffer: &mut [u8]) {
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
    fn stdin_ended(&mut self, index: usize) {
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

    fn detach(&mut self, index: usize) {
        self.stdin_ended(index);
        self.links[index].kind = LinkKind::Gone;
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

fn answer(socket: &UnixStream, reply: &Reply) {
    // A client that left before its answer has asked for nothing that must be undone.
    write_frame(socket, reply, &[]).ok();
}

fn failed(message: impl ToString) -> Reply {
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

/// The container is over: what its clients have not read yet is given to them, with limited patience.
fn flush_and_close(link: &mut Link) {
    if let LinkKind::Attach { outgoing, .. } = &mut link.kind
        && !outgoing.is_empty()
        && link.socket.set_nonblocking(false).is_ok()
    {
        flush(&link.socket, outgoing).ok();
    }
    link.kind = LinkKind::Gone;
}

/// A child is ours until we reap it, so its number cannot have passed to another process.
fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    let pid = u32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    linux::Kernel
        .signal(pid, signal)
        .map(drop)
        .map_err(io::Error::other)
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

fn was_oom_killed(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| {
        line.strip_prefix("oom_kill ")
            .is_some_and(|count| count.trim() != "0")
    })
}

fn kill_all(cgroup: &PathBuf) {
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        send_signal(pid, Signal::SIGKILL as i32).ok();
    }
}

fn write_exit(dir: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = dir.join("exit.json.new");
    std::fs::write(&temporary, serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, dir.join(files::EXIT))
}
