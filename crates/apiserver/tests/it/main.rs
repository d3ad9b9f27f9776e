//! The API server as a component: requests in process, a store in memory.

mod allocators;
mod audit;
mod breaking;
mod cbor;
mod connect;
mod custom;
mod discovery;
mod encrypted;
mod hostile;
mod hostile_servers;
mod lists;
mod model;
mod objects;
mod patches;
mod paths;
mod rights;
mod watches;

use apiserver::{Config, Features, InProcess, Server};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use machinery::clock::SystemClock;
use machinery::user::UserInfo;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use wire::body::Body;

/// A server and who asks it.
struct Api {
    service: InProcess,
    user: Arc<UserInfo>,
    store: Arc<dyn store::Store>,
}

/// An answer, read.
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    #[track_caller]
    fn ok(self) -> Json {
        assert!(self.status.is_success(), "{} {:?}", self.status, self.body);
        self.json()
    }

    #[track_caller]
    fn fails(self, code: u16, message: &str) -> Json {
        let json = self.json();
        assert_eq!(self.status.as_u16(), code, "{json}");
        assert_eq!(json["message"].as_str(), Some(message), "{json}");
        json
    }

    fn warnings(&self) -> Vec<String> {
        self.headers
            .get_all("warning")
            .iter()
            .map(|w| w.to_str().expect("ascii").to_owned())
            .collect()
    }
}

impl Api {
    async fn start() -> Self {
        Self::on(Arc::new(store::Memory::new())).await
    }

    /// A server on a store that may hold something already.
    async fn on(store: Arc<dyn store::Store>) -> Self {
        Self::featured(store, Features::default()).await
    }

    async fn featured(store: Arc<dyn store::Store>, features: Features) -> Self {
        let config = Config {
            dial: Arc::new(connect::EchoKubelet),
            features,
            ..Config::new(Arc::clone(&store), Arc::new(SystemClock))
        };
        Self::with(config).await
    }

    async fn with(config: Config) -> Self {
        let store = Arc::clone(&config.store);
        let server = Server::start(config).await.expect("starts");
        let user = Arc::new(UserInfo::authenticated("admin", &["system:masters"]));
        Self {
            service: server.service(),
            user,
            store,
        }
    }

    async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.service.call_as(Arc::clone(&self.user), request).await
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("user-agent", "test/1");
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        read(self.send(request.body(body.into()).expect("request")).await).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "", Body::empty()).await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::get(path)
            .header("accept", accept)
            .body(Body::empty())
            .expect("request");
        read(self.send(request).await).await
    }

    async fn post(&self, path: &str, body: Json) -> Answer {
        self.call(Method::POST, path, "application/json", body.to_string())
            .await
    }

    async fn put(&self, path: &str, body: &Json) -> Answer {
        self.call(Method::PUT, path, "application/json", body.to_string())
            .await
    }

    async fn patch(&self, path: &str, kind: &str, body: Json) -> Answer {
        self.call(
            Method::PATCH,
            path,
            &format!("application/{kind}"),
            body.to_string(),
        )
        .await
    }

    async fn delete(&self, path: &str, options: Json) -> Answer {
        let body = if options.is_null() {
            String::new()
        } else {
            options.to_string()
        };
        self.call(Method::DELETE, path, "application/json", body).await
    }

    /// A config map with one label.
    async fn config_map(&self, name: &str, label: &str) -> Json {
        let object = json!({"metadata": {"name": name, "labels": {"l": label}}, "data": {"k": "v"}});
        self.post(MAPS, object).await.ok()
    }
}

async fn read(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn pod(name: &str) -> Json {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Json {
    json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}
