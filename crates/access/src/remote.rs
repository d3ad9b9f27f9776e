//! Services outside that are asked: webhooks of authentication, authorization and audit, issuers of tokens.
//!
//! **Invariant:** a service costs whoever asks at most its timeout and [`MAX_ANSWER`] bytes, and leads nowhere else:
//! redirects are answers like any other that is not 200.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::Path;
use std::time::Duration;

/// The largest answer read.
pub const MAX_ANSWER: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    #[error("the configuration cannot be used: {0}")]
    Configuration(String),
    #[error("no answer: {0}")]
    Transport(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer has more than {MAX_ANSWER} bytes, or ends early")]
    Answer,
}

/// One service.
#[derive(Clone)]
pub struct Remote {
    client: kube::Client,
    path: String,
    timeout: Duration,
}

impl Remote {
    /// The service a file in kubeconfig form names, with its credentials.
    pub async fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, RemoteError> {
        let wrong = |error: &dyn std::fmt::Display| {
            RemoteError::Configuration(format!("{}: {error}", path.display()))
        };
        let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
        Self::from_config(file, timeout)
            .await
            .map_err(|error| wrong(&error))
    }

    /// The service the text of such a file names; paths in it are taken as they stand.
    pub async fn from_config(file: Kubeconfig, timeout: Duration) -> Result<Self, RemoteError> {
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|error| RemoteError::Configuration(error.to_string()))?;
        Self::new(config, timeout)
    }

    /// A URL, whose certificate is verified by a PEM bundle, or without one by the system's authorities.
    pub fn from_url(url: &str, authority: Option<&str>, timeout: Duration) -> Result<Self, RemoteError> {
        let uri: Uri = url
            .parse()
            .map_err(|error| RemoteError::Configuration(format!("{url}: {error}")))?;
        let mut config = kube::Config::new(uri);
        if let Some(pem) = authority {
            use rustls::pki_types::pem::PemObject as _;
            let certificates: Result<Vec<Vec<u8>>, _> =
                rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes())
                    .map(|der| der.map(|der| der.to_vec()))
                    .collect();
            let certificates = certificates.map_err(|error| RemoteError::Configuration(error.to_string()))?;
            config.root_cert = Some(certificates);
        }
        Self::new(config, timeout)
    }

    fn new(mut config: kube::Config, timeout: Duration) -> Result<Self, RemoteError> {
        let path = config
            .cluster_url
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let mut parts = std::mem::take(&mut config.cluster_url).into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url =
            Uri::from_parts(parts).map_err(|error| RemoteError::Configuration(error.to_string()))?;
        config.connect_timeout = Some(timeout);
        config.read_timeout = Some(timeout);
        let client =
            kube::Client::try_from(config).map_err(|error| RemoteError::Configuration(error.to_string()))?;
        Ok(Self {
            client,
            path,
            timeout,
        })
    }

    /// Sends JSON to the service; its code and answer.
    pub async fn post(&self, body: Vec<u8>) -> Result<(u16, Bytes), RemoteError> {
        let request = Request::post(&self.path)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(Body::from(body));
        self.send(request).await
    }

    /// Reads what is at the service's URL.
    pub async fn get(&self) -> Result<(u16, Bytes), RemoteError> {
        self.send(
            Request::get(&self.path)
                .header(ACCEPT, "application/json")
                .body(Body::empty()),
        )
        .await
    }

    async fn send(&self, request: http::Result<Request<Body>>) -> Result<(u16, Bytes), RemoteError> {
        let request = request.map_err(|error| RemoteError::Configuration(error.to_string()))?;
        let exchange = async {
            let response = self.client.send(request).await;
            let response = response.map_err(|error| RemoteError::Transport(describe(&error)))?;
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok((code, body.map_err(|_| RemoteError::Answer)?.to_bytes()))
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(RemoteError::Timeout(self.timeout)))
    }
}

/// An error and what it comes from, which alone says what is wrong.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
