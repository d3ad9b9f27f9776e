//! Discovery, documents, health, and who may ask.

use super::{Api, read};
use http::Request;
use machinery::user::UserInfo;
use serde_json::json;
use std::sync::Arc;
use wire::body::Body;

#[tokio::test]
async fn discovery_says_what_is_served() {
    let api = Api::start().await;
    let core = api.get("/api/v1").await.ok();
    let pods = core["resources"]
        .as_array()
        .expect("list")
        .iter()
        .find(|r| r["name"] == "pods")
        .expect("pods")
        .clone();
    assert_eq!(pods["shortNames"], json!(["po"]));
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert!(
        core["resources"]
            .as_array()
            .expect("list")
            .iter()
            .any(|r| r["name"] == "pods/eviction" && r["group"] == "policy")
    );
    let groups = api.get("/apis").await.ok();
    assert!(
        groups["groups"]
            .as_array()
            .expect("list")
            .iter()
            .any(|g| g["name"] == "apps")
    );
    assert_eq!(
        api.get("/apis/apps").await.ok()["preferredVersion"]["groupVersion"],
        "apps/v1"
    );
    assert_eq!(api.get("/apis/none").await.status.as_u16(), 404);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let whole = api.get_as("/apis", accept).await;
    let tag = whole.headers["etag"].clone();
    let whole = whole.ok();
    assert_eq!(whole["apiVersion"], "apidiscovery.k8s.io/v2");
    let again = Request::get("/apis")
        .header("accept", accept)
        .header("if-none-match", tag);
    let again = read(api.send(again.body(Body::empty()).expect("request")).await).await;
    assert_eq!(again.status.as_u16(), 304);
}

#[tokio::test]
async fn health_version_and_documents() {
    let api = Api::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(api.get(path).await.body, "ok", "{path}");
    }
    assert!(String::from_utf8_lossy(&api.get("/readyz?verbose").await.body).contains("[+]ping ok"));
    let some = api.get("/livez?verbose&exclude=etcd&exclude=none").await;
    let some = String::from_utf8_lossy(&some.body).into_owned();
    assert!(some.contains("[+]etcd excluded: ok\n"), "{some}");
    let end = "warn: some health checks cannot be excluded: no matches for \"none\"\nlivez check passed\n";
    assert!(some.ends_with(end), "{some}");
    assert_eq!(api.get("/livez/shutdown").await.status.as_u16(), 404);
    assert_eq!(
        api.get("/readyz/poststarthook/rbac/bootstrap-roles").await.body,
        "ok"
    );
    assert_eq!(api.get("/version").await.ok()["minor"], "36");
    let v3 = api.get("/openapi/v3").await.ok();
    assert!(v3["paths"]["apis/apps/v1"]["serverRelativeURL"].is_string());
    let apps = api.get("/openapi/v3/apis/apps/v1").await.ok();
    let deployment = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"][0]["kind"],
        "Deployment"
    );
    let said = deployment["properties"]["spec"]["description"]
        .as_str()
        .expect("prose");
    assert!(
        said.starts_with("Specification of the desired behavior"),
        "{said}"
    );
    let place = v3["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .expect("a place");
    let immutable = api.get(place).await;
    assert_eq!(immutable.headers["cache-control"], "public, immutable");
    assert!(
        immutable.headers["expires"]
            .to_str()
            .expect("text")
            .ends_with(" GMT")
    );
    let protobuf = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    let refused = api.get_as("/openapi/v3/apis/apps/v1", protobuf).await;
    assert_eq!(refused.status.as_u16(), 406);
    let moved = api.get("/openapi/v3/apis/apps/v1?hash=old").await;
    assert_eq!(
        (
            moved.status.as_u16(),
            moved.headers["location"].to_str().expect("text")
        ),
        (301, place)
    );
    let v2 = api.get("/openapi/v2").await.ok();
    assert_eq!(v2["swagger"], "2.0");
    let said = v2["definitions"]["io.k8s.api.core.v1.Pod"]["description"]
        .as_str()
        .expect("prose");
    assert!(said.starts_with("Pod is a collection of containers"), "{said}");
    assert_eq!(api.get("/nothing").await.status.as_u16(), 404);
}

#[tokio::test]
async fn requests_are_counted() {
    let api = Api::start().await;
    api.get("/api/v1/namespaces/default/pods").await.ok();
    let text = api.get("/metrics").await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let line = r#"apiserver_request_total{verb="LIST",dry_run="",group="",version="v1",resource="pods",subresource="",scope="namespace",component="apiserver",code="200",system_client=""} 1"#;
    assert!(text.lines().any(|l| l == line), "{text}");
    assert!(
        text.contains(r#"apiserver_resource_objects{group="",resource="pods"} 0"#),
        "{text}"
    );
}

#[tokio::test]
async fn rights_are_asked_for() {
    let mut api = Api::start().await;
    api.user = Arc::new(UserInfo::authenticated("jane", &[]));
    api.get("/api/v1/namespaces/default/pods").await.fails(
        403,
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
    );
    api.get("/metrics")
        .await
        .fails(403, r#"forbidden: User "jane" cannot get path "/metrics""#);
    assert_eq!(api.get("/healthz").await.body, "ok");
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let refused = api
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            review.clone(),
        )
        .await;
    assert_eq!(refused.status.as_u16(), 403);
    api.user = Arc::new(UserInfo::authenticated("admin", &["system:masters"]));
    let allowed = api
        .post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        .await
        .ok();
    assert_eq!(allowed["status"]["allowed"], true);
}

#[tokio::test]
async fn strangers_see_health_alone() {
    use tower::{Service as _, ServiceExt as _};
    let api = Api::start().await;
    let mut service = api.service.clone();
    for (path, code) in [
        ("/healthz", 200),
        ("/version", 200),
        ("/api", 403),
        ("/api/v1/pods", 403),
        ("/metrics", 403),
    ] {
        for (token, code) in [(None, code), (Some("Bearer nobody.knows.it"), 401)] {
            let mut request = Request::get(path);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            let request = request.body(Body::empty()).expect("request");
            let response = service
                .ready()
                .await
                .expect("ready")
                .call(request)
                .await
                .expect("answer");
            assert_eq!(response.status().as_u16(), code, "{path} with {token:?}");
        }
    }
}
