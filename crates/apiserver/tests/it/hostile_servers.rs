//! Other servers that are asked by this one, and are no friends: API services, conversion and admission webhooks that
//! are silent, slow, talk nonsense, send elsewhere, never stop or break off.
//!
//! Each costs the request that asks it at most its time, and nothing else.

use super::{Api, MAPS};
use apiserver::Config;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::clock::SystemClock;
use serde_json::{Value as Json, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use store::Memory;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use wire::certs::{Authority, Leaf};

const FLUNDERS: &str = "/apis/wardle.example.com/v1";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A server that does what the path asks of it.
struct Other {
    port: u16,
    bundle: String,
    /// Told of requests that are never answered.
    asked: Arc<Notify>,
}

impl Other {
    async fn start() -> Self {
        let now = jiff::Timestamp::now();
        let authority = Authority::generate("other", now).expect("an authority");
        let names = vec!["sample.default.svc".to_owned()];
        let leaf = Leaf::server("sample", names, vec![IpAddr::from([127, 0, 0, 1])]);
        let identity = authority.issue(&leaf, now).expect("a certificate");
        let config = rustls::ServerConfig::builder_with_provider(wire::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                identity.chain().expect("a chain"),
                identity.private_key().expect("a key"),
            )
            .expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Notify::new());
        let (acceptor, told) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, &told).await;
                    }
                });
            }
        });
        Self {
            port,
            bundle: STANDARD.encode(authority.certificate()),
            asked,
        }
    }

    /// An API service that leads here.
    async fn aggregated(&self, api: &Api) {
        let service = json!({"metadata": {"name": "sample"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
        api.post("/api/v1/namespaces/default/services", service)
            .await
            .ok();
        let object = json!({"metadata": {"name": "v1.wardle.example.com"}, "spec": {
            "group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": self.bundle, "service": {"namespace": "default", "name": "sample", "port": self.port}}});
        api.post(SERVICES, object).await.ok();
    }
}

/// Reads one request and answers as its path wants.
async fn answer(mut stream: impl tokio::io::AsyncRead + AsyncWrite + Unpin, told: &Notify) {
    let mut read = Vec::new();
    let (head, body) = loop {
        let mut some = [0; 4096];
        match stream.read(&mut some).await {
            Ok(0) | Err(_) => return,
            Ok(n) => read.extend_from_slice(&some[..n]),
        }
        let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        if read.len() >= end + 4 + length {
            break (head, read[end + 4..].to_vec());
        }
    };
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let path = path.split('?').next().unwrap_or_default();
    let whole = |text: String| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
    };
    let said = match path.rsplit('/').next().unwrap_or_default() {
        "v1" => whole(
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1",
                "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]})
            .to_string(),
        ),
        "who" => {
            let said: Vec<&str> = head.lines().filter(|line| line.starts_with("x-remote-")).collect();
            whole(json!(said).to_string())
        }
        "convert" => whole(converted(&body).to_string()),
        "silent" => {
            told.notify_one();
            return std::future::pending().await;
        }
        "slow" => {
            told.notify_one();
            let mut going = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
            while going.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                going = stream.write_all(b"x").await;
            }
            return;
        }
        "closed" => return,
        "garbage" => "what is it that you want?\r\n\r\n".to_owned(),
        "elsewhere" => {
            "HTTP/1.1 302 Found\r\nlocation: https://169.254.169.254/\r\ncontent-length: 0\r\n\r\n".to_owned()
        }
        "broken" => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"items\":".to_owned(),
        "endless" => {
            let start = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"x\":\"";
            let mut going = stream.write_all(start.as_bytes()).await;
            while going.is_ok() {
                going = stream.write_all(&[b'x'; 65_536]).await;
            }
            return;
        }
        "denied" => "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno".to_owned(),
        _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
    };
    // The test has gone, perhaps.
    if stream.write_all(said.as_bytes()).await.is_ok() {
        stream.shutdown().await.ok();
    }
}

/// An answer to a conversion review: the version is another, and `spec.one` has become `spec.two` or back.
fn converted(review: &[u8]) -> Json {
    let review: Json = serde_json::from_slice(review).expect("a review");
    let to = &review["request"]["desiredAPIVersion"];
    let objects: Vec<Json> = review["request"]["objects"]
        .as_array()
        .expect("objects")
        .iter()
        .map(|object| {
            let mut object = object.clone();
            object["apiVersion"] = to.clone();
            let spec = object["spec"].as_object_mut().expect("a spec");
            let (from, into) = if spec.contains_key("one") {
                ("one", "two")
            } else {
                ("two", "one")
            };
            let value = spec.remove(from).expect("a field");
            spec.insert(into.to_owned(), value);
            object
        })
        .collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects}})
}

async fn until_available(api: &Api, reason: &str) -> Json {
    let path = format!("{SERVICES}/v1.wardle.example.com");
    let there = async {
        loop {
            let object = api.get(&path).await.ok();
            if object["status"]["conditions"][0]["reason"] == reason {
                return object;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), there)
        .await
        .expect("checked in time")
}

#[tokio::test]
async fn an_api_service_answers_for_its_group() {
    let api = Api::start().await;
    let other = Other::start().await;
    other.aggregated(&api).await;
    let object = until_available(&api, "Passed").await;
    assert_eq!(object["status"]["conditions"][0]["message"], "all checks passed");
    let who = api
        .get(&format!("{FLUNDERS}/namespaces/default/flunders/who"))
        .await
        .ok();
    assert_eq!(
        who,
        json!([
            "x-remote-user: admin",
            "x-remote-group: system:masters",
            "x-remote-group: system:authenticated"
        ])
    );
    let groups = api.get("/apis").await.ok();
    let groups = groups["groups"].as_array().expect("groups").clone();
    let mut found = groups
        .iter()
        .filter(|group| group["name"] == "wardle.example.com");
    assert_eq!(
        found.next().expect("the group")["preferredVersion"]["version"],
        "v1"
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = api.get_as("/apis", accept).await.ok();
    let items = all["items"].as_array().expect("items");
    let group = items
        .iter()
        .find(|group| group["metadata"]["name"] == "wardle.example.com")
        .expect("the group");
    assert_eq!(group["versions"][0]["freshness"], "Current");
    assert_eq!(group["versions"][0]["resources"][0]["resource"], "flunders");
    api.delete(&format!("{SERVICES}/v1.wardle.example.com"), Json::Null)
        .await
        .ok();
    api.eventually(&format!("{FLUNDERS}/namespaces/default/flunders/who"), false)
        .await;
}

#[tokio::test]
async fn a_hostile_api_service_costs_one_request() {
    let api = Api::start().await;
    let other = Other::start().await;
    other.aggregated(&api).await;
    until_available(&api, "Passed").await;
    let ask = async |what: &str| {
        api.get(&format!("{FLUNDERS}/namespaces/default/flunders/{what}"))
            .await
    };
    assert_eq!(ask("garbage").await.status, 503);
    let moved = ask("elsewhere").await;
    assert_eq!(moved.status, 503);
    assert_eq!(
        moved.body,
        "the backend attempted to redirect this request, which is not permitted\n"
    );
    assert!(!moved.headers.contains_key("location"));
    // What broke off is seen to have.
    let broken = api
        .send(
            http::Request::get(format!("{FLUNDERS}/namespaces/default/flunders/broken"))
                .body(wire::body::Body::empty())
                .expect("a request"),
        )
        .await;
    assert!(
        http_body_util::BodyExt::collect(broken.into_body())
            .await
            .is_err()
    );
    // While one waits, others do not.
    let silent = ask("silent");
    let meanwhile = async {
        other.asked.notified().await;
        api.config_map("meanwhile", "x").await;
        assert_eq!(
            api.get(MAPS).await.ok()["items"].as_array().map(Vec::len),
            Some(1)
        );
        tokio::time::pause();
    };
    let (silent, ()) = tokio::join!(silent, meanwhile);
    silent.fails(
        504,
        "Timeout: request did not complete within the allotted timeout",
    );
}

#[tokio::test]
async fn an_api_service_nobody_answers_for_is_unavailable() {
    let api = Api::start().await;
    let other = Other::start().await;
    other.aggregated(&api).await;
    let patch = json!({"spec": {"caBundle": STANDARD.encode(
        Authority::generate("stranger", jiff::Timestamp::now()).expect("an authority").certificate())}});
    let path = format!("{SERVICES}/v1.wardle.example.com");
    api.patch(&path, "merge-patch+json", patch).await.ok();
    until_available(&api, "FailedDiscoveryCheck").await;
    let refused = api
        .get(&format!("{FLUNDERS}/namespaces/default/flunders/who"))
        .await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body[..]),
        (503, &b"service unavailable\n"[..])
    );
    let patch = json!({"spec": {"service": {"name": "absent"}}});
    api.patch(&path, "merge-patch+json", patch).await.ok();
    let object = until_available(&api, "ServiceNotFound").await;
    assert_eq!(
        object["status"]["conditions"][0]["message"],
        "service/absent in \"default\" is not present"
    );
}

fn definition(other: &Other, what: &str) -> Json {
    let version = |name: &str, storage: bool, field: &str| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {field: {"type": "string"}}}}}},
            "selectableFields": [{"jsonPath": format!(".spec.{field}")}]})
    };
    json!({"metadata": {"name": "things.stable.example.com"}, "spec": {
        "group": "stable.example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
        "versions": [version("v1", true, "one"), version("v2", false, "two")],
        "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {
            "url": format!("https://127.0.0.1:{}/{what}", other.port), "caBundle": other.bundle}}}}})
}

const THINGS: &str = "/apis/stable.example.com/v1/things";
const OTHER_THINGS: &str = "/apis/stable.example.com/v2/things";

async fn thing(api: &Api, name: &str) {
    let object = json!({"apiVersion": "stable.example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": {"one": name}});
    api.post(THINGS, object).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_converts_what_is_stored_and_what_is_written() {
    let api = Api::start().await;
    let other = Other::start().await;
    api.post(CRDS, definition(&other, "convert")).await.ok();
    api.eventually(OTHER_THINGS, true).await;
    thing(&api, "a").await;
    thing(&api, "b").await;
    let got = api.get(&format!("{OTHER_THINGS}/a")).await.ok();
    assert_eq!(
        (&got["apiVersion"], &got["spec"]),
        (&json!("stable.example.com/v2"), &json!({"two": "a"}))
    );
    let list = api.get(OTHER_THINGS).await.ok();
    let specs: Vec<&Json> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|i| &i["spec"])
        .collect();
    assert_eq!(specs, [&json!({"two": "a"}), &json!({"two": "b"})]);
    // Written in one version, stored in the other.
    let object = json!({"apiVersion": "stable.example.com/v2", "kind": "Thing", "metadata": {"name": "c"}, "spec": {"two": "c"}});
    let made = api.post(OTHER_THINGS, object).await.ok();
    assert_eq!(made["spec"], json!({"two": "c"}));
    assert_eq!(
        api.get(&format!("{THINGS}/c")).await.ok()["spec"],
        json!({"one": "c"})
    );
    let patched = api
        .patch(
            &format!("{OTHER_THINGS}/a"),
            "merge-patch+json",
            json!({"spec": {"two": "z"}}),
        )
        .await
        .ok();
    assert_eq!(patched["spec"], json!({"two": "z"}));
    assert_eq!(
        api.get(&format!("{THINGS}/a")).await.ok()["spec"],
        json!({"one": "z"})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_selected_by_the_fields_of_the_version_asked_for() {
    let api = Api::start().await;
    let other = Other::start().await;
    api.post(CRDS, definition(&other, "convert")).await.ok();
    api.eventually(OTHER_THINGS, true).await;
    let watch = async |path: &str| {
        let request = http::Request::get(format!("{path}&watch=true"));
        let request = request.body(wire::body::Body::empty()).expect("a request");
        api.send(request).await.into_body()
    };
    let by_two = format!("{OTHER_THINGS}?fieldSelector=spec.two%3Da");
    let by_one = format!("{THINGS}?fieldSelector=spec.one%3Da");
    let mut watches = vec![watch(&by_two).await, watch(&by_one).await];
    for name in ["a", "b", "c"] {
        thing(&api, name).await;
    }
    let names = async |path: &str| -> Vec<String> {
        let list = api.get(path).await.ok();
        let items = list["items"].as_array().expect("items");
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&by_two).await, ["a"]);
    assert_eq!(names(&by_one).await, ["a"]);
    let others = format!("{OTHER_THINGS}?fieldSelector=spec.two!%3Da");
    assert_eq!(names(&others).await, ["b", "c"]);
    let first = api.get(&format!("{others}&limit=1")).await.ok();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(1));
    let token = first["metadata"]["continue"].as_str().expect("more");
    assert_eq!(names(&format!("{others}&limit=1&continue={token}")).await, ["c"]);
    watches.push(watch(&by_two).await);
    let patch = json!({"spec": {"two": "z"}});
    api.patch(&format!("{OTHER_THINGS}/a"), "merge-patch+json", patch)
        .await
        .ok();
    assert!(names(&by_two).await.is_empty());
    assert!(names(&by_one).await.is_empty());
    for mut body in watches {
        let mut seen: Vec<u8> = Vec::new();
        while !seen.ends_with(b"}\n") || !String::from_utf8_lossy(&seen).contains("DELETED") {
            let frame = http_body_util::BodyExt::frame(&mut body).await;
            let frame = frame.expect("the watch goes on").expect("a frame");
            seen.extend_from_slice(frame.data_ref().expect("data"));
        }
        let events: Vec<(String, String)> = String::from_utf8_lossy(&seen)
            .lines()
            .map(|line| serde_json::from_str::<Json>(line).expect("an event"))
            .map(|event| {
                let text = |value: &Json| value.as_str().expect("text").to_owned();
                (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
            })
            .collect();
        let event = |kind: &str| (kind.to_owned(), "a".to_owned());
        assert_eq!(events, [event("ADDED"), event("DELETED")]);
    }
    let deleted = format!("{OTHER_THINGS}?fieldSelector=spec.two%3Db");
    api.delete(&deleted, Json::Null).await.ok();
    assert_eq!(names(OTHER_THINGS).await, ["a", "c"]);
}

#[tokio::test]
async fn a_hostile_conversion_webhook_costs_one_request() {
    let api = Api::start().await;
    let other = Other::start().await;
    api.post(CRDS, definition(&other, "denied")).await.ok();
    api.eventually(OTHER_THINGS, true).await;
    thing(&api, "a").await;
    let crd = format!("{CRDS}/things.stable.example.com");
    for what in ["denied", "garbage", "elsewhere", "broken", "endless", "v1"] {
        let url = format!("https://127.0.0.1:{}/{what}", other.port);
        let patch = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": url}}}}});
        api.patch(&crd, "merge-patch+json", patch).await.ok();
        api.eventually(THINGS, true).await;
        let refused = api.get(&format!("{OTHER_THINGS}/a")).await;
        let said = refused.json();
        assert_eq!(refused.status, 500, "{what}: {said}");
        assert!(
            said["message"].as_str().is_some_and(|message| message
                .contains("conversion webhook for stable.example.com/v1, Kind=Thing failed: ")),
            "{what}: {said}"
        );
        assert_eq!(
            api.get(&format!("{THINGS}/a")).await.ok()["spec"],
            json!({"one": "a"}),
            "{what}"
        );
    }
    let url = format!("https://127.0.0.1:{}/silent", other.port);
    let patch = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": url}}}}});
    api.patch(&crd, "merge-patch+json", patch).await.ok();
    let path = format!("{OTHER_THINGS}/a");
    let silent = async {
        // The definition's change is served soon after it is stored.
        loop {
            let answer = api.get(&path).await;
            if answer.json()["message"]
                .as_str()
                .is_some_and(|m| m.contains("deadline"))
            {
                return answer;
            }
        }
    };
    let meanwhile = async {
        other.asked.notified().await;
        api.config_map("meanwhile", "x").await;
        assert_eq!(
            api.get(&format!("{THINGS}/a")).await.ok()["spec"],
            json!({"one": "a"})
        );
        tokio::time::pause();
    };
    let (silent, ()) = tokio::join!(silent, meanwhile);
    assert_eq!(silent.status, 500);
}

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// What the webhook in effect makes of a new object, once `wanted` says that it is the one that is meant.
async fn judged(api: &Api, wanted: impl Fn(&super::Answer) -> bool) -> super::Answer {
    let mut last = None;
    let asked = async {
        loop {
            let answer = api
                .post(MAPS, json!({"metadata": {"generateName": "judged-"}}))
                .await;
            if wanted(&answer) {
                return answer;
            }
            last = Some(answer.body);
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(120), asked).await;
    answer.unwrap_or_else(|_| panic!("the configuration takes no effect: {last:?}"))
}

#[tokio::test]
async fn a_hostile_admission_webhook_costs_one_request() {
    let config = Config {
        admission: access::admission::plugins::chain(&[], &[]).expect("known plugins"),
        ..Config::new(Arc::new(Memory::new()), Arc::new(SystemClock))
    };
    let api = Api::with(config).await;
    let other = Other::start().await;
    let leads = |what: &str| {
        let url = format!("https://127.0.0.1:{}/{what}", other.port);
        json!({"url": url, "caBundle": other.bundle})
    };
    let hook = json!({"name": "hook.example.com", "clientConfig": leads("denied"), "timeoutSeconds": 1,
        "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
    let object = json!({"metadata": {"name": "hook"}, "webhooks": [hook.clone()]});
    api.post(HOOKS, object).await.ok();
    let lead = async |what: &str, policy: &str| {
        let mut hook = hook.clone();
        hook["clientConfig"] = leads(what);
        hook["failurePolicy"] = json!(policy);
        let patch = json!({"webhooks": [hook]});
        api.patch(&format!("{HOOKS}/hook"), "merge-patch+json", patch)
            .await
            .ok();
    };
    let failed = "Internal error occurred: failed calling webhook \"hook.example.com\": ";
    let said = |answer: &super::Answer| answer.json()["message"].as_str().unwrap_or_default().to_owned();
    for (what, why) in [
        ("denied", "failed to call webhook: "),
        ("garbage", "failed to call webhook: Post "),
        ("elsewhere", "failed to call webhook: "),
        ("broken", "failed to call webhook: Post "),
        ("endless", "failed to call webhook: Post "),
        ("closed", "failed to call webhook: Post "),
        ("v1", "received invalid webhook response: "),
        ("silent", "context deadline exceeded"),
        ("slow", "context deadline exceeded"),
    ] {
        lead(what, "Fail").await;
        let refused =
            async { judged(&api, |answer| answer.status == 500 && said(answer).contains(why)).await };
        let refused = if matches!(what, "silent" | "slow") {
            let meanwhile = async {
                other.asked.notified().await;
                let secret = json!({"metadata": {"name": what}});
                api.post("/api/v1/namespaces/default/secrets", secret).await.ok();
                api.get(MAPS).await.ok();
            };
            tokio::join!(refused, meanwhile).0
        } else {
            refused.await
        };
        assert!(said(&refused).starts_with(failed), "{what}: {}", said(&refused));
        lead(what, "Ignore").await;
        judged(&api, |answer| answer.status == 201).await;
    }
    api.delete(&format!("{HOOKS}/hook"), Json::Null).await.ok();
    judged(&api, |answer| answer.status == 201).await;
}
