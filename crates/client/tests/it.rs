//! Informers and queues against a scripted server.

use bytes::Bytes;
use client::{Body, Event, Informers, ObjectKey, Selection, api_service, in_process};
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use k8s_openapi::api::core::v1::ConfigMap;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;

type Answer = (u16, mpsc::UnboundedReceiver<String>);

/// Answers each request with the next scripted stream, and remembers what was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn answer(&self, code: u16) -> mpsc::UnboundedSender<String> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.answers.lock().push_back((code, receiver));
        sender
    }

    fn client(&self) -> kube::Client {
        let script = self.clone();
        let service = api_service(tower::service_fn(move |request: Request<Body>| {
            script.asked.lock().push(request.uri().to_string());
            let answer = script.answers.lock().pop_front();
            async move {
                let Some((code, receiver)) = answer else {
                    futures::future::pending::<()>().await;
                    unreachable!("pending never ends")
                };
                let stream =
                    futures::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|s| (s, r)) });
                let frames = stream.map(|s| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(s))));
                let response = Response::builder()
                    .status(code)
                    .body(StreamBody::new(frames).map_err(|e| e));
                Ok::<_, Infallible>(response.expect("response"))
            }
        }));
        in_process(service, UserInfo::default())
    }
}

fn event(kind: &str, name: &str, rv: u64, data: &str) -> String {
    let object = serde_json::json!({"metadata": {"namespace": "d", "name": name, "uid": format!("u-{name}"),
        "resourceVersion": rv.to_string(), "managedFields": [{"manager": "x"}]}, "data": {"k": data}});
    format!("{}\n", serde_json::json!({"type": kind, "object": object}))
}

fn initial_end(rv: u64) -> String {
    let meta = serde_json::json!({"resourceVersion": rv.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
    format!(
        "{}\n",
        serde_json::json!({"type": "BOOKMARK", "object": {"metadata": meta}})
    )
}

fn map(name: &str, rv: u64, data: &str) -> ConfigMap {
    let text = event("ADDED", name, rv, data);
    let value: serde_json::Value = serde_json::from_str(&text).expect("event");
    serde_json::from_value(value["object"].clone()).expect("config map")
}

/// Subscribes and turns what is heard into words.
fn hear(informer: &client::Informer<ConfigMap>) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    informer.subscribe(move |event| {
        let name = |o: &ConfigMap| o.metadata.name.clone().unwrap_or_default();
        let data = |o: &ConfigMap| o.data.clone().unwrap_or_default()["k"].clone();
        let word = match event {
            Event::Added(o) => format!("+{}={}", name(o), data(o)),
            Event::Updated { old, new } => format!("~{}={}>{}", name(new), data(old), data(new)),
            Event::Deleted(o) => format!("-{}", name(o)),
        };
        sender.send(word).expect("listener");
    });
    receiver
}

async fn expect(heard: &mut mpsc::UnboundedReceiver<String>, words: &[&str]) {
    for word in words {
        assert_eq!(heard.recv().await.as_deref(), Some(*word));
    }
    tokio::task::yield_now().await;
    assert!(heard.try_recv().is_err(), "nothing more");
}

#[tokio::test(start_paused = true)]
async fn streaming_list_then_changes_then_relist_after_expiry() {
    let script = Script::default();
    let first = script.answer(200);
    let informers = Informers::new(script.client());
    let informer = informers.get::<ConfigMap>();
    let mut heard = hear(&informer);
    // An event may arrive in two pieces, or two in one.
    let text = event("ADDED", "a", 5, "1") + &event("ADDED", "b", 6, "1");
    first.send(text[..40].to_owned()).expect("open");
    first.send(text[40..].to_owned()).expect("open");
    expect(&mut heard, &["+a=1", "+b=1"]).await;
    assert!(!informer.has_synced());
    first.send(initial_end(7)).expect("open");
    informer.synced().await;
    first.send(event("MODIFIED", "a", 8, "2")).expect("open");
    first.send(event("MODIFIED", "a", 8, "2")).expect("open");
    first.send(event("DELETED", "b", 9, "1")).expect("open");
    expect(&mut heard, &["~a=1>2", "-b"]).await;
    assert!(
        informer
            .find("d", "a")
            .expect("a")
            .metadata
            .managed_fields
            .is_none()
    );

    // The server closes; the watch goes on from 9, is told it is too old, and lists again.
    let expired = script.answer(200);
    let again = script.answer(200);
    drop(first);
    expired
        .send(format!("{}\n", serde_json::json!({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}})))
        .expect("open");
    again
        .send(event("ADDED", "c", 20, "1") + &initial_end(21))
        .expect("open");
    expect(&mut heard, &["+c=1", "-a"]).await;
    let asked = script.asked.lock().clone();
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(asked[1].contains("&resourceVersion=9"), "{asked:?}");
    assert!(asked[2].contains("sendInitialEvents=true"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_stops_nobody_and_a_plain_list_takes_the_place_of_a_refused_one() {
    let script = Script::default();
    let refused = script.answer(400);
    refused
        .send(r#"{"kind":"Status","status":"Failure","code":400,"reason":"BadRequest"}"#.into())
        .expect("open");
    drop(refused);
    let list = script.answer(200);
    let item = |name: &str, data: &str| {
        format!(r#"{{"metadata":{{"namespace":"d","name":"{name}","resourceVersion":"3"}},"data":{data}}}"#)
    };
    list.send(format!(
        r#"{{"metadata":{{"resourceVersion":"4"}},"items":[{},{}]}}"#,
        item("bad", "7"),
        item("good", r#"{"k":"1"}"#)
    ))
    .expect("open");
    drop(list);
    let watch = script.answer(200);
    let informers = Informers::new(script.client());
    let informer = informers.select::<ConfigMap>(Selection::in_namespace("d").with_labels("a in (b)"));
    informer.synced().await;
    assert_eq!(informer.len(), 1);
    let mut heard = hear(&informer);
    watch.send(event("ADDED", "late", 5, "1")).expect("open");
    expect(&mut heard, &["+good=1", "+late=1"]).await;
    let asked = script.asked.lock().clone();
    assert!(
        asked[0].starts_with("/api/v1/namespaces/d/configmaps?watch=true"),
        "{asked:?}"
    );
    assert!(asked[1].ends_with("labelSelector=a%20in%20%28b%29"), "{asked:?}");
    assert!(asked[2].contains("resourceVersion=4"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn own_writes_show_at_once_and_never_haunt() {
    let script = Script::default();
    let stream = script.answer(200);
    let informers = Informers::new(script.client());
    let informer = informers.get::<ConfigMap>();
    let mut heard = hear(&informer);
    stream.send(initial_end(10)).expect("open");
    informer.synced().await;
    informer.written(map("a", 11, "1"));
    expect(&mut heard, &["+a=1"]).await;
    stream.send(event("ADDED", "a", 11, "1")).expect("open");
    stream.send(event("DELETED", "a", 12, "1")).expect("open");
    expect(&mut heard, &["-a"]).await;
    while informer.seen() < 12 {
        tokio::task::yield_now().await;
    }
    informer.written(map("a", 11, "1"));
    assert!(informer.is_empty(), "the watch is past it");

    informer.written(map("b", 13, "1"));
    let key = ObjectKey::new("d", "b");
    informer.deleting(&key, "u-b", jiff::Timestamp::UNIX_EPOCH);
    assert!(
        informer
            .get(&key)
            .expect("b")
            .metadata
            .deletion_timestamp
            .is_some()
    );
    expect(&mut heard, &["+b=1", "~b=1>1"]).await;
    stream.send(event("MODIFIED", "b", 14, "2")).expect("open");
    expect(&mut heard, &["~b=1>2"]).await;
    assert!(
        informer
            .get(&key)
            .expect("b")
            .metadata
            .deletion_timestamp
            .is_some(),
        "an older state does not unmark it"
    );
}

#[tokio::test(start_paused = true)]
async fn indexes_follow_changes() {
    let informer = client::Informer::fixed([map("a", 1, "x"), map("b", 2, "y")]);
    let index = informer.index("data", |map: &ConfigMap, values| {
        values.extend(map.data.iter().flatten().map(|(_, v)| v.as_str().into()));
    });
    assert_eq!((index.count("x"), index.count("y")), (1, 1));
    informer.written(map("a", 3, "y"));
    assert_eq!((index.count("x"), index.count("y")), (0, 2));
    informer.gone(&ObjectKey::new("d", "b"), "u-b");
    assert_eq!(index.get("y").len(), 1);
}
