//! One exec, attach or port-forward, from the upgrade to its end.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpSocket, TcpStream};
use wire::streams::{BoxIo, Forward, Options, Outcome, Reader, Streams, Upgrade, Writer};

use super::streaming::Task;
use crate::pods::{Container, Engine, ExecStreams, Wanted};
use crate::shim::protocol::data;

/// As much as is moved at once.
const CHUNK: usize = 32 * 1024;

pub(super) async fn run(engine: &Arc<Engine>, task: Task, upgrade: &Upgrade, io: BoxIo) -> io::Result<()> {
    match task {
        Task::Exec(request) => exec(engine, request, upgrade, io).await,
        Task::Attach(request) => attach(engine, request, upgrade, io).await,
        Task::PortForward(request) => port_forward(engine, request, upgrade, io).await,
    }
}

// === exec ===

async fn exec(engine: &Arc<Engine>, request: ExecRequest, upgrade: &Upgrade, io: BoxIo) -> io::Result<()> {
    let options = Options {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        tty: request.tty,
    };
    let mut streams = upgrade.remote_command(io, options).await?;
    let wanted = Wanted {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let started = match engine.running(&request.container_id) {
        Ok(container) => {
            let exec = engine.exec(&container, &request.cmd, request.tty, wanted).await;
            exec.map(|exec| (container, exec))
        }
        Err(status) => Err(status),
    };
    let (container, mut exec) = match started {
        Ok(started) => started,
        Err(status) => {
            let why = format!("error executing command in container: {}", status.message());
            return streams.finish(Outcome::Failed(why)).await;
        }
    };
    let closed = streams.closed.clone();
    let outcome = tokio::select! {
        outcome = drive(engine, &container, &mut exec, &mut streams, &request.cmd) => Some(outcome),
        // Nobody is there any more. Dropping the exec ends the process.
        () = closed.cancelled() => None,
    };
    engine.forget_exec(&container, &exec.id);
    match outcome {
        Some(outcome) => streams.finish(outcome?).await,
        None => Ok(()),
    }
}

async fn drive(
    engine: &Arc<Engine>,
    container: &Container,
    exec: &mut ExecStreams,
    streams: &mut Streams,
    command: &[String],
) -> io::Result<Outcome> {
    let (stdin, stdout, stderr) = match exec.process.terminal.take() {
        Some(master) => {
            let (reader, writer) = terminal(master)?;
            (Some(writer), Some(reader), None)
        }
        None => (exec.stdin.take(), exec.stdout.take(), exec.stderr.take()),
    };
    let input = feed(streams.stdin.take(), stdin);
    let sizes = resizing(engine, container, Some(&exec.id), &mut streams.resize);
    let output = async {
        tokio::join!(
            pour(stdout, streams.stdout.as_mut()),
            pour(stderr, streams.stderr.as_mut())
        );
        exec.process.wait().await
    };
    let code = tokio::select! {
        code = output => code,
        // These two end at the client's pleasure and never by themselves.
        never = async { tokio::join!(input, sizes) } => match never {},
    };
    Ok(match code {
        Ok(0) => Outcome::Success,
        Ok(code) => Outcome::ExitCode {
            code,
            command: command.to_vec(),
        },
        Err(error) => Outcome::Failed(format!(
            "error executing command in container: {}",
            crate::images::describe(&error)
        )),
    })
}

/// A terminal's master side, to read and to write.
fn terminal(master: OwnedFd) -> io::Result<(pipe::Receiver, pipe::Sender)> {
    let flags = rustix::fs::fcntl_getfl(&master)?;
    rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
    let twin = master.try_clone()?;
    // Not pipes, but read, written and waited for as pipes are.
    Ok((
        pipe::Receiver::from_owned_fd_unchecked(master)?,
        pipe::Sender::from_owned_fd_unchecked(twin)?,
    ))
}

/// Client to process, until either ends; then waits for ever, because the process's end is what counts.
async fn feed(from: Option<Reader>, to: Option<pipe::Sender>) -> std::convert::Infallible {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        // A process that does not read its input to the end is none of our business.
        tokio::io::copy(&mut from, &mut to).await.ok();
    }
    std::future::pending().await
}

/// Process to client, until the process's end of it is closed.
async fn pour<R: AsyncRead + Unpin>(from: Option<R>, to: Option<&mut Writer>) {
    let Some(mut from) = from else { return };
    // A terminal ends with an error, and a client that is gone is noticed elsewhere.
    match to {
        Some(to) => tokio::io::copy(&mut from, to).await.ok(),
        None => tokio::io::copy(&mut from, &mut tokio::io::sink()).await.ok(),
    };
}

async fn resizing(
    engine: &Arc<Engine>,
    container: &Container,
    exec_id: Option<&str>,
    sizes: &mut tokio::sync::mpsc::Receiver<wire::streams::TerminalSize>,
) -> std::convert::Infallible {
    while let Some(size) = sizes.recv().await {
        engine.resize(container, exec_id, size.width, size.height).await;
    }
    std::future::pending().await
}

// === attach ===

async fn attach(
    engine: &Arc<Engine>,
    request: AttachRequest,
    upgrade: &Upgrade,
    io: BoxIo,
) -> io::Result<()> {
    let options = Options {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        tty: request.tty,
    };
    let mut streams = upgrade.remote_command(io, options).await?;
    let joined = match engine.running(&request.container_id) {
        Ok(container) => engine
            .attach(&container, request.stdin)
            .await
            .map(|socket| (container, socket)),
        Err(status) => Err(status),
    };
    let (container, socket) = match joined {
        Ok(joined) => joined,
        Err(status) => {
            let why = format!("error attaching to container: {}", status.message());
            return streams.finish(Outcome::Failed(why)).await;
        }
    };
    let (mut from_container, to_container) = socket.into_split();
    let closed = streams.closed.clone();
    let ended = {
        let input = frame_input(streams.stdin.take(), to_container);
        let sizes = resizing(engine, &container, None, &mut streams.resize);
        let output = split_output(&mut from_container, &mut streams.stdout, &mut streams.stderr);
        tokio::select! {
            ended = output => Some(ended),
            never = async { tokio::join!(input, sizes) } => match never {},
            () = closed.cancelled() => None,
        }
    };
    match ended {
        Some(Ok(())) => streams.finish(Outcome::Success).await,
        Some(Err(error)) => {
            streams
                .finish(Outcome::Failed(format!("error attaching to container: {error}")))
                .await
        }
        None => Ok(()),
    }
}

/// The shim's frames to the client's streams, until the container ends.
async fn split_output(
    from: &mut (impl AsyncRead + Unpin),
    stdout: &mut Option<Writer>,
    stderr: &mut Option<Writer>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let mut header = [0; data::HEADER];
        match from.read_exact(&mut header).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let [kind, length @ ..] = header;
        buffer.resize(u32::from_be_bytes(length) as usize, 0);
        from.read_exact(&mut buffer).await?;
        let stream = match kind {
            data::STDOUT => &mut *stdout,
            _ => &mut *stderr,
        };
        if let Some(stream) = stream {
            stream.write_all(&buffer).await?;
        }
    }
}

async fn frame_input(from: Option<Reader>, mut to: impl AsyncWrite + Unpin) -> std::convert::Infallible {
    if let Some(mut from) = from {
        let mut buffer = vec![0; CHUNK];
        loop {
            // An input that ends in an error has ended.
            let got = from.read(&mut buffer).await.unwrap_or(0);
            let kind = if got == 0 { data::CLOSE_STDIN } else { data::STDIN };
            let sent = async {
                to.write_all(&data::header(kind, got)).await?;
                to.write_all(&buffer[..got]).await
            };
            if sent.await.is_err() || got == 0 {
                break;
            }
        }
    }
    // Kept open: the connection's end would end the attachment.
    let never = std::future::pending().await;
    drop(to);
    never
}

// === port-forward ===

async fn port_forward(
    engine: &Arc<Engine>,
    request: PortForwardRequest,
    upgrade: &Upgrade,
    io: BoxIo,
) -> io::Result<()> {
    let ports: Vec<u16> = request
        .port
        .iter()
        .filter_map(|port| u16::try_from(*port).ok())
        .collect();
    let mut forwards = upgrade.port_forward(io, &ports).await?;
    let closed = forwards.closed.clone();
    while let Some(forward) = forwards.next().await {
        let (engine, pod_id, closed) = (engine.clone(), request.pod_sandbox_id.clone(), closed.clone());
        tokio::spawn(async move {
            tokio::select! {
                ended = carry(&engine, &pod_id, forward) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a forwarded connection ended");
                    }
                }
                () = closed.cancelled() => {}
            }
        });
    }
    Ok(())
}

async fn carry(engine: &Arc<Engine>, pod_id: &str, mut forward: Forward) -> io::Result<()> {
    let port = forward.port;
    let mut stream = match connect(engine, pod_id, port).await {
        Ok(stream) => stream,
        Err(why) => {
            return forward
                .fail(&format!(
                    "error forwarding port {port} to pod {pod_id}, uid : {why}"
                ))
                .await;
        }
    };
    let (mut from_pod, mut to_pod) = stream.split();
    let input = async {
        // The client's end is passed on; the answer may still come.
        tokio::io::copy(&mut forward.reader, &mut to_pod).await.ok();
        to_pod.shutdown().await.ok();
        std::future::pending::<std::convert::Infallible>().await
    };
    let output = tokio::io::copy(&mut from_pod, &mut forward.writer);
    let ended = tokio::select! {
        ended = output => ended,
        never = input => match never {},
    };
    forward.writer.shutdown().await?;
    ended.map(drop)
}

/// Connects to a port of the pod's own loopback, IPv4 first.
async fn connect(engine: &Arc<Engine>, pod_id: &str, port: u16) -> Result<TcpStream, String> {
    let pod = engine.pod(pod_id).map_err(|status| status.message().to_owned())?;
    let sockets = pod
        .shim
        .sockets()
        .await
        .map_err(|error| crate::images::describe(&error))?;
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let mut problems = Vec::new();
    for (socket, address) in sockets.into_iter().zip(addresses) {
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        match socket.connect(address).await {
            Ok(stream) => {
                // Small messages must not wait for each other.
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Err(error) => {
                let version = if address.is_ipv4() { 4 } else { 6 };
                let why = crate::images::errno_text(&error);
                problems.push(format!(
                    "IPv{version}: dial tcp{version} {address}: connect: {why}"
                ));
            }
        }
    }
    Err(format!(
        "failed to connect to localhost:{port} inside namespace of pod {pod_id}, {}",
        problems.join(", ")
    ))
}
