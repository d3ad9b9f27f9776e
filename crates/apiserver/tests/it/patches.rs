//! The four patches.

use super::{Api, DEPLOYMENTS, MAPS, deployment};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn each_kind_of_patch_does_its_own() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let by_json = json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]);
    assert_eq!(
        api.patch(&path, "json-patch+json", by_json).await.ok()["spec"]["replicas"],
        2
    );
    let by_merge = json!({"spec": {"replicas": 3}, "metadata": {"labels": {"x": "y"}}});
    assert_eq!(
        api.patch(&path, "merge-patch+json", by_merge).await.ok()["metadata"]["labels"]["x"],
        "y"
    );
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "j"}, {"name": "c", "image": "k"}]}}}});
    let patched = api
        .patch(&path, "strategic-merge-patch+json", strategic)
        .await
        .ok();
    let containers = patched["spec"]["template"]["spec"]["containers"]
        .as_array()
        .expect("containers")
        .clone();
    assert_eq!(containers.len(), 2);
    assert!(containers.iter().any(|c| c["name"] == "c" && c["image"] == "k"));
    assert_eq!(patched["metadata"]["generation"], 4);
    let none = api
        .patch(&format!("{DEPLOYMENTS}/none"), "merge-patch+json", json!({}))
        .await;
    none.fails(404, r#"deployments.apps "none" not found"#);
    assert_eq!(api.patch(&path, "json", json!({})).await.status.as_u16(), 415);
    let wrong = api
        .patch(&path, "merge-patch+json", json!({"spec": {"replicas": "x"}}))
        .await;
    assert_eq!(wrong.status.as_u16(), 422);
}

#[tokio::test]
async fn apply_makes_merges_and_meets_conflicts() {
    let api = Api::start().await;
    let apply = |manager: &'static str, force: bool, value: &'static str| {
        let path = format!("{MAPS}/a?fieldManager={manager}&force={force}");
        let body = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: {value}\n");
        let api = &api;
        async move {
            api.call(Method::PATCH, &path, "application/apply-patch+yaml", body)
                .await
        }
    };
    let made = apply("one", false, "v").await;
    assert_eq!(made.status.as_u16(), 201);
    let same = apply("one", false, "v").await;
    assert_eq!(
        made.json()["metadata"]["resourceVersion"],
        same.json()["metadata"]["resourceVersion"]
    );
    let conflict = apply("two", false, "w").await;
    let status = conflict.fails(
        409,
        "Apply failed with 1 conflict: conflict with \"one\": .data.k",
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(apply("two", true, "w").await.ok()["data"]["k"], "w");
    let path = format!("{MAPS}/a");
    let unnamed = api
        .call(
            Method::PATCH,
            &path,
            "application/apply-patch+yaml",
            "kind: ConfigMap",
        )
        .await;
    assert_eq!(unnamed.status.as_u16(), 422);
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let api = Api::start().await;
    api.config_map("a", "1").await;
    let path = format!("{MAPS}/a");
    let patches = (0..20).map(|i| {
        let body = json!({"data": {format!("k{i}"): "v"}});
        api.patch(&path, "merge-patch+json", body)
    });
    for answer in futures::future::join_all(patches).await {
        answer.ok();
    }
    assert_eq!(
        api.get(&path).await.ok()["data"].as_object().expect("data").len(),
        21
    );
}
