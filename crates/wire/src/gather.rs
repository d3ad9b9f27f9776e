//! The small writes of an HTTP/2 connection, gathered into full TLS records and few system calls.
//!
//! HTTP/2 flushes after each frame of data: an event for fifty watchers on one connection would be fifty records and
//! fifty calls. Here a flush is only noted. Frames fill a record; full records are encrypted at once and wait in the
//! TLS session; all of it goes out when the connection's future has done what it could in one poll
//! ([`Gathered::poll_release`]), or when the session holds as much as it may. Nothing waits for a timer.
//!
//! **Invariant:** whoever drives the connection calls `poll_release` after each of its polls, so that when it sleeps,
//! nothing is held back, or the socket is full and will wake it.

use parking_lot::Mutex;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// The most that fits into one TLS record.
const RECORD: usize = 16 * 1024;

/// A TLS connection that gathers; clones are the same connection.
pub(crate) struct Gathered<I>(Arc<Mutex<Gathering<I>>>);

struct Gathering<I> {
    stream: TlsStream<I>,
    /// The beginning of the next record; no memory is kept for it while nothing is written.
    record: Vec<u8>,
    /// Why the last release failed, for the next who writes.
    failed: Option<io::Error>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Gathered<I> {
    pub(crate) fn new(stream: TlsStream<I>) -> Self {
        Self(Arc::new(Mutex::new(Gathering {
            stream,
            record: Vec::new(),
            failed: None,
        })))
    }

    /// Sends what was gathered, as far as the socket takes it.
    pub(crate) fn poll_release(&self, cx: &mut Context<'_>) {
        let mut this = self.0.lock();
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            this.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Gathering<I> {
    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Hands the begun record to the session, sending first if that is full.
    fn poll_seal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.record.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = self.stream.get_mut().1.writer().write(&self.record)?;
            if taken == self.record.len() {
                self.record.clear();
                return Poll::Ready(Ok(()));
            }
            self.record.drain(..taken);
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_seal(cx))?;
        self.record = Vec::new();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Takes what fits into the record.
    fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.record.len() == RECORD {
            ready!(self.poll_seal(cx))?;
        }
        if self.record.capacity() == 0 {
            self.record.reserve_exact(RECORD);
        }
        let fits = bytes.len().min(RECORD - self.record.len());
        self.record.extend_from_slice(&bytes[..fits]);
        Poll::Ready(Ok(fits))
    }
}

impl<I> Clone for Gathered<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut this = self.0.lock();
        this.check()?;
        let mut written = 0;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                match this.poll_take(cx, rest) {
                    Poll::Ready(Ok(taken)) => {
                        written += taken;
                        rest = &rest[taken..];
                    }
                    // What was taken is told; the rest is offered again.
                    _ if written > 0 => return Poll::Ready(Ok(written)),
                    refused => return refused,
                }
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.0.lock();
        this.check()?;
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::{Authority, Leaf};
    use crate::tls::{ServerTls, client_config};
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    /// Two ends of a connection that holds `room` bytes.
    async fn connection(room: usize) -> (Gathered<DuplexStream>, client::TlsStream<DuplexStream>) {
        let now = jiff::Timestamp::now();
        let authority = Authority::generate("test", now).expect("authority");
        let leaf = Leaf::server("server", vec!["server".into()], vec![]);
        let identity = authority.issue(&leaf, now).expect("leaf");
        let acceptor = TlsAcceptor::from(ServerTls::new(&identity).expect("server").current());
        let config = client_config(authority.certificate(), None).expect("client");
        let connector = TlsConnector::from(Arc::new(config));
        let (near, far) = tokio::io::duplex(room);
        let (server, client) = tokio::join!(
            acceptor.accept(near),
            connector.connect("server".try_into().expect("a name"), far)
        );
        (Gathered::new(server.expect("accepts")), client.expect("connects"))
    }

    /// Drives a connection's future as the server does.
    async fn driven(io: Gathered<DuplexStream>, connection: impl Future<Output = io::Result<()>>) {
        let mut connection = std::pin::pin!(connection);
        poll_fn(|cx| {
            let outcome = connection.as_mut().poll(cx);
            io.poll_release(cx);
            outcome
        })
        .await
        .expect("is written");
    }

    #[tokio::test]
    async fn everything_arrives_in_order_through_a_narrow_connection() {
        let (io, mut client) = connection(1000).await;
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let mut writer = io.clone();
        let write = async {
            // Frames of all sizes, each flushed, the largest over several records.
            let (mut rest, mut size) = (&sent[..], 1);
            while !rest.is_empty() {
                let (frame, after) = rest.split_at(size.min(rest.len()));
                writer.write_all(frame).await?;
                writer.flush().await?;
                (rest, size) = (after, (size * 3) % 70_001);
            }
            writer.shutdown().await
        };
        let mut read = Vec::new();
        let (_, end) = tokio::join!(driven(io, write), client.read_to_end(&mut read));
        end.expect("reads to the end");
        assert!(read == sent);
    }

    #[tokio::test]
    async fn nothing_is_held_back_while_the_connection_waits() {
        let (io, mut client) = connection(100_000).await;
        let mut writer = io.clone();
        let (answered, answer) = tokio::sync::oneshot::channel();
        let write = async {
            writer.write_all(b"one").await?;
            writer.flush().await?;
            answer.await.expect("the client has it");
            writer.write_all(b"two").await?;
            writer.shutdown().await
        };
        let read = async {
            let mut first = [0; 3];
            client.read_exact(&mut first).await.expect("reads");
            answered.send(()).expect("is awaited");
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.expect("reads to the end");
            (first, rest)
        };
        let (_, (first, rest)) = tokio::join!(driven(io, write), read);
        assert_eq!((&first[..], &rest[..]), (&b"one"[..], &b"two"[..]));
    }

    #[tokio::test]
    async fn who_writes_learns_that_the_other_end_is_gone() {
        let (io, client) = connection(1000).await;
        drop(client);
        let mut writer = io.clone();
        let write = async {
            while writer.write_all(&[0; 5000]).await.is_ok() && writer.flush().await.is_ok() {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        driven(io, write).await;
    }
}
