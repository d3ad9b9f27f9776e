//! Reaching a webhook: HTTPS to a Service or a URL, verified by the authority the configuration gives.
//!
//! Connections are kept for the next request. Redirects are not followed, and an answer has a largest size.

use crate::Objects;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use machinery::Value;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::TcpStream;

/// The largest answer read.
const MAX_ANSWER: usize = 8 << 20;
/// Idle connections kept for one endpoint, and endpoints with kept connections.
const MAX_IDLE: usize = 16;
const MAX_ENDPOINTS: usize = 200;

type Sender = SendRequest<Full<Bytes>>;
type Answer = (u16, Bytes);

/// Where a webhook listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    at: At,
    /// PEM, or nothing: then the system's authorities.
    authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    Url(String),
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("parse {0:?}: {1}")]
    Url(String, String),
    #[error("service {0:?} not found")]
    NoService(String),
    #[error("service {0:?} has no address")]
    NoAddress(String),
    #[error("{0}")]
    Store(String),
    #[error("dial tcp {0}: {1}")]
    Dial(String, std::io::Error),
    #[error("tls: {0}")]
    Tls(String),
    #[error("{0}")]
    Http(String),
    #[error("the answer has more than {MAX_ANSWER} bytes, or ends early")]
    Answer,
}

/// Posts a review. A trait, so that tests need no network.
#[async_trait]
pub trait Call: Send + Sync {
    async fn post(
        &self,
        endpoint: &Endpoint,
        objects: &dyn Objects,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Answer, CallError>;
}

impl Endpoint {
    pub fn read(config: Option<&Value>) -> Self {
        let text = |path: &[&str]| {
            config
                .and_then(|config| config.get_str_path(path))
                .unwrap_or_default()
                .to_owned()
        };
        let at = match config
            .and_then(|config| config.get("service"))
            .filter(|s| !s.is_null())
        {
            Some(service) => At::Service {
                namespace: text(&["service", "namespace"]),
                name: text(&["service", "name"]),
                port: service
                    .get("port")
                    .and_then(Value::as_i64)
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(443),
                path: text(&["service", "path"]),
            },
            None => At::Url(text(&["url"])),
        };
        let authority = STANDARD.decode(text(&["caBundle"])).unwrap_or_default();
        Self {
            at,
            authority: String::from_utf8_lossy(&authority).into_owned(),
        }
    }

    /// The URL that is asked.
    pub fn url(&self, query: &str) -> String {
        match &self.at {
            At::Url(url) => {
                let separator = if url.contains('?') { '&' } else { '?' };
                format!("{url}{separator}{query}")
            }
            At::Service {
                namespace,
                name,
                port,
                path,
            } => {
                let slash = if path.starts_with('/') || path.is_empty() {
                    ""
                } else {
                    "/"
                };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}?{query}")
            }
        }
    }

    /// The address to connect to, for a URL's host and port.
    async fn address(&self, objects: &dyn Objects, uri: &Uri) -> Result<(String, u16), CallError> {
        let At::Service {
            namespace,
            name,
            port,
            ..
        } = &self.at
        else {
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            return Ok((host, uri.port_u16().unwrap_or(443)));
        };
        let found = objects.get("", "services", namespace, name).await;
        let service = found
            .map_err(|error| CallError::Store(error.message))?
            .ok_or_else(|| CallError::NoService(name.clone()))?;
        let text = |field: &str| {
            service
                .get_str_path(&["spec", field])
                .unwrap_or_default()
                .to_owned()
        };
        let host = match text("type").as_str() {
            "ExternalName" => text("externalName"),
            _ => text("clusterIP"),
        };
        if host.is_empty() || host == "None" {
            return Err(CallError::NoAddress(name.clone()));
        }
        Ok((host, *port))
    }
}

/// The network.
#[derive(Default)]
pub struct Https {
    idle: Mutex<HashMap<Endpoint, Vec<Sender>>>,
}

impl Https {
    fn take(&self, endpoint: &Endpoint) -> Option<Sender> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(endpoint)?;
        while let Some(sender) = kept.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, endpoint: &Endpoint, sender: Sender) {
        let mut idle = self.idle.lock();
        if idle.len() >= MAX_ENDPOINTS && !idle.contains_key(endpoint) {
            idle.clear();
        }
        let kept = idle.entry(endpoint.clone()).or_default();
        if kept.len() < MAX_IDLE {
            kept.push(sender);
        }
    }

    async fn connect(endpoint: &Endpoint, objects: &dyn Objects, uri: &Uri) -> Result<Sender, CallError> {
        let (host, port) = endpoint.address(objects, uri).await?;
        let place = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|error| CallError::Dial(place.clone(), error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| CallError::Dial(place, error))?;
        let config = wire::tls::client_config(&endpoint.authority, None)
            .map_err(|error| CallError::Tls(error.to_string()))?;
        // The certificate must be for the name asked for, wherever the address leads.
        let name = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let name =
            ServerName::try_from(name.to_owned()).map_err(|error| CallError::Tls(error.to_string()))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| CallError::Tls(error.to_string()))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| CallError::Http(error.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a webhook ended");
            }
        });
        Ok(sender)
    }
}

#[async_trait]
impl Call for Https {
    async fn post(
        &self,
        endpoint: &Endpoint,
        objects: &dyn Objects,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Answer, CallError> {
        let url = endpoint.url(query);
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| CallError::Url(url.clone(), error.to_string()))?;
        let body = Bytes::from(body);
        let request = || {
            Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
                .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, */*")
                .header(USER_AGENT, "kube-apiserver-admission")
                .body(Full::new(body.clone()))
                .map_err(|error| CallError::Http(error.to_string()))
        };
        let mut sent = None;
        if let Some(mut sender) = self.take(endpoint) {
            match sender.send_request(request()?).await {
                Ok(response) => sent = Some((sender, response)),
                // It was closed just now and nothing was sent over it: a new one is made.
                Err(error) if error.is_canceled() || error.is_closed() => {}
                Err(error) => return Err(CallError::Http(error.to_string())),
            }
        }
        let (sender, response) = match sent {
            Some(sent) => sent,
            None => {
                let mut sender = Self::connect(endpoint, objects, &uri).await?;
                let response = sender
                    .send_request(request()?)
                    .await
                    .map_err(|error| CallError::Http(error.to_string()))?;
                (sender, response)
            }
        };
        let code = response.status().as_u16();
        let answer = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|_| CallError::Answer)?
            .to_bytes();
        self.keep(endpoint, sender);
        Ok((code, answer))
    }
}
