//! Lists: selectors, pages, versions, shapes.

use super::{Api, MAPS, PODS, pod};
use serde_json::{Value as Json, json};
use std::sync::Arc;

fn names(list: &Json) -> Vec<&str> {
    list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|i| i["metadata"]["name"].as_str().expect("name"))
        .collect()
}

#[tokio::test]
async fn selectors_select() {
    let api = Api::start().await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        api.config_map(name, label).await;
    }
    let check = |query: &'static str, expect: &'static [&'static str]| {
        let api = &api;
        async move {
            let list = api.get(&format!("{MAPS}?{query}")).await.ok();
            assert_eq!(list["kind"], "ConfigMapList");
            assert_eq!(names(&list), expect, "{query}");
        }
    };
    check("", &["a", "b", "c"]).await;
    check("labelSelector=l%3D1", &["a", "c"]).await;
    check("labelSelector=l%20notin%20(1)", &["b"]).await;
    check("fieldSelector=metadata.name%3Db", &["b"]).await;
    check("fieldSelector=metadata.name!%3Db", &["a", "c"]).await;
    let unknown = api.get(&format!("{MAPS}?fieldSelector=data.k%3Dv")).await;
    assert_eq!(unknown.status.as_u16(), 400);
    assert_eq!(
        api.get("/api/v1/namespaces/none/configmaps").await.ok()["items"],
        json!([])
    );
    assert_eq!(
        names(&api.get("/api/v1/configmaps?labelSelector=l").await.ok()).len(),
        3
    );
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let api = Api::start().await;
    for i in 0..7 {
        api.config_map(&format!("m{i}"), "1").await;
    }
    let first = api.get(&format!("{MAPS}?limit=3")).await.ok();
    assert_eq!(names(&first), ["m0", "m1", "m2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // What happens between two pages is not seen by the second.
    api.config_map("m3a", "1").await;
    api.delete(&format!("{MAPS}/m4"), Json::Null).await.ok();
    api.patch(
        &format!("{MAPS}/m5"),
        "merge-patch+json",
        json!({"data": {"k": "new"}}),
    )
    .await
    .ok();
    let token = first["metadata"]["continue"].as_str().expect("token");
    let second = api.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(second["items"][2]["data"]["k"], "v");
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = second["metadata"]["continue"].as_str().expect("token");
    let third = api.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&third), ["m6"]);
    assert!(third["metadata"]["continue"].is_null());
    assert_eq!(
        api.get(&format!("{MAPS}?limit=3&continue=x"))
            .await
            .status
            .as_u16(),
        400
    );
    let versioned = format!("{MAPS}?limit=3&continue={token}&resourceVersion=1");
    api.get(&versioned).await.fails(
        400,
        "specifying resource version is not allowed when using continue",
    );
    // {"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/a\0"}
    let out = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9zZWNyZXRzL2EifQ";
    api.get(&format!("{MAPS}?limit=3&continue={out}")).await.fails(
        400,
        "invalid continue token: continue key is not valid: ../secrets/a",
    );
}

#[tokio::test]
async fn a_token_that_is_too_old_is_exchanged_for_one_that_goes_on() {
    let api = Api::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["a", "b", "c"] {
        api.post(secrets, json!({"metadata": {"name": name}})).await.ok();
    }
    let revision = api.store.status().await.expect("status").revision;
    let token = serde_json::json!({"v": "meta.k8s.io/v1", "rv": 3, "start": "a\0"}).to_string();
    let token = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token);
    api.store.compact(revision).await.expect("compacts");
    // A server that knows nothing of the past but what the store tells.
    let api = Api::on(Arc::clone(&api.store)).await;
    let old = api.get(&format!("{secrets}?limit=1&continue={token}")).await;
    let old = old.json();
    assert_eq!(
        (old["code"].as_u64(), old["reason"].as_str()),
        (Some(410), Some("Expired")),
        "{old}"
    );
    let token = old["metadata"]["continue"].as_str().expect("a token");
    let rest = api.get(&format!("{secrets}?continue={token}")).await.ok();
    assert_eq!(names(&rest), ["b", "c"]);
}

#[tokio::test]
async fn versions_are_kept_to() {
    let api = Api::start().await;
    let a = api.config_map("a", "1").await;
    let version = a["metadata"]["resourceVersion"]
        .as_str()
        .expect("version")
        .to_owned();
    api.config_map("b", "1").await;
    let exact = api
        .get(&format!(
            "{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact"
        ))
        .await
        .ok();
    assert_eq!(names(&exact), ["a"]);
    assert_eq!(exact["metadata"]["resourceVersion"], version.as_str());
    let newer = api.get(&format!("{MAPS}?resourceVersion={version}")).await.ok();
    assert_eq!(names(&newer), ["a", "b"]);
    let wrong = api.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await;
    assert_eq!(wrong.status.as_u16(), 422);
    // History below the compaction is gone, for lists as for pages.
    let newest: i64 = newer["metadata"]["resourceVersion"]
        .as_str()
        .expect("version")
        .parse()
        .expect("number");
    let fresh = Api::start().await;
    fresh.config_map("x", "1").await;
    let status = fresh.store.status().await.expect("status");
    fresh.store.compact(status.revision).await.expect("compacts");
    let old = fresh
        .get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact"))
        .await;
    assert_eq!(old.status.as_u16(), 410);
    assert_eq!(old.json()["reason"], "Expired");
    assert!(newest > 2);
}

#[tokio::test(start_paused = true)]
async fn a_version_from_the_future_is_waited_for_and_given_up() {
    let api = Api::start().await;
    let answer = api.get(&format!("{MAPS}?resourceVersion=100000")).await;
    assert_eq!(answer.status.as_u16(), 504);
    assert_eq!(
        answer.json()["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
}

#[tokio::test]
async fn tables_and_metadata_alone() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    let table = api
        .get_as(
            PODS,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .await
        .ok();
    assert_eq!(
        (table["kind"].as_str(), table["apiVersion"].as_str()),
        (Some("Table"), Some("meta.k8s.io/v1"))
    );
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = api.get_as(PODS, accept).await.ok();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0]["metadata"]["name"], "a");
    assert!(partial["items"][0]["spec"].is_null());
}

#[tokio::test]
async fn collections_are_deleted_by_selection() {
    let api = Api::start().await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        api.config_map(name, label).await;
    }
    api.delete(&format!("{MAPS}?labelSelector=l%3D1"), Json::Null)
        .await
        .ok();
    assert_eq!(names(&api.get(MAPS).await.ok()), ["b"]);
}

#[tokio::test]
async fn protobuf_lists_are_the_json_lists() {
    use machinery::codec::{json, proto};
    let api = Api::start().await;
    let ty = api::kind(&machinery::gvk::GroupVersionKind::new("", "v1", "ConfigMapList")).expect("table");
    // Few are answered in one piece, many as a stream.
    for count in [0, 1, 100] {
        for i in 0..count {
            let object =
                json!({"metadata": {"name": format!("m{count}-{i}")}, "data": {"k": "x".repeat(i * 40)}});
            api.post(MAPS, object).await.ok();
        }
        let list = api.get_as(MAPS, "application/vnd.kubernetes.protobuf").await;
        let envelope = proto::open_envelope(&list.body).expect("envelope");
        assert_eq!(envelope.kind, "ConfigMapList");
        let list = proto::decode(envelope.raw, api::types(), ty).expect("decodes");
        let expect = api.get(MAPS).await;
        let expect = json::decode(&expect.body, api::types(), ty)
            .expect("a list")
            .value;
        assert_eq!(
            list.get_path(&["metadata", "resourceVersion"]),
            expect.get_path(&["metadata", "resourceVersion"])
        );
        // Only JSON says of each item what it is.
        let bare = |list: &machinery::Value| {
            let mut items = list
                .get("items")
                .and_then(|i| i.as_array())
                .unwrap_or_default()
                .to_vec();
            for item in &mut items {
                item.remove_path(&["apiVersion"]);
                item.remove_path(&["kind"]);
            }
            items
        };
        assert_eq!(bare(&list), bare(&expect));
    }
}

#[tokio::test]
async fn metadata_alone_is_the_same_cut_from_json_and_read_from_the_store() {
    let api = Api::start().await;
    api.config_map("a", "1").await;
    let path = format!("{MAPS}/a");
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let cut = api.get_as(&path, accept).await;
    let whole = api.get(&path).await.ok();
    let partial = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": whole["metadata"]});
    assert_eq!(cut.ok(), partial);
    // A server that has just begun holds no JSON of it.
    let other = Api::on(Arc::clone(&api.store)).await;
    let read = other.get_as(&path, accept).await;
    assert_eq!(read.body, api.get_as(&path, accept).await.body);
}

#[tokio::test]
async fn large_lists_are_compressed_for_who_takes_it() {
    use std::io::Read as _;
    let api = Api::start().await;
    for i in 0..100 {
        let object = json!({"metadata": {"name": format!("m{i:03}")}, "data": {"k": "x".repeat(2000)}});
        api.post(MAPS, object).await.ok();
    }
    let request = http::Request::get(MAPS)
        .header("accept-encoding", "gzip")
        .body(wire::body::Body::empty());
    let answer = super::read(api.send(request.expect("request")).await).await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&answer.body[..])
        .read_to_string(&mut plain)
        .expect("gzip");
    let list: Json = serde_json::from_str(&plain).expect("json");
    assert_eq!(names(&list).len(), 100);
    assert_eq!(api.get(MAPS).await.ok(), list);
}
