//! The HTTPS server: one task a connection, HTTP/2 or 1.1 by ALPN.
//!
//! Limits are upstream's where it has them: 32 s to send a request's head, 250 streams a connection, windows
//! that hold a typical body, and h2's guard against clients that open and reset streams rapidly. An idle
//! connection costs its task and TLS state, and no wake-up.
//!
//! **Invariant:** the extensions of a request hold exactly what is inserted here ([`Connection`], and hyper's
//! upgrade handle), so nothing in a request from the network can pose as an in-process identity.

use crate::body::Body;
use crate::gather::Gathered;
use crate::tls::ServerTls;
use futures::future::BoxFuture;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Answers requests. Cheap to share; every answer is a response.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Limits of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    pub handshake: Duration,
    /// Time for the head of a request, and for the first request of a connection.
    pub head: Duration,
    pub streams_per_connection: u32,
    /// How long requests in flight may take once shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(32),
            streams_per_connection: 250,
            drain: Duration::from_secs(10),
        }
    }
}

/// The connection a request came on; in the request's extensions as `Arc<Connection>`.
#[derive(Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The client's chain, leaf first; empty if it showed none. Its key is proven, its issuer is not.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What authentication found out about the certificates, kept for the connection's next requests.
    pub memo: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// An upgraded connection: the raw bytes after the 101 answer.
pub trait RawIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> RawIo for T {}

/// Why a connection could not be upgraded.
#[derive(Debug, thiserror::Error)]
#[error("upgrading the connection")]
pub struct UpgradeError(#[source] hyper::Error);

/// Takes the upgrade out of a request; resolves once the 101 answer is sent. `None` if the request did not
/// come over a connection that can be upgraded (HTTP/2, or in process).
pub fn take_upgrade(
    request: &mut Request<Body>,
) -> Option<impl Future<Output = Result<Box<dyn RawIo>, UpgradeError>> + Send + 'static> {
    let handle = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>()?;
    Some(async move {
        let upgraded = handle.await.map_err(UpgradeError)?;
        Ok(Box::new(TokioIo::new(upgraded)) as Box<dyn RawIo>)
    })
}

/// Serves until `shutdown`, then lets requests in flight finish within the drain time.
pub async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    handler: Arc<dyn Handler>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let limits = Arc::new(limits);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: give connections time to close.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, handler, limits, shutdown) = (
            tls.clone(),
            Arc::clone(&handler),
            Arc::clone(&limits),
            shutdown.clone(),
        );
        tasks.spawn(async move { connection(stream, peer, tls, handler, &limits, shutdown).await });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "connections still open after the drain time");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: ServerTls,
    handler: Arc<dyn Handler>,
    limits: &Limits,
    shutdown: CancellationToken,
) {
    if let Err(error) = prepare_socket(&stream) {
        tracing::debug!(%peer, %error, "setting socket options");
    }
    let Ok(local) = stream.local_addr() else { return };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
    let stream = match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake");
            return;
        }
        Err(_) => return,
    };
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificates = session
        .peer_certificates()
        .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect())
        .unwrap_or_default();
    let info = Arc::new(Connection {
        peer,
        local,
        certificates,
        memo: OnceLock::new(),
    });
    http_connection(stream, http2, info, handler, limits, shutdown).await;
}

/// Speaks HTTP on an established connection.
async fn http_connection(
    io: TlsStream<TcpStream>,
    http2: bool,
    info: Arc<Connection>,
    handler: Arc<dyn Handler>,
    limits: &Limits,
    shutdown: CancellationToken,
) {
    let seen = Arc::new(AtomicBool::new(false));
    let peer = info.peer;
    let service = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::stream);
            request.extensions_mut().insert(Arc::clone(&info));
            // hyper sees to this in HTTP/1.1 alone.
            let bodiless = http2 && request.method() == Method::HEAD;
            let answer = handler.handle(request);
            async move {
                let answer = answer.await;
                Ok::<_, Infallible>(if bodiless { head_of(answer) } else { answer })
            }
        })
    };
    let outcome = if http2 {
        let io = Gathered::new(io);
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .max_frame_size(64 * 1024)
            .max_header_list_size(64 * 1024);
        let conn = builder.serve_connection(TokioIo::new(io.clone()), service);
        let release = |cx: &mut Context<'_>| io.poll_release(cx);
        drive(conn, |c| c.graceful_shutdown(), release, &seen, limits, shutdown).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(limits.head);
        let conn = builder
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        drive(conn, |c| c.graceful_shutdown(), |_| (), &seen, limits, shutdown).await
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// What a HEAD request is answered: a body on its stream would be an error of the protocol.
fn head_of(answer: Response<Body>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact() {
        let length = HeaderValue::from(length);
        parts.headers.entry(CONTENT_LENGTH).or_insert(length);
    }
    Response::from_parts(parts, Body::empty())
}

async fn drive<C>(
    conn: C,
    stop: impl Fn(Pin<&mut C>),
    after_poll: impl Fn(&mut Context<'_>),
    seen: &AtomicBool,
    limits: &Limits,
    shutdown: CancellationToken,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut conn = std::pin::pin!(conn);
    let poll = |conn: Pin<&mut C>, cx: &mut Context<'_>| {
        let outcome = conn.poll(cx);
        after_poll(cx);
        outcome
    };
    let first = tokio::time::sleep(limits.head);
    tokio::select! {
        outcome = poll_fn(|cx| poll(conn.as_mut(), cx)) => return outcome,
        () = shutdown.cancelled() => stop(conn.as_mut()),
        () = first => {
            if !seen.load(Ordering::Relaxed) {
                return Ok(());
            }
            tokio::select! {
                outcome = poll_fn(|cx| poll(conn.as_mut(), cx)) => return outcome,
                () = shutdown.cancelled() => stop(conn.as_mut()),
            }
        }
    }
    poll_fn(|cx| poll(conn.as_mut(), cx)).await
}

/// Small writes go out at once; the kernel, not we, finds out about dead peers.
fn prepare_socket(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    Ok(())
}
