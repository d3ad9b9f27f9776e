//! Channels over a WebSocket: each message begins with the number of its channel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt, Stream, StreamExt};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::BoxIo;
use super::channel::{Control, OUTGOING, Outgoing, Reader, Writer};
use super::forward::{Forward, Forwards};
use super::remote::{self, Options, StatusForm, Streams};
use crate::body::Body;

// Channel 0 is stdin; it is only read.
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;
/// Says that the channel named next has ended; from version 5 on.
const CLOSE: u8 = 255;
/// No message is larger; kubectl's own are 32 KiB.
const MAX_MESSAGE: usize = 4 << 20;
/// A body's messages are no larger.
const PIECE: usize = 32 << 10;
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

type Socket = WebSocketStream<BoxIo>;

async fn server(io: BoxIo) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .accept_unmasked_frames(false);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Where the messages of each channel go.
struct Channels {
    readers: Vec<Option<mpsc::Sender<Bytes>>>,
    sizes: Option<mpsc::Sender<remote::TerminalSize>>,
    base64: bool,
}

/// Exec and attach.
pub(super) async fn remote_command(
    io: BoxIo,
    protocol: &str,
    base64: bool,
    options: Options,
) -> io::Result<Streams> {
    let socket = server(io).await;
    let (stdin_sender, stdin) = Reader::new();
    let (sizes, resize) = mpsc::channel(4);
    let channels = Channels {
        readers: vec![options.stdin.then_some(stdin_sender)],
        sizes: options.tty.then_some(sizes),
        base64,
    };
    let (queue, closed) = run(socket, channels);
    // An empty message tells clients of all versions that the streams stand.
    let first = match (options.stdout, options.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    let hello = Outgoing::Data {
        stream: first,
        data: Bytes::new(),
        last: false,
    };
    queue.send(hello).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    let writer = |channel| Writer::new(channel, &queue).without_end();
    Ok(Streams {
        stdin: options.stdin.then_some(stdin),
        stdin_back: None,
        stdout: options.stdout.then(|| writer(STDOUT)),
        stderr: options.stderr.then(|| writer(STDERR)),
        resize,
        status: writer(ERROR),
        form: StatusForm::of(protocol),
        closed,
    })
}

/// Port-forward: for each port two channels, data and error, both begun with the port's number.
pub(super) async fn port_forward(io: BoxIo, base64: bool, ports: &[u16]) -> io::Result<Forwards> {
    let socket = server(io).await;
    let mut readers = Vec::new();
    let mut halves = Vec::new();
    for port in ports {
        let (sender, reader) = Reader::new();
        readers.extend([Some(sender), None]);
        halves.push((*port, reader));
    }
    let (queue, closed) = run(
        socket,
        Channels {
            readers,
            sizes: None,
            base64,
        },
    );
    let (sender, incoming) = mpsc::channel(halves.len().max(1));
    for (index, (port, reader)) in halves.into_iter().enumerate() {
        let data = 2 * u32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        for channel in [data, data + 1] {
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            let message = Outgoing::Data {
                stream: channel,
                data: number,
                last: false,
            };
            queue.send(message).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        let writer = |channel| Writer::new(channel, &queue).without_end();
        let forward = Forward {
            port,
            reader,
            writer: writer(data),
            error: writer(data + 1),
        };
        sender
            .send(forward)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
    Ok(Forwards::new(incoming, closed))
}

/// Starts the two tasks of a connection with channels.
fn run(socket: Socket, channels: Channels) -> (mpsc::Sender<Outgoing>, CancellationToken) {
    let (queue, outgoing) = mpsc::channel(OUTGOING);
    let closed = CancellationToken::new();
    let (sink, stream) = socket.split();
    let base64 = channels.base64;
    tokio::spawn(read_in(stream, channels, queue.downgrade(), closed.clone()));
    tokio::spawn(write_out(sink, outgoing, base64, closed.clone()));
    (queue, closed)
}

async fn read_in(
    mut stream: SplitStream<Socket>,
    mut channels: Channels,
    queue: mpsc::WeakSender<Outgoing>,
    closed: CancellationToken,
) {
    while let Some(Ok(message)) = stream.next().await {
        let payload = match message {
            Message::Binary(payload) => payload,
            Message::Text(text) => Bytes::from(text),
            Message::Ping(payload) => {
                if let Some(queue) = queue.upgrade() {
                    // The writing side gone means the connection is.
                    queue.send(Outgoing::Control(Control::Pong(payload))).await.ok();
                }
                continue;
            }
            Message::Close(_) => break,
            Message::Pong(_) | Message::Frame(_) => continue,
        };
        channels.message(payload).await;
    }
    closed.cancel();
}

impl Channels {
    async fn message(&mut self, mut payload: Bytes) {
        let Some(first) = payload.first().copied() else {
            return;
        };
        payload.advance(1);
        if first == CLOSE && !self.base64 {
            let ended = payload.first().map(|channel| usize::from(*channel));
            if let Some(reader) = ended.and_then(|channel| self.readers.get_mut(channel)) {
                *reader = None;
            }
            return;
        }
        let channel = match self.base64 {
            // A digit, so that the message stays text.
            true => u32::from(first.wrapping_sub(b'0')),
            false => u32::from(first),
        };
        if self.base64 {
            let Ok(decoded) = BASE64.decode(&payload) else {
                return;
            };
            payload = decoded.into();
        }
        if channel == RESIZE
            && let Some(sizes) = &self.sizes
        {
            if let Some(size) = remote::parse_size(&payload) {
                // Nobody with a terminal listens any more.
                sizes.send(size).await.ok();
            }
            return;
        }
        let reader = usize::try_from(channel)
            .ok()
            .and_then(|channel| self.readers.get(channel));
        if let Some(Some(reader)) = reader.filter(|_| !payload.is_empty()) {
            // A reader that was dropped wants nothing more.
            reader.send(payload).await.ok();
        }
    }
}

async fn write_out(
    mut sink: SplitSink<Socket, Message>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    base64: bool,
    closed: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            next = outgoing.recv() => next,
            () = closed.cancelled() => return,
        };
        let Some(message) = next else { break };
        let message = match message {
            Outgoing::Data { stream, data, .. } => encode(stream, &data, base64),
            Outgoing::Control(Control::Pong(payload)) => Message::Pong(payload),
            Outgoing::Control(_) => continue,
        };
        let sent = match outgoing.is_empty() {
            true => sink.send(message).await,
            // More waits: it goes out together.
            false => sink.feed(message).await,
        };
        if sent.is_err() {
            return closed.cancel();
        }
    }
    // Everybody here is done; the client answers our goodbye, or is given up.
    // Clients take anything but a normal closure for a broken connection.
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    if sink.send(Message::Close(Some(normal))).await.is_ok() {
        tokio::time::timeout(LINGER, closed.cancelled()).await.ok();
    }
    closed.cancel();
}

fn encode(channel: u32, data: &[u8], base64: bool) -> Message {
    // Channels are few: a byte, or a digit, holds them.
    let number = u8::try_from(channel).unwrap_or(u8::MAX);
    if base64 {
        return Message::text(format!(
            "{}{}",
            char::from(b'0'.saturating_add(number)),
            BASE64.encode(data)
        ));
    }
    let mut payload = BytesMut::with_capacity(data.len() + 1);
    payload.put_u8(number);
    payload.put_slice(data);
    Message::Binary(payload.freeze())
}

/// A body, a message for each of its frames.
pub(super) async fn body(io: BoxIo, base64: bool, mut body: Body) -> io::Result<()> {
    let mut socket = server(io).await;
    let message = |data: Bytes| match base64 {
        true => Message::text(BASE64.encode(data)),
        false => Message::Binary(data),
    };
    // An empty message tells the client that the stream stands.
    socket.send(message(Bytes::new())).await.map_err(to_io)?;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // Nothing is expected from the client but its end.
            said = socket.next() => match said {
                None | Some(Ok(Message::Close(_)) | Err(_)) => return Ok(()),
                Some(Ok(_)) => continue,
            },
        };
        match frame {
            None => break,
            Some(frame) => {
                let Ok(data) = frame.map_err(io::Error::other)?.into_data() else {
                    continue;
                };
                for piece in data.chunks(PIECE) {
                    socket.send(message(data.slice_ref(piece))).await.map_err(to_io)?;
                }
            }
        }
    }
    socket.close(None).await.map_err(to_io)
}

/// The bytes inside a WebSocket's messages, as a connection.
pub(super) async fn tunnel(io: BoxIo) -> BoxIo {
    Box::new(Tunnel {
        socket: server(io).await,
        left: Bytes::new(),
    })
}

struct Tunnel {
    socket: Socket,
    left: Bytes,
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            let next = ready!(Pin::new(&mut self.socket).poll_next(cx));
            match next {
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(payload))) => self.left = payload,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let len = self.left.len().min(buffer.remaining());
        buffer.put_slice(&self.left[..len]);
        self.left.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(to_io)?;
        let message = Message::Binary(Bytes::copy_from_slice(data));
        Pin::new(&mut self.socket).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(to_io)
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::remote::{Outcome, TerminalSize};
    use super::*;

    async fn client(io: tokio::io::DuplexStream) -> WebSocketStream<tokio::io::DuplexStream> {
        WebSocketStream::from_raw_socket(io, Role::Client, None).await
    }

    fn binary(bytes: &[u8]) -> Message {
        Message::Binary(Bytes::copy_from_slice(bytes))
    }

    #[tokio::test]
    async fn a_command_over_version_5() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let talk = async {
            let mut socket = client(theirs).await;
            assert_eq!(socket.next().await.unwrap().unwrap(), binary(&[1]));
            socket
                .send(binary(b"\x04{\"Width\":80,\"Height\":24}"))
                .await
                .unwrap();
            socket.send(binary(b"\x00typed")).await.unwrap();
            socket.send(binary(&[255, 0])).await.unwrap();
            let (mut out, mut status) = (Vec::new(), Vec::new());
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(data) if data[0] == 1 => out.extend_from_slice(&data[1..]),
                    Message::Binary(data) if data[0] == 3 => status.extend_from_slice(&data[1..]),
                    _ => {}
                }
            }
            (out, String::from_utf8(status).unwrap())
        };
        let serve = async {
            let options = Options {
                stdin: true,
                stdout: true,
                stderr: false,
                tty: true,
            };
            let mut streams = remote_command(Box::new(ours), "v5.channel.k8s.io", false, options)
                .await
                .unwrap();
            assert_eq!(
                streams.resize.recv().await,
                Some(TerminalSize {
                    width: 80,
                    height: 24
                })
            );
            let mut typed = String::new();
            streams
                .stdin
                .take()
                .unwrap()
                .read_to_string(&mut typed)
                .await
                .unwrap();
            streams
                .stdout
                .as_mut()
                .unwrap()
                .write_all(typed.to_uppercase().as_bytes())
                .await
                .unwrap();
            streams.finish(Outcome::Success).await.unwrap();
        };
        let ((out, status), ()) = tokio::join!(talk, serve);
        assert_eq!(out, b"TYPED");
        assert_eq!(status, r#"{"metadata":{},"status":"Success"}"#);
    }

    #[tokio::test]
    async fn base64_channels_are_text() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let talk = async {
            let mut socket = client(theirs).await;
            socket
                .send(Message::text(format!("0{}", BASE64.encode("in"))))
                .await
                .unwrap();
            let mut seen = Vec::new();
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(text) = message {
                    seen.push(text.to_string());
                }
            }
            seen
        };
        let serve = async {
            let options = Options {
                stdin: true,
                stdout: true,
                stderr: true,
                tty: false,
            };
            let mut streams = remote_command(Box::new(ours), "base64.channel.k8s.io", true, options)
                .await
                .unwrap();
            let mut typed = [0; 2];
            streams
                .stdin
                .as_mut()
                .unwrap()
                .read_exact(&mut typed)
                .await
                .unwrap();
            streams.stderr.as_mut().unwrap().write_all(&typed).await.unwrap();
            streams.finish(Outcome::Failed("broken".into())).await.unwrap();
        };
        let (seen, ()) = tokio::join!(talk, serve);
        assert_eq!(
            seen,
            [
                "1".to_owned(),
                format!("2{}", BASE64.encode("in")),
                format!("3{}", BASE64.encode("broken"))
            ]
        );
    }

    #[tokio::test]
    async fn ports_have_two_channels_each() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let talk = async {
            let mut socket = client(theirs).await;
            for (channel, port) in [(0_u8, 80_u16), (1, 80), (2, 443), (3, 443)] {
                let mut expected = vec![channel];
                expected.extend(port.to_le_bytes());
                assert_eq!(socket.next().await.unwrap().unwrap(), binary(&expected));
            }
            socket.send(binary(b"\x02ping")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), binary(b"\x02pong"));
        };
        let serve = async {
            let mut forwards = port_forward(Box::new(ours), false, &[80, 443]).await.unwrap();
            let _first = forwards.next().await.unwrap();
            let mut second = forwards.next().await.unwrap();
            let mut ping = [0; 4];
            second.reader.read_exact(&mut ping).await.unwrap();
            second.writer.write_all(b"pong").await.unwrap();
            forwards.closed.cancelled().await;
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn spdy_goes_through_a_tunnel() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let talk = async {
            let socket =
                WebSocketStream::from_raw_socket(Box::new(theirs) as BoxIo, Role::Client, None).await;
            let tunnel = Tunnel {
                socket,
                left: Bytes::new(),
            };
            let mut connection = super::super::spdy::Connection::client(Box::new(tunnel));
            let headers = |kind| [("streamtype", kind), ("port", "80"), ("requestid", "0")];
            let _error = connection.open(&headers("error")).await.unwrap();
            let mut data = connection.open(&headers("data")).await.unwrap();
            data.writer
                .write_all(&b"0123456789".repeat(10_000))
                .await
                .unwrap();
            data.writer.shutdown().await.unwrap();
            let mut back = Vec::new();
            data.reader.read_to_end(&mut back).await.unwrap();
            back.len()
        };
        let serve = async {
            let mut forwards = super::super::forward::over_spdy(tunnel(Box::new(ours)).await);
            let mut one = forwards.next().await.unwrap();
            tokio::io::copy(&mut one.reader, &mut one.writer).await.unwrap();
            one.writer.shutdown().await.unwrap();
        };
        let (back, ()) = tokio::join!(talk, serve);
        assert_eq!(back, 100_000);
    }
}
