//! One stream of a connection that carries many: what the protocol tasks and the users of a stream hold.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// As many pieces of one stream may wait for their reader.
pub(super) const INCOMING: usize = 64;
/// As many pieces of all streams together may wait for the connection.
pub(super) const OUTGOING: usize = 32;
/// The largest piece sent.
const PIECE: usize = 32 * 1024;

/// What the connection's writing side is asked to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    Data {
        stream: u32,
        data: Bytes,
        last: bool,
    },
    /// Sent as it is, by those who know the protocol.
    Control(Control),
}

/// Messages about the connection and not of a stream.
#[derive(Debug)]
pub(super) enum Control {
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
    },
    Reply {
        stream: u32,
    },
    Reset {
        stream: u32,
    },
    Pong(Bytes),
}

/// The incoming half of a stream.
#[derive(Debug)]
pub struct Reader {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

/// The outgoing half of a stream. Shutting it down, or dropping it, ends the stream.
#[derive(Debug)]
pub struct Writer {
    stream: u32,
    sender: PollSender<Outgoing>,
    /// For the end, when the stream is dropped without a shutdown.
    queue: mpsc::Sender<Outgoing>,
    ended: bool,
}

impl Reader {
    pub(super) fn new() -> (mpsc::Sender<Bytes>, Reader) {
        let (sender, pieces) = mpsc::channel(INCOMING);
        (
            sender,
            Reader {
                pieces,
                piece: Bytes::new(),
            },
        )
    }
}

impl Writer {
    pub(super) fn new(stream: u32, queue: &mpsc::Sender<Outgoing>) -> Writer {
        Writer {
            stream,
            sender: PollSender::new(queue.clone()),
            queue: queue.clone(),
            ended: false,
        }
    }

    /// Ends nothing when dropped: for streams whose end has no form on the wire.
    pub(super) fn without_end(mut self) -> Writer {
        self.ended = true;
        self
    }

    fn send(&mut self, cx: &mut Context<'_>, data: Bytes, last: bool) -> Poll<io::Result<()>> {
        if ready!(self.sender.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let message = Outgoing::Data {
            stream: self.stream,
            data,
            last,
        };
        let sent = self.sender.send_item(message);
        Poll::Ready(sent.map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => self.piece = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece[..len]);
        self.piece.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let len = data.len().min(PIECE);
        // Reserve before copying: a full queue is asked again and again.
        if ready!(self.sender.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let message = Outgoing::Data {
            stream: self.stream,
            data: Bytes::copy_from_slice(&data[..len]),
            last: false,
        };
        match self.sender.send_item(message) {
            Ok(()) => Poll::Ready(Ok(len)),
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes out whenever its queue runs empty.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        ready!(self.send(cx, Bytes::new(), true))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let end = Outgoing::Data {
            stream: self.stream,
            data: Bytes::new(),
            last: true,
        };
        if let Err(mpsc::error::TrySendError::Full(end)) = self.queue.try_send(end) {
            let queue = self.queue.clone();
            // Outside a runtime there is no connection left to tell either.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { queue.send(end).await });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_reader_gives_pieces_and_then_the_end() {
        let (sender, mut reader) = Reader::new();
        sender.send(Bytes::from_static(b"hel")).await.unwrap();
        sender.send(Bytes::new()).await.unwrap();
        sender.send(Bytes::from_static(b"lo")).await.unwrap();
        drop(sender);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_writer_ends_its_stream_once() {
        let (queue, mut sent) = mpsc::channel(OUTGOING);
        let mut writer = Writer::new(7, &queue);
        writer.write_all(b"x").await.unwrap();
        writer.shutdown().await.unwrap();
        drop(writer);
        drop(Writer::new(8, &queue));
        drop(queue);
        let mut seen = Vec::new();
        while let Some(Outgoing::Data { stream, data, last }) = sent.recv().await {
            seen.push((stream, data.len(), last));
        }
        assert_eq!(seen, [(7, 1, false), (7, 0, true), (8, 0, true)]);
    }
}
