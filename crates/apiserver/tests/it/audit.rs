//! Audit: which requests leave which events, and what they hold.

use super::{Api, MAPS};
use access::audit::{Auditor, Backend, Event, Policy};
use apiserver::Config;
use http::{Method, Request};
use machinery::clock::SystemClock;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use store::Memory;
use wire::body::Body;

/// Keeps events as they would be written.
#[derive(Default)]
struct Kept(Mutex<Vec<Json>>);

impl Backend for Kept {
    fn take(&self, event: &Event) -> bool {
        let event = serde_json::to_value(event).expect("an event is JSON");
        // What the server does when it starts is nobody's request.
        self.0.lock().push(event);
        true
    }
}

async fn start(rules: &str) -> (Api, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let policy = Policy::parse(&format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}"
    ))
    .expect("valid");
    let clock = Arc::new(SystemClock);
    let auditor = Auditor::new(policy, vec![Arc::clone(&kept) as Arc<dyn Backend>], clock.clone());
    let config = Config {
        audit: Some(Arc::new(auditor)),
        ..Config::new(Arc::new(Memory::new()), clock)
    };
    (Api::with(config).await, kept)
}

fn stages(kept: &Kept) -> Vec<String> {
    kept.0
        .lock()
        .iter()
        .map(|event| event["stage"].as_str().expect("stage").to_owned())
        .collect()
}

#[tokio::test]
async fn levels_say_how_much_is_told() {
    let check = async |level: &str, request: bool, response: bool| {
        let (api, kept) = start(&format!(
            "- level: {level}\n  resources: [{{group: \"\", resources: [configmaps]}}]\n"
        ))
        .await;
        let map = json!({"metadata": {"name": "m"}, "data": {"k": "v"}});
        api.post(MAPS, map).await.ok();
        api.get("/api/v1/namespaces/default/secrets").await.ok();
        assert_eq!(stages(&kept), ["RequestReceived", "ResponseComplete"], "{level}");
        let events = kept.0.lock().clone();
        let event = &events[1];
        assert_eq!(event["kind"], "Event");
        assert_eq!(event["apiVersion"], "audit.k8s.io/v1");
        assert_eq!(event["level"], level);
        assert_eq!(event["verb"], "create");
        assert_eq!(event["requestURI"], MAPS);
        assert_eq!(event["user"]["username"], "admin");
        assert_eq!(event["userAgent"], "test/1");
        assert_eq!(event["objectRef"]["resource"], "configmaps");
        assert_eq!(event["objectRef"]["namespace"], "default");
        assert_eq!(event["objectRef"]["name"], "m", "known from what was sent");
        assert_eq!(event["responseStatus"]["code"], 201);
        assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
        assert_eq!(event["auditID"], events[0]["auditID"]);
        assert_eq!(event["requestObject"]["data"]["k"] == "v", request, "{event}");
        assert_eq!(event["responseObject"]["data"]["k"] == "v", response, "{event}");
        let time = event["stageTimestamp"].as_str().expect("time");
        assert_eq!(time.len(), "2026-01-02T03:04:05.000000Z".len());
    };
    check("Metadata", false, false).await;
    check("Request", true, false).await;
    check("RequestResponse", true, true).await;
}

#[tokio::test]
async fn refusals_watches_and_impersonation_are_told() {
    let (api, kept) = start("- level: Metadata\n  omitStages: [RequestReceived]\n").await;
    let send = async |name: &str, request: Request<Body>| {
        kept.0.lock().clear();
        let groups: &[&str] = if name == "admin" { &["system:masters"] } else { &[] };
        let user = Arc::new(UserInfo::authenticated(name, groups));
        let response = api.service.call_as(user, request).await;
        let code = response.status().as_u16();
        (code, response)
    };
    let get = |path: &str| Request::builder().method(Method::GET).uri(path);
    let (code, _) = send("eve", get(MAPS).body(Body::empty()).expect("request")).await;
    assert_eq!(code, 403);
    let event = kept.0.lock()[0].clone();
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");
    assert_eq!(event["responseStatus"]["status"], "Failure");

    let watch = format!("{MAPS}?watch=1");
    let (_, response) = send("admin", get(&watch).body(Body::empty()).expect("request")).await;
    assert_eq!(stages(&kept), ["ResponseStarted"], "a watch goes on");
    drop(response);
    assert_eq!(stages(&kept), ["ResponseStarted", "ResponseComplete"]);

    let request = get(MAPS)
        .header("impersonate-user", "alice")
        .header("impersonate-group", "dev");
    let (code, _) = send("admin", request.body(Body::empty()).expect("request")).await;
    assert_eq!(code, 403);
    let event = kept.0.lock()[0].clone();
    assert_eq!(event["user"]["username"], "admin");
    assert_eq!(event["impersonatedUser"]["username"], "alice");
    assert_eq!(
        event["impersonatedUser"]["groups"],
        json!(["dev", "system:authenticated"])
    );

    // Whom nobody knows.
    kept.0.lock().clear();
    let request = get(MAPS)
        .header("authorization", "Bearer x")
        .body(Body::empty())
        .expect("request");
    let response = tower::ServiceExt::oneshot(api.service.clone(), request)
        .await
        .expect("infallible");
    assert_eq!(response.status().as_u16(), 401);
    let events = kept.0.lock().clone();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["stage"], "ResponseStarted");
    assert_eq!(
        events[0]["responseStatus"]["message"],
        "Authentication failed, attempted: bearer"
    );
}

#[tokio::test]
async fn managed_fields_are_left_out_where_told() {
    let (api, kept) = start("- level: RequestResponse\n  omitManagedFields: true\n  verbs: [list]\n").await;
    api.config_map("m", "l").await;
    let list = api.get(MAPS).await.ok();
    assert!(list["items"][0]["metadata"]["managedFields"].is_array());
    let events = kept.0.lock().clone();
    let item = &events.last().expect("an event")["responseObject"]["items"][0];
    assert_eq!(item["metadata"]["name"], "m");
    assert!(item["metadata"]["managedFields"].is_null());
}
