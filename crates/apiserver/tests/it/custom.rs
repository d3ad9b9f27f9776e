//! Custom resources through the whole server.

use crate::Api;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use std::time::Duration;
use wire::body::Body;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn crd() -> Json {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cron"], "properties": {
            "cron": {"type": "string", "pattern": "^(\\d+|\\*)( (\\d+|\\*)){4}$"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 2},
            "image": {"type": "string"}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "ready": {"type": "boolean"}}}}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "selectableFields": [{"jsonPath": ".spec.image"}],
            "additionalPrinterColumns": [{"name": "Cron", "type": "string", "jsonPath": ".spec.cron"}]})
    };
    json!({"metadata": {"name": "crontabs.stable.example.com"}, "spec": {
        "group": "stable.example.com", "scope": "Namespaced",
        "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
        "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn tab(name: &str, spec: Json) -> Json {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

impl Api {
    /// Makes the definition and waits until its kind is served.
    async fn crontabs(&self) {
        self.post(CRDS, crd()).await.ok();
        self.eventually(TABS, true).await;
    }

    pub(crate) async fn eventually(&self, path: &str, found: bool) {
        let there = async {
            while self.get(path).await.status.is_success() != found {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), there)
            .await
            .unwrap_or_else(|_| panic!("{path} found: {found}"));
    }
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let api = Api::start().await;
    api.crontabs().await;
    let crd = api.get(&format!("{CRDS}/crontabs.stable.example.com")).await.ok();
    assert_eq!(crd["status"]["acceptedNames"]["kind"], "CronTab");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let reasons: Vec<&Json> = crd["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .map(|c| &c["reason"])
        .collect();
    assert_eq!(reasons, ["NoConflicts", "InitialNamesAccepted"]);

    let list = api.get("/apis/stable.example.com/v1").await.ok();
    let names: Vec<&str> = list["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    let group = api.get("/apis/stable.example.com").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let document = api.get("/openapi/v3/apis/stable.example.com/v1").await.ok();
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["replicas"]["default"],
        2
    );
    let document = api.get("/openapi/v2").await.ok();
    assert!(document["definitions"]["com.example.stable.v1.CronTab"].is_object());
}

#[tokio::test]
async fn objects_are_defaulted_pruned_and_judged() {
    let api = Api::start().await;
    api.crontabs().await;
    let made = api
        .post(TABS, tab("a", json!({"cron": "* * * * 5", "colour": "red"})))
        .await
        .ok();
    assert_eq!(made["spec"], json!({"cron": "* * * * 5", "replicas": 2}));
    assert_eq!(made["metadata"]["generation"], 1);
    api.post(TABS, tab("b", json!({"cron": "x", "replicas": 11}))).await.fails(
        422,
        "CronTab.stable.example.com \"b\" is invalid: [spec.cron: Invalid value: \"x\": spec.cron in body should match '^(\\d+|\\*)( (\\d+|\\*)){4}$', spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10]",
    );
    api.post(TABS, tab("b", json!({}))).await.fails(
        422,
        "CronTab.stable.example.com \"b\" is invalid: spec.cron: Required value",
    );
    let strict = format!("{TABS}?fieldValidation=Strict");
    let refused = api
        .post(&strict, tab("b", json!({"cron": "* * * * 5", "colour": "red"})))
        .await;
    assert_eq!(refused.status, 400);
    let message = refused.json()["message"].as_str().expect("message").to_owned();
    assert!(
        message.contains("strict decoding error: unknown field \"spec.colour\""),
        "{message}"
    );

    let beta = TABS.replace("/v1/", "/v1beta1/");
    let seen = api.get(&format!("{beta}/a")).await.ok();
    assert_eq!(seen["apiVersion"], "stable.example.com/v1beta1");
    let mut changed = seen.clone();
    changed["spec"]["image"] = "i".into();
    let changed = api.put(&format!("{beta}/a"), &changed).await.ok();
    assert_eq!(changed["apiVersion"], "stable.example.com/v1beta1");
    assert_eq!(changed["metadata"]["generation"], 2);
    let listed = api
        .get(&format!("{TABS}?fieldSelector=spec.image%3Di"))
        .await
        .ok();
    assert_eq!(listed["items"][0]["apiVersion"], "stable.example.com/v1");
    assert_eq!(listed["kind"], "CronTabList");
    api.get(&format!("{TABS}?fieldSelector=spec.cron%3Di"))
        .await
        .fails(400, "field label not supported: spec.cron");
}

#[tokio::test]
async fn status_scale_patches_and_tables_work() {
    let api = Api::start().await;
    api.crontabs().await;
    api.post(TABS, tab("a", json!({"cron": "* * * * 5"}))).await.ok();
    let at = format!("{TABS}/a");
    let patched = api
        .patch(
            &format!("{at}/status"),
            "merge-patch+json",
            json!({"status": {"ready": true}, "spec": {"replicas": 9}}),
        )
        .await
        .ok();
    assert_eq!(
        (&patched["status"]["ready"], &patched["spec"]["replicas"]),
        (&json!(true), &json!(2))
    );
    let ignored = api
        .patch(
            &at,
            "merge-patch+json",
            json!({"status": {"ready": false}, "spec": {"replicas": 3}}),
        )
        .await
        .ok();
    assert_eq!(
        (&ignored["status"]["ready"], &ignored["spec"]["replicas"]),
        (&json!(true), &json!(3))
    );
    let scale = api
        .patch(
            &format!("{at}/scale"),
            "merge-patch+json",
            json!({"spec": {"replicas": 5}}),
        )
        .await
        .ok();
    assert_eq!(scale["spec"]["replicas"], 5);
    assert_eq!(api.get(&at).await.ok()["spec"]["replicas"], 5);
    let applied = api
        .patch(
            &format!("{at}?fieldManager=me&force=true"),
            "apply-patch+yaml",
            json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"}, "spec": {"image": "i"}}),
        )
        .await
        .ok();
    assert_eq!(applied["spec"]["image"], "i");
    let refused = api.patch(&at, "strategic-merge-patch+json", json!({})).await;
    assert_eq!(refused.status, 415);
    let table = api
        .get_as(TABS, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await
        .ok();
    assert_eq!(table["columnDefinitions"][1]["name"], "Cron");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * * * 5"]));
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let api = Api::start().await;
    api.crontabs().await;
    let mut held = tab("held", json!({"cron": "* * * * 5"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(TABS, held).await.ok();
    api.post(TABS, tab("free", json!({"cron": "* * * * 5"})))
        .await
        .ok();
    let watch = Request::get(format!("{TABS}?watch=true"))
        .body(Body::empty())
        .expect("request");
    let mut watch = api.send(watch).await.into_body();
    let path = format!("{CRDS}/crontabs.stable.example.com");
    let deleted = api.delete(&path, Json::Null).await.ok();
    assert_eq!(
        deleted["status"]["conditions"][2]["reason"],
        "InstanceDeletionPending"
    );
    api.eventually(&format!("{TABS}/free"), false).await;
    assert_eq!(
        api.post(TABS, tab("new", json!({"cron": "* * * * 5"})))
            .await
            .status,
        405
    );
    let release = json!({"metadata": {"finalizers": null}});
    api.patch(&format!("{TABS}/held"), "merge-patch+json", release)
        .await
        .ok();
    api.eventually(TABS, false).await;
    api.eventually(&path, false).await;
    api.eventually("/apis/stable.example.com/v1", false).await;
    assert!(watch.frame().await.is_some());
}
