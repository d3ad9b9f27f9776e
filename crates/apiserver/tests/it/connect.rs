//! Requests passed on to a node: a kubelet that is a task of the test.

use super::{Api, PODS, pod};
use apiserver::connect::{Dial, Target};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use wire::server::RawIo;

/// Answers every request with what was asked of it.
pub(crate) struct EchoKubelet;

#[async_trait::async_trait]
impl Dial for EchoKubelet {
    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn RawIo>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let place = format!("{}:{}", target.host, target.port);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &place);
                async move { Ok::<_, Infallible>(answer) }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), service)
                .await
        });
        Ok(Box::new(ours))
    }
}

fn answer(request: &Request<Incoming>, place: &str) -> Response<Full<Bytes>> {
    let uri = request.uri().to_string();
    let respond = Response::builder();
    let (respond, text) = match uri.as_str() {
        "/page/" => {
            let seen = request.headers()["x-forwarded-uri"].to_str().expect("text");
            let page = format!("<a href=\"/next\">{seen}</a>");
            (respond.header("content-type", "text/html; charset=utf-8"), page)
        }
        "/moved" => (respond.status(302).header("location", "/there"), String::new()),
        _ if uri.contains("sinceSeconds=400") => (
            respond.status(400),
            "container \"c\" in pod \"a\" is waiting to start: trying\n".to_owned(),
        ),
        _ if uri.contains("sinceSeconds=404") => (respond.status(404), "no such pod".to_owned()),
        _ => (respond, format!("{} {place}{uri}", request.method())),
    };
    respond.body(Full::new(Bytes::from(text))).expect("an answer")
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    let path = format!("{PODS}/a/log?tailLines=3");
    assert_eq!(api.get(&path).await.body, "");
    scheduled(&api).await;
    assert_eq!(
        api.get(&path).await.body,
        "GET 10.0.0.1:10250/containerLogs/default/a/c?tailLines=3"
    );
    let proxied = api.get("/api/v1/nodes/n/proxy/stats/summary?x=y").await;
    assert_eq!(proxied.body, "GET 10.0.0.1:10250/stats/summary?x=y");
    api.get(&format!("{PODS}/a/log?container=z"))
        .await
        .fails(400, "container z is not valid for pod a");
    let refused = api.get(&format!("{PODS}/a/log?sinceSeconds=400")).await;
    let status = refused.fails(400, "container \"c\" in pod \"a\" is waiting to start: trying\n");
    assert_eq!(status["reason"], "BadRequest");
    let lost = api.get(&format!("{PODS}/a/log?sinceSeconds=404")).await;
    let status = lost.fails(
        404,
        "the server could not find the requested resource ( pods/log a)",
    );
    assert_eq!(status["reason"], "NotFound");
    api.get(&format!("{PODS}/a/log?limitBytes=0&tailLines=-1"))
        .await
        .fails(422, "PodLogOptions \"a\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be greater than 0]");
}

#[tokio::test]
async fn streams_are_upgrades() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    scheduled(&api).await;
    let path = format!("{PODS}/a/exec?command=ls&stdout=1");
    api.post(&path, json!({}))
        .await
        .fails(400, "Upgrade request required");
}

#[tokio::test]
async fn proxies_lead_back() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    scheduled(&api).await;
    let nodes = "/api/v1/nodes/n/proxy";
    let bare = api.get(&format!("{nodes}?x=y")).await;
    assert_eq!(bare.status, 301);
    assert_eq!(bare.headers["location"], "/api/v1/nodes/n/proxy/?x=y");
    let page = api.get(&format!("{nodes}/page/")).await;
    assert_eq!(
        page.body,
        "<a href=\"/api/v1/nodes/n/proxy/next\">/api/v1/nodes/n/proxy/page/</a>"
    );
    let moved = api.get(&format!("{nodes}/moved")).await;
    assert_eq!(moved.headers["location"], "/api/v1/nodes/n/proxy/there");
    api.get(&format!("{PODS}/a/proxy/"))
        .await
        .fails(400, "address not allowed");
    api.get("/api/v1/namespaces/default/services/ftp:a:1/proxy/")
        .await
        .fails(400, "invalid service request \"ftp:a:1\"");
}

/// The pod `a` on a node with a kubelet.
async fn scheduled(api: &Api) {
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
    api.post("/api/v1/nodes", node.clone()).await.ok();
    // The status of a new node is what its kubelet says.
    api.put("/api/v1/nodes/n/status", &node).await.ok();
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    api.post(&format!("{PODS}/a/binding"), binding).await.ok();
}
