//! Webhooks that answer: what they are asked, what is kept of it, and the batches audit sends.

use super::outside::Service;
use access::audit::{Auditor, Backend, BatchOptions, Policy, Request, Stage, Webhook as AuditWebhook};
use access::authentication::webhook::WebhookTokens;
use access::authentication::{Authenticator, Credentials, Outcome};
use access::authorization::webhook::{FailurePolicy, Options, Webhook};
use access::authorization::{Attributes, Authorizer, Decision};
use access::remote::Remote;
use http::{HeaderMap, HeaderValue};
use machinery::clock::SystemClock;
use machinery::user::UserInfo;
use serde_json::{Value as Json, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a service was sent.
type Sent = Arc<Mutex<Vec<(String, Json)>>>;

async fn service(answer: impl Fn(&Json) -> (u16, Json) + Send + Sync + 'static) -> (Service, Remote, Sent) {
    let sent = Sent::default();
    let kept = Arc::clone(&sent);
    let service = Service::start(move |path, body| {
        let body: Json = serde_json::from_str(body).expect("JSON");
        let (code, answer) = answer(&body);
        kept.lock().expect("lock").push((path.to_owned(), body));
        (code, answer.to_string())
    })
    .await;
    let remote = Remote::from_config(service.kubeconfig(), Duration::from_secs(60))
        .await
        .expect("a remote");
    (service, remote, sent)
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_is_asked_once() {
    let (_service, remote, sent) = service(|review| {
        let user = json!({"username": "alice", "uid": "u", "groups": ["dev"], "extra": {"k": ["v"]}});
        let known = review["spec"]["token"] == "good";
        (
            200,
            json!({"kind": "TokenReview", "status": {"authenticated": known, "user": user}}),
        )
    })
    .await;
    let webhook = WebhookTokens::new(remote, "v1", vec!["us".to_owned()], Duration::from_secs(120));
    for _ in 0..3 {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::AUTHORIZATION,
            HeaderValue::from_static("Bearer good"),
        );
        let credentials = Credentials {
            headers: &headers,
            connection: None,
        };
        let Ok(Outcome::User(user)) = webhook.authenticate(&credentials).await else {
            panic!("known");
        };
        assert_eq!(user.groups, ["dev", "system:authenticated"]);
        assert_eq!(user.extra["k"], ["v"]);
        headers.insert(
            http::header::AUTHORIZATION,
            HeaderValue::from_static("Bearer bad"),
        );
        let credentials = Credentials {
            headers: &headers,
            connection: None,
        };
        assert!(matches!(
            webhook.authenticate(&credentials).await,
            Ok(Outcome::NotMine)
        ));
    }
    let sent = sent.lock().expect("lock");
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].0, "/ask");
    assert_eq!(sent[0].1["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(sent[0].1["spec"]["audiences"], json!(["us"]));
}

#[tokio::test]
async fn a_webhook_decides_what_its_conditions_let_through() {
    let (_service, remote, sent) = service(|review| {
        let status = match review["spec"]["resourceAttributes"]["resource"].as_str() {
            Some("pods") => json!({"allowed": true}),
            Some("secrets") => json!({"allowed": false, "denied": true, "reason": "never"}),
            Some("both") => json!({"allowed": true, "denied": true}),
            _ => json!({"allowed": false, "reason": "who knows"}),
        };
        (201, json!({"kind": "SubjectAccessReview", "status": status}))
    })
    .await;
    let options = Options {
        name: "w".to_owned(),
        version: "v1".to_owned(),
        keep_allowed: Some(Duration::from_secs(300)),
        keep_refused: Some(Duration::from_secs(30)),
        failure_policy: FailurePolicy::Deny,
    };
    let conditions = [
        "has(request.resourceAttributes)".to_owned(),
        "request.resourceAttributes.namespace != 'kube-system'".to_owned(),
    ];
    let webhook = Webhook::new(remote, options, &conditions).expect("they compile");
    let user = UserInfo::authenticated("alice", &["dev"]);
    let of = |resource| Attributes {
        namespace: "team",
        ..Attributes::resource(&user, "list", "", resource)
    };
    let own = |text: &str| text.to_owned();
    for _ in 0..2 {
        assert_eq!(webhook.authorize(&of("pods")).await, Decision::Allow);
        assert_eq!(
            webhook.authorize(&of("secrets")).await,
            Decision::Deny(own("never"))
        );
        assert_eq!(
            webhook.authorize(&of("nodes")).await,
            Decision::NoOpinion(own("who knows"))
        );
    }
    assert!(
        matches!(webhook.authorize(&of("both")).await, Decision::Deny(_)),
        "an answer that contradicts itself"
    );
    let before = sent.lock().expect("lock").len();
    assert_eq!(before, 4, "answers are kept, contradictions are not");
    let quiet = Decision::NoOpinion(String::new());
    assert_eq!(
        webhook
            .authorize(&Attributes {
                namespace: "kube-system",
                ..of("pods")
            })
            .await,
        quiet
    );
    assert_eq!(
        webhook
            .authorize(&Attributes::path(&user, "get", "/metrics"))
            .await,
        quiet
    );
    assert_eq!(
        sent.lock().expect("lock").len(),
        before,
        "conditions keep it from being asked"
    );
    let selected = Attributes {
        field_selector: Some("spec.nodeName=n1"),
        label_selector: Some("a in (b,c),!d"),
        ..of("pods")
    };
    assert_eq!(webhook.authorize(&selected).await, Decision::Allow);
    let last = sent.lock().expect("lock").last().expect("asked").1.clone();
    let spec = &last["spec"];
    assert_eq!(spec["user"], "alice");
    assert_eq!(spec["groups"], json!(["dev", "system:authenticated"]));
    let attributes = &spec["resourceAttributes"];
    assert_eq!(
        attributes["fieldSelector"]["requirements"],
        json!([{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}])
    );
    let labels = attributes["labelSelector"]["requirements"]
        .as_array()
        .expect("requirements");
    assert!(
        labels.contains(&json!({"key": "a", "operator": "In", "values": ["b", "c"]})),
        "{labels:?}"
    );
    assert!(
        labels.contains(&json!({"key": "d", "operator": "DoesNotExist"})),
        "{labels:?}"
    );
}

#[tokio::test]
async fn conditions_that_are_none_are_refused() {
    let (_service, remote, _) = service(|_| (200, json!({}))).await;
    for text in ["request.", "request.nothing", "request.user", "1 + 'a'"] {
        let options = Options {
            name: "w".to_owned(),
            version: "v1".to_owned(),
            keep_allowed: None,
            keep_refused: None,
            failure_policy: FailurePolicy::NoOpinion,
        };
        assert!(
            Webhook::new(remote.clone(), options, &[text.to_owned()]).is_err(),
            "{text}"
        );
    }
}

#[tokio::test]
async fn audit_events_come_in_batches_and_again_after_a_failure() {
    let failures = Arc::new(Mutex::new(1));
    let left = Arc::clone(&failures);
    let (_service, remote, sent) = service(move |_| {
        let mut left = left.lock().expect("lock");
        if *left > 0 {
            *left -= 1;
            return (500, json!({}));
        }
        (200, json!({}))
    })
    .await;
    let options = BatchOptions {
        max_size: 3,
        max_wait: Duration::from_millis(50),
        initial_backoff: Duration::from_millis(10),
        ..BatchOptions::default()
    };
    let webhook: Arc<dyn Backend> = Arc::new(AuditWebhook::start(remote, options));
    let policy = Policy::parse(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, omitStages: [RequestReceived]}]",
    );
    let auditor = Arc::new(Auditor::new(
        policy.expect("valid"),
        vec![webhook],
        Arc::new(SystemClock),
    ));
    let user = UserInfo::authenticated("alice", &[]);
    for n in 0..5 {
        let request = || Request {
            audit_id: format!("id-{n}"),
            ..Request::default()
        };
        let record = auditor
            .begin(&Attributes::path(&user, "get", "/x"), request)
            .expect("wanted");
        record.response_status(200, None);
        assert!(record.stage(Stage::ResponseComplete));
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let ids = loop {
        let mut ids: Vec<String> = Vec::new();
        for (_, list) in sent.lock().expect("lock").iter().skip(1) {
            assert_eq!(list["kind"], "EventList");
            let items = list["items"].as_array().expect("items");
            assert!(items.len() <= 3);
            ids.extend(
                items
                    .iter()
                    .map(|item| item["auditID"].as_str().expect("id").to_owned()),
            );
        }
        ids.sort();
        ids.dedup();
        if ids.len() == 5 {
            break ids;
        }
        assert!(tokio::time::Instant::now() < deadline, "{ids:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(ids, ["id-0", "id-1", "id-2", "id-3", "id-4"]);
}
