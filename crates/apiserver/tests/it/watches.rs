//! Watches: what is seen, from where, and when they end.

use super::{Api, MAPS};
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use std::time::Duration;
use wire::body::Body;

/// A watch being read.
pub(super) struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    async fn start(api: &Api, query: &str) -> Self {
        Self::open(api, &format!("{MAPS}?watch=1{query}")).await
    }

    pub(super) async fn open(api: &Api, path: &str) -> Self {
        let request = Request::get(path).body(Body::empty()).expect("request");
        let response = api.send(request).await;
        assert!(response.status().is_success());
        Self {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next event; `None` when the watch has ended.
    pub(super) async fn next(&mut self) -> Option<Json> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).expect("event"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(7200), self.body.frame())
                .await
                .expect("in time")?;
            self.rest
                .extend_from_slice(&frame.expect("frame").into_data().expect("data"));
        }
    }

    /// The next events as `TYPE name`.
    pub(super) async fn expect(&mut self, events: &[&str]) {
        for expect in events {
            let event = self
                .next()
                .await
                .unwrap_or_else(|| panic!("ended before {expect}"));
            let name = event["object"]["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            assert_eq!(
                format!("{} {name}", event["type"].as_str().expect("type")),
                *expect,
                "{event}"
            );
        }
    }
}

fn version(object: &Json) -> String {
    object["metadata"]["resourceVersion"]
        .as_str()
        .expect("version")
        .to_owned()
}

#[tokio::test]
async fn a_watch_shows_what_is_there_and_what_comes() {
    let api = Api::start().await;
    api.config_map("a", "1").await;
    let mut watch = Watch::start(&api, "").await;
    watch.expect(&["ADDED a"]).await;
    api.config_map("b", "1").await;
    let patched = api
        .patch(
            &format!("{MAPS}/a"),
            "merge-patch+json",
            json!({"data": {"k": "w"}}),
        )
        .await
        .ok();
    api.delete(&format!("{MAPS}/b"), Json::Null).await.ok();
    watch.expect(&["ADDED b"]).await;
    let event = watch.next().await.expect("event");
    assert_eq!(event["object"], patched, "the event is the write's answer");
    let event = watch.next().await.expect("event");
    assert_eq!(event["type"], "DELETED");
    assert!(
        version(&event["object"]).parse::<u64>().expect("number")
            > version(&patched).parse().expect("number")
    );
}

#[tokio::test]
async fn a_watch_goes_on_from_a_version() {
    let api = Api::start().await;
    api.config_map("a", "1").await;
    let list = api.get(MAPS).await.ok();
    api.config_map("b", "1").await;
    api.config_map("c", "1").await;
    let mut watch = Watch::start(&api, &format!("&resourceVersion={}", version(&list))).await;
    watch.expect(&["ADDED b", "ADDED c"]).await;
    api.config_map("d", "1").await;
    watch.expect(&["ADDED d"]).await;
    let mut old = Watch::start(&api, "&resourceVersion=1").await;
    let event = old.next().await.expect("event");
    assert_eq!(
        (event["type"].as_str(), event["object"]["code"].as_i64()),
        (Some("ERROR"), Some(410))
    );
    assert!(old.next().await.is_none());
}

#[tokio::test]
async fn selection_follows_changes() {
    let api = Api::start().await;
    let list = api.get(MAPS).await.ok();
    let from = format!("&resourceVersion={}", version(&list));
    let mut ones = Watch::start(&api, &format!("{from}&labelSelector=l%3D1")).await;
    let mut named = Watch::start(&api, &format!("{from}&fieldSelector=metadata.name%3Db")).await;
    let made = api.config_map("a", "1").await;
    api.config_map("b", "2").await;
    let label = |name: &str, l: &str| {
        let (path, body) = (
            format!("{MAPS}/{name}"),
            json!({"metadata": {"labels": {"l": l}}}),
        );
        let api = &api;
        async move { api.patch(&path, "merge-patch+json", body).await.ok() }
    };
    let left = label("a", "2").await;
    label("b", "1").await;
    ones.expect(&["ADDED a"]).await;
    let gone = ones.next().await.expect("event");
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(
        gone["object"]["metadata"]["labels"]["l"], "1",
        "the last state that was selected"
    );
    assert_eq!(version(&gone["object"]), version(&left));
    assert_ne!(version(&gone["object"]), version(&made));
    ones.expect(&["ADDED b"]).await;
    named.expect(&["ADDED b", "MODIFIED b"]).await;
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let api = Api::start().await;
    api.config_map("a", "1").await;
    let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::start(&api, query).await;
    watch.expect(&["ADDED a"]).await;
    let mark = watch.next().await.expect("event");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    api.config_map("b", "1").await;
    watch.expect(&["ADDED b"]).await;
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_when_there_is_news_and_watches_end() {
    let api = Api::start().await;
    let list = api.get(MAPS).await.ok();
    let query = format!(
        "&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds=200",
        version(&list)
    );
    let mut watch = Watch::start(&api, &query).await;
    api.post(
        "/api/v1/namespaces/default/secrets",
        json!({"metadata": {"name": "s"}}),
    )
    .await
    .ok();
    let start = tokio::time::Instant::now();
    let mark = watch.next().await.expect("event");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_ne!(version(&mark["object"]), version(&list));
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(watch.next().await.is_none(), "no more news, so no more bookmarks");
    assert_eq!(start.elapsed().as_secs(), 200);
}

#[tokio::test]
async fn protobuf_frames_are_counted() {
    let api = Api::start().await;
    api.config_map("a", "1").await;
    let request = Request::get(format!("{MAPS}?watch=1"))
        .header("accept", "application/vnd.kubernetes.protobuf;stream=watch")
        .body(Body::empty())
        .expect("request");
    let mut body = api.send(request).await.into_body();
    let frame = body
        .frame()
        .await
        .expect("frame")
        .expect("data")
        .into_data()
        .expect("data");
    let length = u32::from_be_bytes(frame[..4].try_into().expect("four bytes"));
    assert_eq!(length as usize, frame.len() - 4);
    assert!(frame.windows(5).any(|w| w == b"ADDED"));
}
