//! A connection and its streams: one task reads, one writes.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Frame};
use super::headers::{Headers, Packer, Unpacker};
use crate::streams::BoxIo;
use crate::streams::channel::{Control, OUTGOING, Outgoing, Reader, Writer};

/// As many streams at once as a connection may have.
const MAX_STREAMS: usize = 1024;
/// How long a peer may go on sending after we have said our last.
const LINGER: Duration = Duration::from_secs(5);

/// One end of a SPDY connection.
#[derive(Debug)]
pub struct Connection {
    incoming: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    next_id: u32,
}

/// A stream that was opened by either side.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    headers: Headers,
    pub reader: Reader,
    pub writer: Writer,
}

#[derive(Debug)]
struct Shared {
    /// Where each stream's data goes, until its end has come.
    readers: Mutex<HashMap<u32, mpsc::Sender<Bytes>>>,
    closed: CancellationToken,
}

impl Stream {
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Connection {
    /// The side that answered the upgrade.
    pub fn server(io: BoxIo) -> Connection {
        Connection::new(io, 2)
    }

    /// The side that asked for it.
    pub fn client(io: BoxIo) -> Connection {
        Connection::new(io, 1)
    }

    fn new(io: BoxIo, first_id: u32) -> Connection {
        let (read, write) = tokio::io::split(io);
        let (queue, outgoing) = mpsc::channel(OUTGOING);
        let (accepted, incoming) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            readers: Mutex::default(),
            closed: CancellationToken::new(),
        });
        let reading = Reading {
            read,
            shared: shared.clone(),
            queue: queue.downgrade(),
            accepted,
            pings: if first_id == 1 { 0 } else { 1 },
        };
        tokio::spawn(reading.run());
        tokio::spawn(write_out(write, outgoing, shared.clone()));
        Connection {
            incoming,
            shared,
            queue,
            next_id: first_id,
        }
    }

    /// The next stream the peer opens; `None` when the connection is over.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Opens a stream.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let id = self.next_id;
        self.next_id += 2;
        let (sender, reader) = Reader::new();
        self.shared.readers.lock().insert(id, sender);
        let headers: Headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let open = Outgoing::Control(Control::Open {
            stream: id,
            headers: headers.clone(),
        });
        self.queue
            .send(open)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(Stream {
            id,
            headers,
            reader,
            writer: Writer::new(id, &self.queue),
        })
    }

    /// Cancelled when the connection is over.
    pub fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }
}

struct Reading {
    read: ReadHalf<BoxIo>,
    shared: Arc<Shared>,
    /// Weak: the connection ends when nobody has a stream of it any more.
    queue: mpsc::WeakSender<Outgoing>,
    accepted: mpsc::Sender<Stream>,
    /// Whether pings of the peer have odd numbers (1) or even ones (0); the others are answers to ours.
    pings: u32,
}

impl Reading {
    async fn run(mut self) {
        let closed = self.shared.closed.clone();
        // Whatever ends it, it is over for all streams.
        if let Err(error) = self.frames().await {
            tracing::debug!(%error, "SPDY connection ends");
        }
        closed.cancel();
        self.shared.readers.lock().clear();
    }

    async fn frames(&mut self) -> io::Result<()> {
        let mut unpacker = Unpacker::new();
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            while let Some(frame) = frame::decode(&mut buffer, &mut unpacker)? {
                if let Frame::GoAway = frame {
                    return Ok(());
                }
                self.frame(frame).await?;
            }
            buffer.reserve(16 * 1024);
            if self.read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Open {
                stream,
                last,
                headers,
            } => self.opened(stream, last, headers).await,
            Frame::Data { stream, last, data } => {
                let reader = match last {
                    true => self.shared.readers.lock().remove(&stream),
                    false => self.shared.readers.lock().get(&stream).cloned(),
                };
                if let Some(reader) = reader.filter(|_| !data.is_empty()) {
                    // A reader that was dropped wants nothing more.
                    reader.send(data).await.ok();
                }
                Ok(())
            }
            Frame::Reply { stream, last: true } | Frame::Reset { stream } => {
                self.shared.readers.lock().remove(&stream);
                Ok(())
            }
            Frame::Ping { id } if id % 2 == self.pings => {
                tell(
                    &self.queue,
                    Control::Pong(Bytes::copy_from_slice(&id.to_be_bytes())),
                )
                .await;
                Ok(())
            }
            Frame::Reply { .. } | Frame::Ping { .. } | Frame::GoAway | Frame::Other => Ok(()),
        }
    }

    async fn opened(&mut self, id: u32, last: bool, headers: Headers) -> io::Result<()> {
        let Some(queue) = self.queue.upgrade() else {
            return Ok(());
        };
        let (sender, reader) = Reader::new();
        if !self.register(id, (!last).then_some(sender)) {
            tell(&self.queue, Control::Reset { stream: id }).await;
            return Ok(());
        }
        tell(&self.queue, Control::Reply { stream: id }).await;
        let stream = Stream {
            id,
            headers,
            reader,
            writer: Writer::new(id, &queue),
        };
        // Nobody accepts any more: the stream is ended by being dropped.
        self.accepted.send(stream).await.ok();
        Ok(())
    }

    /// Notes where a new stream's data goes; `false` when there can be no such stream.
    fn register(&self, id: u32, sender: Option<mpsc::Sender<Bytes>>) -> bool {
        let mut readers = self.shared.readers.lock();
        let fits = !readers.contains_key(&id) && readers.len() < MAX_STREAMS;
        if let Some(sender) = sender.filter(|_| fits) {
            readers.insert(id, sender);
        }
        fits
    }
}

async fn tell(queue: &mpsc::WeakSender<Outgoing>, control: Control) {
    if let Some(queue) = queue.upgrade() {
        // The writing side gone means the connection is.
        queue.send(Outgoing::Control(control)).await.ok();
    }
}

async fn write_out(mut write: WriteHalf<BoxIo>, mut outgoing: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    let mut packer = Packer::new();
    let mut out = BytesMut::with_capacity(32 * 1024);
    let mut last_stream = 0;
    loop {
        let next = tokio::select! {
            next = outgoing.recv() => next,
            () = shared.closed.cancelled() => return,
        };
        let Some(mut message) = next else { break };
        loop {
            if let Outgoing::Control(Control::Reply { stream }) = &message {
                last_stream = *stream;
            }
            if encode(&mut out, &mut packer, message).is_err() {
                return shared.closed.cancel();
            }
            if out.len() >= 64 * 1024 {
                break;
            }
            // What waits already goes in the same write.
            match outgoing.try_recv() {
                Ok(more) => message = more,
                Err(_) => break,
            }
        }
        if write.write_all(&out).await.is_err() || write.flush().await.is_err() {
            return shared.closed.cancel();
        }
        out.clear();
    }
    // Everybody here is done. The peer's unread words would turn our close into a reset that may overtake
    // the last of ours, so it gets a moment to hang up first.
    frame::go_away(&mut out, last_stream);
    if write.write_all(&out).await.is_ok() && write.shutdown().await.is_ok() {
        tokio::time::timeout(LINGER, shared.closed.cancelled()).await.ok();
    }
    shared.closed.cancel();
}

fn encode(out: &mut BytesMut, packer: &mut Packer, message: Outgoing) -> io::Result<()> {
    match message {
        Outgoing::Data { stream, data, last } => frame::data(out, stream, &data, last),
        Outgoing::Control(Control::Open { stream, headers }) => frame::open(out, packer, stream, &headers)?,
        Outgoing::Control(Control::Reply { stream }) => frame::reply(out, packer, stream)?,
        Outgoing::Control(Control::Reset { stream }) => frame::reset(out, stream),
        Outgoing::Control(Control::Pong(id)) => frame::ping(out, &id),
    }
    Ok(())
}
