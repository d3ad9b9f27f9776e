//! Passing a request on to a kubelet or a pod, and upgraded connections as raw bytes both ways.
//!
//! How a connection to a kubelet is made is a trait ([`Dial`]), so that tests, and clusters whose nodes are
//! reached in other ways, bring their own.

use async_trait::async_trait;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use wire::body::Body;
use wire::server::{RawIo, take_upgrade};

/// Where a request goes on to.
#[derive(Debug, Clone)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub backend: Backend,
    /// Path and query.
    pub path: String,
    /// The node whose kubelet this is, for dialers that go by name.
    pub node: String,
}

impl Target {
    /// `host:port`.
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Why a request did not get through, in the words of Go's network library.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Dial(String),
    #[error("{0}")]
    Request(String),
}

/// Who listens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A kubelet: TLS, and it wants to know us.
    Kubelet,
    /// A pod's plain port.
    Plain,
    /// A pod's TLS port, whose certificate nobody can vouch for.
    UntrustedTls,
}

/// Makes connections.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn RawIo>>;
}

/// Connects over TCP, to kubelets with the API server's client certificate.
pub struct Network {
    kubelet: Option<tokio_rustls::TlsConnector>,
    untrusted: tokio_rustls::TlsConnector,
}

impl Network {
    /// `kubelet` trusts the nodes' authority and shows our client certificate.
    pub fn new(kubelet: Option<rustls::ClientConfig>) -> Self {
        Self {
            kubelet: kubelet.map(|config| tokio_rustls::TlsConnector::from(Arc::new(config))),
            untrusted: tokio_rustls::TlsConnector::from(Arc::new(wire::tls::untrusting_client_config())),
        }
    }
}

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

#[async_trait]
impl Dial for Network {
    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn RawIo>> {
        let connect = TcpStream::connect((target.host.as_str(), target.port));
        let timed_out = || std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting");
        let stream = tokio::time::timeout(DIAL_TIMEOUT, connect)
            .await
            .map_err(|_| timed_out())??;
        stream.set_nodelay(true)?;
        let connector = match target.backend {
            Backend::Plain => return Ok(Box::new(stream)),
            Backend::UntrustedTls => &self.untrusted,
            Backend::Kubelet => self
                .kubelet
                .as_ref()
                .ok_or_else(|| std::io::Error::other("no certificate for kubelets is configured"))?,
        };
        let name = ServerName::try_from(target.host.clone()).map_err(std::io::Error::other)?;
        let tls = tokio::time::timeout(DIAL_TIMEOUT, connector.connect(name, stream)).await;
        Ok(Box::new(tls.map_err(|_| timed_out())??))
    }
}

/// Passes requests on.
pub struct Connector(Arc<dyn Dial>);

/// Headers that speak of one connection, not of the request.
const HOP_BY_HOP: [HeaderName; 6] = [
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::PROXY_AUTHENTICATE,
];

impl Connector {
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self(dial)
    }

    /// Sends the request to the target and answers what it answers.
    pub async fn proxy(&self, target: Target, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let io = self.0.dial(&target).await.map_err(|e| Failure::Dial(words(&e)))?;
        Self::over(io, &target, request).await
    }

    /// Sends the request over a connection that is there, and answers what is answered.
    pub(crate) async fn over(
        io: Box<dyn RawIo>,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let broken = |error: hyper::Error| Failure::Request(error.to_string());
        let upgrade = wants_upgrade(request.headers())
            .then(|| take_upgrade(&mut request))
            .flatten();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a node ended");
            }
        });
        let request = onward(target, request, upgrade.is_some())?;
        let mut response = sender.send_request(request).await.map_err(broken)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(ours) = upgrade
        {
            let theirs = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                let (Ok(mut ours), Ok(theirs)) = (ours.await, theirs.await) else {
                    return;
                };
                let mut theirs = TokioIo::new(theirs);
                if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            });
            return Ok(response.map(|_| Body::empty()));
        }
        let mut response = response.map(Body::stream);
        for name in HOP_BY_HOP {
            response.headers_mut().remove(name);
        }
        response.headers_mut().remove(CONNECTION);
        Ok(response)
    }
}

/// A failed connection as Go tells it.
pub(crate) fn words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers.get_all(CONNECTION).iter().any(|v| {
            v.to_str()
                .is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade")))
        })
}

fn onward(target: &Target, request: Request<Body>, upgrade: bool) -> Result<Request<Body>, Failure> {
    let (mut parts, body) = request.into_parts();
    // Backends are told the name the client used, as upstream does.
    if !parts.headers.contains_key(HOST) {
        let host = parts
            .uri
            .authority()
            .map_or_else(|| target.place(), ToString::to_string);
        let host = HeaderValue::try_from(host).map_err(|e| Failure::Request(e.to_string()))?;
        parts.headers.insert(HOST, host);
    }
    parts.uri = target
        .path
        .parse::<Uri>()
        .map_err(|e| Failure::Request(e.to_string()))?;
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    let headers = &mut parts.headers;
    // The kubelet is told who we are by our certificate; the caller's credentials are not its business.
    headers.remove(AUTHORIZATION);
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    Ok(Request::from_parts(parts, body))
}

/// A dialer for servers without nodes.
pub struct NoNodes;

#[async_trait]
impl Dial for NoNodes {
    async fn dial(&self, _: &Target) -> std::io::Result<Box<dyn RawIo>> {
        Err(std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            "this server reaches no nodes",
        ))
    }
}
