//! Webhooks that answer as they should, and endpoints that do not.

use super::endpoint::{CallError, Endpoint};
use super::*;
use crate::admission::Chain;
use crate::admission::plugins::testing::{Fixed, With, object};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Answers by URL: a code and a body in which `UID` stands for the review's.
#[derive(Default, Clone)]
struct Fake {
    answers: Arc<HashMap<String, (u16, String)>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

#[async_trait]
impl Call for Fake {
    async fn post(
        &self,
        endpoint: &Endpoint,
        _: &dyn Objects,
        query: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes), CallError> {
        let url = endpoint.url(query);
        let review = object(std::str::from_utf8(&body).unwrap());
        let uid = review.get_str_path(&["request", "uid"]).unwrap().to_owned();
        self.asked.lock().push((url.clone(), review));
        let url = url.split('?').next().unwrap();
        match self.answers.get(url) {
            Some((code, body)) => Ok((*code, Bytes::from(body.replace("UID", &uid)))),
            None => std::future::pending().await,
        }
    }
}

fn allow(more: &str) -> String {
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"UID","allowed":true{more}}}}}"#
    )
}

fn deny(status: &str) -> String {
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"UID","allowed":false,"status":{status}}}}}"#
    )
}

fn patch(patch: &str) -> String {
    let patch = STANDARD.encode(patch);
    allow(&format!(r#","patchType":"JSONPatch","patch":"{patch}""#))
}

fn hook(name: &str, more: &str) -> String {
    format!(
        r#"{{"name":"{name}","clientConfig":{{"url":"https://{name}"}},"admissionReviewVersions":["v1"],"sideEffects":"None","timeoutSeconds":1,
            "rules":[{{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"]}}]{more}}}"#
    )
}

fn fake(answers: &[(&str, u16, &str)]) -> Fake {
    Fake {
        answers: Arc::new(
            answers
                .iter()
                .map(|(name, code, body)| (format!("https://{name}"), (*code, (*body).to_owned())))
                .collect(),
        ),
        ..Fake::default()
    }
}

fn webhooks(mutating: bool, call: impl Call + 'static, hooks: &[String]) -> Webhooks {
    let resource = if mutating {
        "mutatingwebhookconfigurations"
    } else {
        "validatingwebhookconfigurations"
    };
    let text = format!(
        r#"{{"metadata":{{"name":"c"}},"webhooks":[{}]}}"#,
        hooks.join(",")
    );
    let all = Webhooks {
        call: Box::new(call),
        ..Webhooks::new(resource, mutating)
    };
    all.bind(Arc::new(Fixed(vec![(resource, Arc::new(object(&text)))])));
    all
}

const PODS: (&str, &str, &str) = ("", "pods", "ns");

async fn validate(call: Fake, hooks: &[String], dry_run: bool) -> (Result<(), String>, With) {
    let plugin = ValidatingAdmissionWebhook(webhooks(false, call, hooks));
    let with = With::default();
    let said = {
        let attributes = Attributes {
            dry_run,
            ..with.attributes(Operation::Create, PODS, "", "p")
        };
        let pod = object(r#"{"metadata":{"name":"p"}}"#);
        plugin.validate(&attributes, Some(&pod)).await
    };
    (said.map_err(|error| error.message), with)
}

#[tokio::test(start_paused = true)]
async fn a_no_is_told_and_a_failure_is_the_policys() {
    let yes = allow(r#","warnings":["mind"],"auditAnnotations":{"k":"v"}"#);
    let no = deny(r#"{"message":"not here","code":403,"reason":"Forbidden"}"#);
    let bare = deny("{}");
    let stale = yes.replace("UID", "other");
    let call = fake(&[
        ("yes", 200, &yes),
        ("no", 200, &no),
        ("bare", 200, &bare),
        ("stale", 200, &stale),
        ("broken", 200, "<html>"),
        ("moved", 302, ""),
        ("failing", 500, "oh"),
    ]);
    let (said, with) = validate(call.clone(), &[hook("yes", "")], false).await;
    assert_eq!(said, Ok(()));
    assert_eq!(with.notes.take_warnings(), ["mind"]);
    assert_eq!(
        with.notes.annotations().get("yes/k").map(String::as_str),
        Some("v")
    );
    for (name, expected) in [
        ("no", r#"admission webhook "no" denied the request: not here"#),
        (
            "bare",
            r#"admission webhook "bare" denied the request without explanation"#,
        ),
    ] {
        let ignoring = hook(name, r#","failurePolicy":"Ignore""#);
        let (said, _) = validate(call.clone(), &[hook("yes", ""), ignoring], false).await;
        assert_eq!(said.unwrap_err(), expected);
    }
    for name in ["stale", "broken", "moved", "failing", "silent"] {
        let (said, _) = validate(call.clone(), &[hook(name, r#","failurePolicy":"Fail""#)], false).await;
        let message = said.unwrap_err();
        let head = format!(r#"Internal error occurred: failed calling webhook "{name}": "#);
        assert!(message.starts_with(&head), "{message}");
        let ignoring = hook(name, r#","failurePolicy":"Ignore""#);
        let (said, with) = validate(call.clone(), &[ignoring], false).await;
        assert_eq!(said, Ok(()), "{name}");
        let annotations = with.notes.annotations();
        let key = "failed-open.validating.webhook.admission.k8s.io/round_0_index_0";
        assert_eq!(annotations.get(key).map(String::as_str), Some(name));
    }
    let (said, _) = validate(call.clone(), &[hook("silent", "")], false).await;
    assert!(said.unwrap_err().contains("context deadline exceeded"));
}

#[tokio::test]
async fn what_has_side_effects_is_not_asked_on_a_dry_run() {
    let yes = allow("");
    let call = fake(&[("yes", 200, &yes)]);
    let effects = hook("yes", "").replace(r#""sideEffects":"None""#, r#""sideEffects":"Some""#);
    let (said, _) = validate(call.clone(), &[effects], true).await;
    assert_eq!(
        said.unwrap_err(),
        r#"admission webhook "yes" does not support dry run"#
    );
    assert!(call.asked.lock().is_empty());
    assert_eq!(validate(call, &[hook("yes", "")], true).await.0, Ok(()));
}

#[tokio::test]
async fn patches_add_up_and_bring_others_back() {
    let first = patch(r#"[{"op":"add","path":"/metadata/labels","value":{"a":"1"}}]"#);
    let second = patch(r#"[{"op":"add","path":"/metadata/labels/b","value":"2"}]"#);
    let call = fake(&[("first", 200, &first), ("second", 200, &second)]);
    let hooks = [
        hook("first", r#","reinvocationPolicy":"IfNeeded""#),
        hook("second", ""),
    ];
    let plugin: Arc<dyn Plugin> = Arc::new(MutatingAdmissionWebhook(webhooks(true, call.clone(), &hooks)));
    let chain = Chain::new(vec![plugin]);
    let with = With::default();
    let attributes = with.attributes(Operation::Create, PODS, "", "p");
    let mut pod = object(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}"#);
    chain.admit(&attributes, Some(&mut pod)).await.unwrap();
    let order: Vec<String> = call.asked.lock().iter().map(|(url, _)| url.clone()).collect();
    assert_eq!(
        order,
        [
            "https://first?timeout=1s",
            "https://second?timeout=1s",
            "https://first?timeout=1s"
        ]
    );
    // Asked again, the first one puts its own word over the second's.
    assert_eq!(
        pod.get_path(&["metadata", "labels"]),
        Some(&object(r#"{"a":"1"}"#))
    );
    let asked = call.asked.lock();
    let request = asked[1].1.get("request").unwrap();
    assert_eq!(
        request.get_str_path(&["object", "metadata", "labels", "a"]),
        Some("1")
    );
    assert_eq!(request.get_str_path(&["operation"]), Some("CREATE"));
    assert_eq!(request.get_str_path(&["resource", "resource"]), Some("pods"));
    let notes = with.notes.annotations();
    assert_eq!(
        notes
            .get("mutation.webhook.admission.k8s.io/round_0_index_1")
            .map(String::as_str),
        Some(r#"{"configuration":"c","mutated":true,"webhook":"second"}"#)
    );
}

/// A TLS endpoint that does `behave` with each connection, and what a webhook must be told to find it.
async fn hostile<F>(behave: fn(tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> F) -> Endpoint
where
    F: Future<Output = ()> + Send + 'static,
{
    use rustls::pki_types::pem::PemObject as _;
    let now = jiff::Timestamp::now();
    let authority = wire::certs::Authority::generate("test", now).unwrap();
    let address = [std::net::IpAddr::from([127, 0, 0, 1])];
    let leaf = wire::certs::Leaf::server("hook", Vec::new(), address.to_vec());
    let identity = authority.issue(&leaf, now).unwrap();
    let chain = identity.chain().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(wire::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    behave(stream).await;
                }
            });
        }
    });
    let config = format!(
        r#"{{"url":"https://127.0.0.1:{port}/x","caBundle":"{}"}}"#,
        STANDARD.encode(authority.certificate())
    );
    Endpoint::read(Some(&object(&config)))
}

async fn answer(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, text: Vec<u8>) {
    let mut request = [0; 4096];
    while let Ok(read) = stream.read(&mut request).await {
        if read == 0 || stream.write_all(&text).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn hostile_endpoints_cost_only_their_request() {
    let call = Https::default();
    let none = Fixed(Vec::new());
    let within = async |endpoint: &Endpoint, timeout: Duration| {
        let asked = call.post(endpoint, &none, "timeout=1s", b"{}".to_vec());
        match tokio::time::timeout(timeout, asked).await {
            Ok(said) => said
                .map(|(code, body)| (code, body.len()))
                .map_err(|error| error.to_string()),
            Err(_) => Err("silence".to_owned()),
        }
    };
    let ask = async |endpoint: &Endpoint| within(endpoint, Duration::from_secs(60)).await;
    let good = hostile(|s| answer(s, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())).await;
    // The second goes over the connection of the first.
    for _ in 0..2 {
        assert_eq!(ask(&good).await, Ok((200, 2)));
    }
    let moved = hostile(|s| {
        answer(
            s,
            b"HTTP/1.1 302 Found\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n".to_vec(),
        )
    })
    .await;
    assert_eq!(ask(&moved).await, Ok((302, 0)), "redirects are not followed");
    let silent = hostile(|s| async move {
        let _open = s;
        std::future::pending::<()>().await;
    })
    .await;
    let said = within(&silent, Duration::from_millis(500)).await;
    assert_eq!(said, Err("silence".to_owned()));
    let garbage = hostile(|s| answer(s, b"\x00\x01garbage\r\n\r\n".to_vec())).await;
    assert!(ask(&garbage).await.is_err());
    let cut = hostile(|s| async move {
        let mut s = s;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab";
        if s.write_all(head).await.is_ok() && s.flush().await.is_ok() {
            drop(s.shutdown().await);
        }
    })
    .await;
    assert!(ask(&cut).await.is_err());
    let huge = hostile(|mut s| async move {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        if s.write_all(head).await.is_ok() {
            while s.write_all(&[b'x'; 65536]).await.is_ok() {}
        }
    })
    .await;
    assert!(ask(&huge).await.is_err());
    let stranger = Endpoint::read(Some(&object(&format!(
        r#"{{"url":"{}"}}"#,
        good.url("a").split('?').next().unwrap()
    ))));
    assert!(ask(&stranger).await.is_err(), "nobody vouches for it");
    assert_eq!(ask(&good).await, Ok((200, 2)));
}
