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
                let text = format!("{} {place}{}", request.method(), request.uri());
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), service)
                .await
        });
        Ok(Box::new(ours))
    }
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    let path = format!("{PODS}/a/log?tailLines=3");
    api.get(&path)
        .await
        .fails(400, "pod a does not have a host assigned");
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
    api.post("/api/v1/nodes", node.clone()).await.ok();
    // The status of a new node is what its kubelet says.
    api.put("/api/v1/nodes/n/status", &node).await.ok();
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    api.post(&format!("{PODS}/a/binding"), binding).await.ok();
    let answer = api.get(&path).await;
    assert_eq!(
        answer.body,
        "GET 10.0.0.1:10250/containerLogs/default/a/c?tailLines=3"
    );
    let exec = api
        .post(
            &format!("{PODS}/a/exec?command=ls&command=-l&stdout=1"),
            json!({}),
        )
        .await;
    assert_eq!(
        exec.body,
        "POST 10.0.0.1:10250/exec/default/a/c?output=1&command=ls&command=-l"
    );
    let proxied = api.get("/api/v1/nodes/n/proxy/stats/summary?x=y").await;
    assert_eq!(proxied.body, "GET 10.0.0.1:10250/stats/summary?x=y");
    api.get(&format!("{PODS}/a/log?container=z"))
        .await
        .fails(400, "container z is not valid for pod a");
}
