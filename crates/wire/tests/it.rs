//! The HTTPS server over loopback: protocols, client certificates, limits, upgrades, shutdown.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use wire::body::Body;
use wire::certs::{Authority, Identity, Leaf};
use wire::server::{Connection, Handler, Limits, serve, take_upgrade};
use wire::tls::{ClientVerifier, ServerTls, client_config};

/// Says who asks and how; echoes what is sent over an upgraded connection.
struct Echo {
    verifier: ClientVerifier,
}

impl Handler for Echo {
    fn handle(&self, mut request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let connection = request
            .extensions()
            .get::<Arc<Connection>>()
            .expect("connection")
            .clone();
        let trusted = self
            .verifier
            .verify(&connection.certificates, Timestamp::now())
            .is_ok();
        Box::pin(async move {
            if request.uri().path() == "/upgrade" {
                let upgrade = take_upgrade(&mut request).expect("can be upgraded");
                tokio::spawn(async move {
                    let mut io = upgrade.await.expect("upgraded");
                    let mut text = [0; 4];
                    io.read_exact(&mut text).await.expect("reads");
                    io.write_all(&text).await.expect("writes");
                });
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response
                    .headers_mut()
                    .insert("connection", "upgrade".parse().expect("header"));
                response
                    .headers_mut()
                    .insert("upgrade", "echo".parse().expect("header"));
                return response;
            }
            let text = format!(
                "{:?} {} {trusted}",
                request.version(),
                connection.certificates.len()
            );
            Response::new(text.into())
        })
    }
}

struct Server {
    address: SocketAddr,
    authority: Authority,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let now = Timestamp::now();
        let authority = Authority::generate("test", now).expect("authority");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("address");
        let identity = authority
            .issue(&Leaf::server("server", vec![], vec![address.ip()]), now)
            .expect("leaf");
        let verifier = ClientVerifier::new(authority.certificate()).expect("verifier");
        let shutdown = CancellationToken::new();
        let tls = ServerTls::new(&identity).expect("tls");
        let task = tokio::spawn(serve(
            listener,
            tls,
            Arc::new(Echo { verifier }),
            limits,
            shutdown.clone(),
        ));
        Self {
            address,
            authority,
            shutdown,
            task,
        }
    }

    async fn connect(&self, identity: Option<&Identity>, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut config = client_config(self.authority.certificate(), identity).expect("config");
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = self.address.ip().into();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .expect("handshake")
    }
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes()
            .to_vec(),
    )
    .expect("text")
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path)
        .header("host", "x")
        .body(Empty::new())
        .expect("request")
}

#[tokio::test]
async fn both_protocols_and_whose_certificate() {
    let server = Server::start(Limits::default()).await;
    let now = Timestamp::now();
    let trusted = server
        .authority
        .issue(&Leaf::client("a", None), now)
        .expect("leaf");
    let stranger = Authority::generate("other", now).expect("authority");
    let stranger = stranger.issue(&Leaf::client("a", None), now).expect("leaf");
    for (identity, expect) in [
        (None, "0 false"),
        (Some(&trusted), "1 true"),
        (Some(&stranger), "1 false"),
    ] {
        let io = TokioIo::new(server.connect(identity, b"http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("handshake");
        let task = tokio::spawn(connection);
        assert_eq!(
            text(sender.send_request(request("/")).await.expect("answer")).await,
            format!("HTTP/1.1 {expect}")
        );
        task.abort();
        let io = TokioIo::new(server.connect(identity, b"h2").await);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("handshake");
        let task = tokio::spawn(connection);
        let mut over2 = request(&format!("https://{}/", server.address));
        *over2.version_mut() = Version::HTTP_2;
        assert_eq!(
            text(sender.send_request(over2).await.expect("answer")).await,
            format!("HTTP/2.0 {expect}")
        );
        task.abort();
    }
}

/// Over HTTP/2 as over HTTP/1.1: some clients take a body for an error of the protocol.
#[tokio::test]
async fn a_head_has_no_body() {
    let server = Server::start(Limits::default()).await;
    let mut stream = server.connect(None, b"h2").await;
    // Preface, SETTINGS, and a request's HEADERS: :method HEAD, :scheme https, :path /, :authority x; the end.
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let block = b"\x02\x04HEAD\x87\x84\x01\x01x";
    hello.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]);
    hello.extend(block);
    stream.write_all(&hello).await.expect("writes");
    let answer = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut frame = vec![0; length];
            stream.read_exact(&mut frame).await.expect("its payload");
            let (kind, flags, stream) = (head[3], head[4], head[8]);
            if stream == 1 {
                return (kind, flags & 1);
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
    assert_eq!(answer.expect("answered"), (1, 1), "HEADERS that end the stream");
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on() {
    let limits = Limits {
        head: Duration::from_millis(100),
        handshake: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut silent = TcpStream::connect(server.address).await.expect("connects");
    assert_eq!(silent.read(&mut [0; 1]).await.expect("closed"), 0);
    for (protocol, beginning) in [
        (&b"h2"[..], &b""[..]),
        (b"http/1.1", b""),
        (b"http/1.1", b"GET / HT"),
    ] {
        let mut stream = server.connect(None, protocol).await;
        stream.write_all(beginning).await.expect("writes");
        let mut rest = Vec::new();
        // The end comes with or without a farewell in TLS.
        let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{protocol:?}");
    }
}

#[tokio::test]
async fn upgraded_connections_are_raw() {
    let server = Server::start(Limits::default()).await;
    let mut stream = server.connect(None, b"http/1.1").await;
    stream
        .write_all(b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nping")
        .await
        .expect("writes");
    let mut read = Vec::new();
    while !read.ends_with(b"ping") {
        let mut some = [0; 256];
        let n = stream.read(&mut some).await.expect("reads");
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&some[..n]);
    }
    assert!(read.starts_with(b"HTTP/1.1 101"));
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let server = Server::start(Limits::default()).await;
    let io = TokioIo::new(server.connect(None, b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("handshake");
    let task = tokio::spawn(connection);
    sender
        .send_request(request(&format!("https://{}/", server.address)))
        .await
        .expect("answer");
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(60), server.task)
        .await
        .expect("in time")
        .expect("ends");
    tokio::time::timeout(Duration::from_secs(60), task)
        .await
        .expect("in time")
        .expect("ends")
        .expect("cleanly");
}
