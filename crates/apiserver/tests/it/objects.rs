//! Creating, changing and deleting single objects.

use super::{Api, DEPLOYMENTS, MAPS, PODS, deployment, pod};
use http::Method;
use serde_json::{Value as Json, json};

#[tokio::test]
async fn create_completes_and_get_says_the_same() {
    let api = Api::start().await;
    let made = api.post(DEPLOYMENTS, deployment("web")).await.ok();
    assert_eq!(made["apiVersion"], "apps/v1");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(
        made["spec"]["replicas"], 1,
        "defaults of the tables and the strategy"
    );
    assert_eq!(
        made["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"],
        "/dev/termination-log"
    );
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "test");
    assert!(made["metadata"]["uid"].as_str().is_some_and(|u| u.len() == 36));
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/web")).await.ok(), made);
    api.post(DEPLOYMENTS, deployment("web"))
        .await
        .fails(409, r#"deployments.apps "web" already exists"#);
}

#[tokio::test]
async fn the_store_holds_upstreams_keys_and_envelope() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    let kv = api
        .store
        .get(b"/registry/pods/default/a")
        .await
        .expect("store")
        .kv
        .expect("stored");
    assert!(
        kv.value.starts_with(b"k8s\0\n\t\n\x02v1\x12\x03Pod"),
        "{:?}",
        kv.value
    );
    for key in [
        "/registry/namespaces/default",
        "/registry/priorityclasses/system-node-critical",
    ] {
        assert!(
            api.store.get(key.as_bytes()).await.expect("store").kv.is_some(),
            "{key}"
        );
    }
}

#[tokio::test]
async fn names_are_generated() {
    let api = Api::start().await;
    let object = json!({"metadata": {"generateName": "x-"}});
    let first = api.post(MAPS, object.clone()).await.ok();
    let second = api.post(MAPS, object).await.ok();
    let name = |o: &Json| o["metadata"]["name"].as_str().expect("name").to_owned();
    assert!(name(&first).starts_with("x-") && name(&first).len() == 7);
    assert_ne!(name(&first), name(&second));
    api.post(MAPS, json!({"metadata": {}})).await.fails(
        422,
        r#"ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required"#,
    );
    let bad = api.post(MAPS, json!({"metadata": {"name": "A"}})).await;
    assert_eq!(bad.status.as_u16(), 422);
    assert_eq!(bad.json()["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn updates_want_the_newest_version() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    let mut object = api.config_map("a", "1").await;
    object["data"]["k"] = json!("w");
    let changed = api.put(&path, &object).await.ok();
    assert_ne!(
        changed["metadata"]["resourceVersion"],
        object["metadata"]["resourceVersion"]
    );
    api.put(&path, &object).await.fails(
        409,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
    // Without a version whatever stands there is replaced; the same again changes nothing.
    object["metadata"]
        .as_object_mut()
        .expect("object")
        .remove("resourceVersion");
    object["data"]["k"] = json!("x");
    let third = api.put(&path, &object).await.ok();
    let fourth = api.put(&path, &object).await.ok();
    assert_eq!(
        third["metadata"]["resourceVersion"],
        fourth["metadata"]["resourceVersion"]
    );
    object["metadata"]["name"] = json!("b");
    api.put(&path, &object).await.fails(
        400,
        "the name of the object (b) does not match the name on the URL (a)",
    );
    api.put(&format!("{MAPS}/none"), &json!({"metadata": {"name": "none"}}))
        .await
        .fails(404, r#"configmaps "none" not found"#);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    let mut object = deployment("web");
    object["status"] = json!({"replicas": 7});
    let mut object = api.post(DEPLOYMENTS, object).await.ok();
    assert!(object["status"].as_object().is_none_or(|s| s.is_empty()));
    object["status"] = json!({"replicas": 7});
    object["spec"]["replicas"] = json!(9);
    let by_status = api.put(&format!("{path}/status"), &object).await.ok();
    assert_eq!(
        (
            by_status["status"]["replicas"].as_i64(),
            by_status["spec"]["replicas"].as_i64()
        ),
        (Some(7), Some(1))
    );
    assert_eq!(by_status["metadata"]["generation"], 1);
    let mut object = by_status;
    object["status"] = json!({"replicas": 8});
    object["spec"]["replicas"] = json!(9);
    let by_spec = api.put(&path, &object).await.ok();
    assert_eq!(
        (
            by_spec["status"]["replicas"].as_i64(),
            by_spec["spec"]["replicas"].as_i64()
        ),
        (Some(7), Some(9))
    );
    assert_eq!(by_spec["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_is_a_view_of_the_object() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = api.get(&path).await.ok();
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()),
        (Some("Scale"), Some(1))
    );
    assert_eq!(scale["status"]["selector"], "a=b");
    scale["spec"]["replicas"] = json!(4);
    api.put(&path, &scale).await.ok();
    let patched = api
        .patch(&path, "merge-patch+json", json!({"spec": {"replicas": 5}}))
        .await
        .ok();
    assert_eq!(patched["spec"]["replicas"], 5);
    assert_eq!(
        api.get(&format!("{DEPLOYMENTS}/web")).await.ok()["spec"]["replicas"],
        5
    );
}

#[tokio::test]
async fn deletion_honours_finalizers_and_preconditions() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    let object = json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}});
    let made = api.post(MAPS, object).await.ok();
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api.delete(&path, wrong).await.status.as_u16(), 409);
    let marked = api.delete(&path, Json::Null).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["uid"], made["metadata"]["uid"]);
    let body = json!({"metadata": {"finalizers": ["example.com/f", "example.com/g"]}});
    let refused = api.patch(&path, "merge-patch+json", body).await;
    assert_eq!(refused.status.as_u16(), 422);
    api.patch(
        &path,
        "merge-patch+json",
        json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    api.get(&path).await.fails(404, r#"configmaps "a" not found"#);
}

#[tokio::test]
async fn propagation_leaves_a_finalizer_for_the_collector() {
    let api = Api::start().await;
    for (name, policy, finalizer) in [
        ("a", "Orphan", "orphan"),
        ("b", "Foreground", "foregroundDeletion"),
    ] {
        api.config_map(name, "1").await;
        let marked = api
            .delete(&format!("{MAPS}/{name}"), json!({"propagationPolicy": policy}))
            .await
            .ok();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
    }
    api.config_map("c", "1").await;
    let gone = api
        .delete(&format!("{MAPS}/c"), json!({"propagationPolicy": "Background"}))
        .await
        .ok();
    assert_eq!(
        (gone["kind"].as_str(), gone["status"].as_str()),
        (Some("Status"), Some("Success"))
    );
    assert_eq!(gone["details"]["kind"], "configmaps");
}

#[tokio::test]
async fn pods_go_gracefully() {
    let api = Api::start().await;
    api.post(PODS, pod("a")).await.ok();
    // Nobody runs it yet, so nobody has to be told.
    let path = format!("{PODS}/a");
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    api.post(&format!("{path}/binding"), binding.clone()).await.ok();
    let bound = api.get(&path).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert!(
        bound["status"]["conditions"]
            .as_array()
            .expect("conditions")
            .iter()
            .any(|c| c["type"] == "PodScheduled")
    );
    api.post(&format!("{path}/binding"), binding).await.fails(
        409,
        r#"Operation cannot be fulfilled on pods/binding "a": pod a is already assigned to node "n""#,
    );
    let marked = api.delete(&path, Json::Null).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let same = api.delete(&path, json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(
        same["metadata"]["deletionGracePeriodSeconds"], 30,
        "grace is only ever shortened"
    );
    let less = api.delete(&path, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(less["metadata"]["deletionGracePeriodSeconds"], 5);
    api.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(api.get(&path).await.status.as_u16(), 404);
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let api = Api::start().await;
    let made = api
        .post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_null());
    assert_eq!(api.get(&format!("{MAPS}/a")).await.status.as_u16(), 404);
    api.config_map("a", "1").await;
    let patch = json!({"data": {"k": "dry"}});
    let patched = api
        .patch(&format!("{MAPS}/a?dryRun=All"), "merge-patch+json", patch)
        .await
        .ok();
    assert_eq!(patched["data"]["k"], "dry");
    api.delete(&format!("{MAPS}/a?dryRun=All"), Json::Null).await.ok();
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok()["data"]["k"], "v");
    let refused = api
        .post(&format!("{MAPS}?dryRun=x"), json!({"metadata": {"name": "b"}}))
        .await;
    assert_eq!(refused.status.as_u16(), 422);
}

#[tokio::test]
async fn unknown_fields_are_met_as_asked() {
    let api = Api::start().await;
    let object = |name: &str| json!({"metadata": {"name": name}, "dta": {"k": "v"}});
    let warned = api.post(MAPS, object("a")).await;
    assert_eq!(warned.warnings(), [r#"299 - "unknown field \"dta\"""#]);
    assert_eq!(warned.status.as_u16(), 201);
    let ignored = api
        .post(&format!("{MAPS}?fieldValidation=Ignore"), object("b"))
        .await;
    assert!(ignored.warnings().is_empty() && ignored.status.as_u16() == 201);
    api.post(&format!("{MAPS}?fieldValidation=Strict"), object("c")).await.fails(
        400,
        r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dta""#,
    );
}

#[tokio::test]
async fn bad_bodies_are_refused() {
    let api = Api::start().await;
    let send = |kind: &'static str, body: Vec<u8>| api.call(Method::POST, MAPS, kind, body);
    let large = format!(
        r#"{{"metadata":{{"name":"a"}},"data":{{"k":"{}"}}}}"#,
        "x".repeat(3 << 20)
    );
    let refused = send("application/json", large.into_bytes()).await;
    refused.fails(413, "Request entity too large: limit is 3145728");
    let deep = format!(
        r#"{{"metadata":{{"name":"a"}},"x":{}{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert_eq!(
        send("application/json", deep.into_bytes()).await.status.as_u16(),
        400
    );
    assert_eq!(send("text/plain", b"x".to_vec()).await.status.as_u16(), 415);
    assert_eq!(send("application/json", b"{".to_vec()).await.status.as_u16(), 400);
    let kind = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}});
    let wrong = api.post(MAPS, kind).await;
    assert_eq!(wrong.status.as_u16(), 400);
    let version = json!({"kind": "ConfigMap", "apiVersion": "apps/v1", "metadata": {"name": "a"}});
    assert_eq!(api.post(MAPS, version).await.status.as_u16(), 400);
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "other"}});
    api.post(MAPS, elsewhere).await.fails(
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    );
}

#[tokio::test]
async fn yaml_and_protobuf_are_read_and_written() {
    let api = Api::start().await;
    let yaml = "metadata:\n  name: a\ndata:\n  k: v\n";
    let made = api.call(Method::POST, MAPS, "application/yaml", yaml).await.ok();
    assert_eq!(made["data"]["k"], "v");
    let path = format!("{MAPS}/a");
    let shown = api.get_as(&path, "application/yaml").await;
    assert!(
        String::from_utf8_lossy(&shown.body).contains("\n  k: v\n"),
        "{:?}",
        shown.body
    );
    let proto = api.get_as(&path, "application/vnd.kubernetes.protobuf").await;
    assert!(proto.body.starts_with(b"k8s\0"));
    let back = api
        .call(
            Method::PUT,
            &path,
            "application/vnd.kubernetes.protobuf",
            proto.body,
        )
        .await
        .ok();
    assert_eq!(
        back["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "nothing changed"
    );
    assert_eq!(api.get_as(&path, "text/html").await.status.as_u16(), 406);
}

#[tokio::test]
async fn events_are_one_under_both_groups() {
    let api = Api::start().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "message": "m", "reason": "r", "type": "Normal", "count": 2});
    api.post("/api/v1/namespaces/default/events", event).await.ok();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let seen = api.get(&format!("{path}/e")).await.ok();
    assert_eq!(
        (seen["note"].as_str(), seen["regarding"]["name"].as_str()),
        (Some("m"), Some("p"))
    );
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
    let list = api
        .get(&format!("{path}?fieldSelector=regarding.name%3Dp"))
        .await
        .ok();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let patched = api
        .patch(&format!("{path}/e"), "merge-patch+json", json!({"note": "n"}))
        .await;
    // The newer group is strict about what has been told; the older one never was.
    assert_eq!(patched.status.as_u16(), 422);
    api.patch(
        "/api/v1/namespaces/default/events/e",
        "merge-patch+json",
        json!({"message": "n"}),
    )
    .await
    .ok();
    assert_eq!(api.get(&format!("{path}/e")).await.ok()["note"], "n");
}

#[tokio::test]
async fn autoscalers_are_one_in_both_versions() {
    let api = Api::start().await;
    let v1 = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    api.post(
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        v1,
    )
    .await
    .ok();
    let v2 = api
        .get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h")
        .await
        .ok();
    assert_eq!(
        v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        70
    );
    let kv = api
        .store
        .get(b"/registry/horizontalpodautoscalers/default/h")
        .await
        .expect("store")
        .kv
        .expect("stored");
    assert!(
        kv.value.starts_with(b"k8s\0\n)\n\x0eautoscaling/v2"),
        "{:?}",
        &kv.value[..40]
    );
    let back = api
        .get("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h")
        .await
        .ok();
    assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 70);
}

#[tokio::test]
async fn managers_are_named_in_the_version_they_spoke() {
    let api = Api::start().await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let v1 = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let made = api.post(path, v1).await.ok();
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(entry["apiVersion"], "autoscaling/v1");
    assert!(
        entry["fieldsV1"]["f:spec"]["f:targetCPUUtilizationPercentage"].is_object(),
        "{entry}"
    );
}

#[tokio::test]
async fn who_scales_manages_the_replicas() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale?fieldManager=scaler");
    api.patch(&path, "merge-patch+json", json!({"spec": {"replicas": 5}}))
        .await
        .ok();
    let object = api.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .clone();
    let scaler = entries
        .iter()
        .find(|e| e["manager"] == "scaler")
        .expect("the scaler is a manager");
    assert_eq!(
        (scaler["subresource"].as_str(), scaler["apiVersion"].as_str()),
        (Some("scale"), Some("apps/v1"))
    );
    assert_eq!(scaler["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let other = entries
        .iter()
        .find(|e| e["manager"] == "test")
        .expect("the creator is one too");
    assert!(other["fieldsV1"]["f:spec"]["f:replicas"].is_null());
}
