//! HTTP requests of probes and lifecycle hooks.
//!
//! Follows upstream's `pkg/probe/http`: no certificate is checked, a new connection every time, redirects are
//! followed on the same host (ten at most) and are a warning to another, ten KiB of body are read.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::run::{Ended, connect, join_host_port, resolve_port};

const BODY: usize = 10 * 1024;
const REDIRECTS: usize = 10;

/// A request as the spec describes it.
#[derive(Clone, Debug)]
pub struct Request {
    pub scheme: String,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: HeaderMap,
}

/// An answer, its body cut.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub location: Option<String>,
    pub body: Vec<u8>,
}

impl Request {
    /// `purpose` is the word in the user agent: `probe` or `lifecycle`.
    pub fn new(
        get: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        purpose: &str,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for wanted in get.http_headers.iter().flatten() {
            let name = HeaderName::try_from(&wanted.name).map_err(|e| e.to_string())?;
            let value = HeaderValue::try_from(&wanted.value).map_err(|e| e.to_string())?;
            headers.append(name, value);
        }
        if !headers.contains_key(header::USER_AGENT) {
            let agent = format!("kube-{purpose}/1.36");
            headers.insert(
                header::USER_AGENT,
                HeaderValue::try_from(agent).map_err(|e| e.to_string())?,
            );
        }
        match headers.get(header::ACCEPT) {
            None => drop(headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"))),
            Some(value) if value.is_empty() => drop(headers.remove(header::ACCEPT)),
            Some(_) => {}
        }
        let path = get.path.as_deref().unwrap_or_default();
        Ok(Self {
            scheme: get.scheme.as_deref().unwrap_or("HTTP").to_lowercase(),
            host: get
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .unwrap_or(pod_ip)
                .to_owned(),
            port: resolve_port(&get.port, container)?,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
            headers,
        })
    }

    pub fn url(&self) -> String {
        format!(
            "{}://{}{}",
            self.scheme,
            join_host_port(&self.host, self.port),
            self.path
        )
    }

    /// Where a redirect leads, if it stays on the host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let mut next = self.clone();
        next.path = uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string);
        if let Some(host) = uri.host() {
            if host != self.host {
                return None;
            }
            let scheme = uri.scheme_str().unwrap_or(&self.scheme).to_owned();
            next.port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
            next.scheme = scheme;
        }
        Some(next)
    }
}

pub async fn probe(request: &Request, timeout: Duration) -> Result<Ended, String> {
    let work = async {
        let mut request = request.clone();
        for _ in 0..REDIRECTS {
            let answer = get(&request, timeout).await?;
            match answer.location.as_deref() {
                Some(location) => match request.redirected(location) {
                    Some(next) => request = next,
                    None => return Ok(answer),
                },
                None => return Ok(answer),
            }
        }
        Err(format!(
            "Get {:?}: stopped after {REDIRECTS} redirects",
            request.url()
        ))
    };
    let answer = match tokio::time::timeout(timeout, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(text)) => return Ok(Ended::Failure(text)),
        Err(_) => {
            return Ok(Ended::Failure(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                request.url()
            )));
        }
    };
    Ok(match answer.code {
        200..=299 => Ended::Success,
        300..=399 => Ended::Warning(format!(
            "Probe terminated redirects, Response body: {}",
            String::from_utf8_lossy(&answer.body)
        )),
        code => Ended::Failure(format!("HTTP probe failed with statuscode: {code}")),
    })
}

/// One request over a connection of its own; an error is Go's text for it.
pub async fn get(request: &Request, timeout: Duration) -> Result<Answer, String> {
    let failed = |text: String| format!("Get {:?}: {text}", request.url());
    let stream = connect(&request.host, request.port, timeout)
        .await
        .map_err(failed)?;
    if request.scheme == "https" {
        let name = ServerName::try_from(request.host.clone()).map_err(|e| failed(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(tls());
        let stream = connector.connect(name, stream).await.map_err(|e| {
            let text = e.to_string();
            // The first bytes of an HTTP answer are no TLS record.
            if text.contains("InvalidContentType") || text.contains("invalid content type") {
                failed("http: server gave HTTP response to HTTPS client".to_owned())
            } else {
                failed(text)
            }
        })?;
        exchange(request, stream).await.map_err(failed)
    } else {
        exchange(request, stream).await.map_err(failed)
    }
}

async fn exchange<S>(request: &Request, stream: S) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let mut wire = ::http::Request::get(&request.path)
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    *wire.headers_mut() = request.headers.clone();
    if !request.headers.contains_key(header::HOST) {
        let host =
            HeaderValue::try_from(join_host_port(&request.host, request.port)).map_err(|e| e.to_string())?;
        wire.headers_mut().insert(header::HOST, host);
    }
    wire.headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    let exchange = async {
        let answer = sender.send_request(wire).await.map_err(|e| e.to_string())?;
        let code = answer.status().as_u16();
        let location = answer
            .headers()
            .get(header::LOCATION)
            .and_then(|l| l.to_str().ok())
            .map(str::to_owned);
        let mut body = Vec::new();
        let mut limited = Limited::new(answer.into_body(), BODY);
        // A longer body is cut; that is no failure.
        while let Some(Ok(frame)) = limited.frame().await {
            if let Ok(data) = frame.into_data() {
                body.extend_from_slice(&data);
            }
        }
        Ok(Answer {
            code,
            location: location.filter(|_| (300..400).contains(&code)),
            body,
        })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        broken = connection => {
            if let Err(error) = broken {
                tracing::trace!(%error, "the connection of a probe ended");
            }
            exchange.await
        }
    }
}

fn tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = wire::tls::provider();
            let trusting = Arc::new(Trusting(provider.clone()));
            let builder = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                // The provider and the versions are both the library's own.
                .expect("default protocol versions");
            Arc::new(
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(trusting)
                    .with_no_client_auth(),
            )
        })
        .clone()
}

/// Takes any certificate: a probe asks whether the server answers, not who it is.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every connection with the next of `answers`; returns the port.
    async fn server(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
                assert!(text.contains("user-agent: kube-probe/1.36"), "{text}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn request(port: u16) -> Request {
        let get: HTTPGetAction =
            serde_json::from_value(serde_json::json!({"path": "/healthz", "port": port})).unwrap();
        Request::new(&get, &Container::default(), "127.0.0.1", "probe").unwrap()
    }

    #[tokio::test]
    async fn outcomes() {
        let answer = |code: &str, more: &str| format!("HTTP/1.1 {code}\r\ncontent-length: 2\r\n{more}\r\nok");
        let cases = [
            (vec![answer("200 OK", "")], Ended::Success),
            (
                vec![answer("503 No", "")],
                Ended::Failure("HTTP probe failed with statuscode: 503".into()),
            ),
            (
                vec![
                    answer("302 Found", "location: /else\r\n"),
                    answer("204 Empty", ""),
                ],
                Ended::Success,
            ),
            (
                vec![answer("302 Found", "location: http://example.com/\r\n")],
                Ended::Warning("Probe terminated redirects, Response body: ok".into()),
            ),
        ];
        for (answers, expected) in cases {
            let port = server(answers).await;
            assert_eq!(
                probe(&request(port), Duration::from_secs(5)).await.unwrap(),
                expected
            );
        }
        let port = server(vec![]).await;
        let expected = format!(
            "Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        );
        tokio::task::yield_now().await;
        assert_eq!(
            probe(&request(port), Duration::from_secs(5)).await.unwrap(),
            Ended::Failure(expected)
        );
    }
}
