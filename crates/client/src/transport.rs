//! The two ways to an API server: its own router in this process, or HTTPS.
//!
//! **Invariant:** [`InProcessIdentity`] is only ever set here, on requests that never leave the process; a
//! request from the network carries no extensions, so nobody outside can name itself this way.

use crate::error::{Error, Result};
use base64::Engine as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use machinery::user::UserInfo;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or answer's body with its type erased.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An API server as a service: every answer is a response, also a refusal.
pub type ApiService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Who makes an in-process request. The server reads it from the request's extensions.
#[derive(Debug, Clone)]
pub struct InProcessIdentity(pub Arc<UserInfo>);

/// Erases the type of a service, so that it can be handed to [`in_process`].
pub fn api_service<S, B>(service: S) -> ApiService
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    BoxCloneSyncService::new(
        service.map_response(|response: Response<B>| response.map(|b| b.map_err(Into::into).boxed_unsync())),
    )
}

/// A client whose requests enter `service` as `user`. Authentication is skipped, nothing else.
///
/// Must be called inside a tokio runtime.
pub fn in_process(service: ApiService, user: UserInfo) -> kube::Client {
    in_process_as(service, user, "kijabi")
}

/// As [`in_process`], with the name that appears as `User-Agent` and thus as field manager: upstream's
/// component name (`kube-controller-manager`, `kube-scheduler`, `kubelet` …).
pub fn in_process_as(service: ApiService, user: UserInfo, component: &str) -> kube::Client {
    let agent = HeaderValue::try_from(format!("{component}/v1.36.0 (linux/{})", std::env::consts::ARCH))
        .unwrap_or_else(|_| HeaderValue::from_static("kijabi"));
    kube::Client::new(
        InProcess {
            service,
            identity: InProcessIdentity(Arc::new(user)),
            agent,
        },
        "default",
    )
}

/// A client over HTTPS with the current context of a kubeconfig file.
pub async fn remote(kubeconfig: &Path) -> Result<kube::Client> {
    let wrap = |source| Error::Kubeconfig {
        path: kubeconfig.display().to_string(),
        source: Box::new(source),
    };
    let config = kube::config::Kubeconfig::read_from(kubeconfig).map_err(wrap)?;
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(wrap)?;
    connect(config)
}

/// A client over HTTPS for a server, its CA, and a client certificate with its key (all PEM).
pub async fn remote_url(server: &str, ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<kube::Client> {
    let b64 = |pem: &[u8]| base64::engine::general_purpose::STANDARD.encode(pem);
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": b64(ca)}}],
        "users": [{"name": "c", "user": {"client-certificate-data": b64(certificate), "client-key-data": b64(key)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    })
    .to_string();
    let wrap = |source| Error::Kubeconfig {
        path: server.to_owned(),
        source: Box::new(source),
    };
    let config = kube::config::Kubeconfig::from_yaml(&text).map_err(wrap)?;
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(wrap)?;
    connect(config)
}

fn connect(mut config: kube::Config) -> Result<kube::Client> {
    config.read_timeout = None;
    let server = config.cluster_url.to_string();
    kube::Client::try_from(config).map_err(|source| Error::Client {
        server,
        source: Box::new(source),
    })
}

#[derive(Clone)]
struct InProcess {
    service: ApiService,
    identity: InProcessIdentity,
    agent: HeaderValue,
}

impl Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(self.identity.clone());
        request
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert_with(|| self.agent.clone());
        let answer = self.service.call(request);
        Box::pin(async move { answer.await.map_err(|never| match never {}) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn requests_carry_the_identity_and_the_component() {
        let service = api_service(tower::service_fn(|request: Request<Body>| async move {
            let who = request
                .extensions()
                .get::<InProcessIdentity>()
                .expect("identity")
                .0
                .name
                .clone();
            let agent = request.headers()[USER_AGENT].to_str().expect("ascii").to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!(
                "{who} {agent} {}",
                request.uri()
            )))))
        }));
        let client = in_process_as(
            service,
            UserInfo::service_account("kube-system", "x"),
            "kube-scheduler",
        );
        let text = client
            .request_text(Request::get("/version").body(Vec::new()).expect("request"))
            .await
            .expect("answer");
        assert!(
            text.starts_with("system:serviceaccount:kube-system:x kube-scheduler/v1.36"),
            "{text}"
        );
        assert!(text.ends_with(" /version"), "{text}");
    }
}
