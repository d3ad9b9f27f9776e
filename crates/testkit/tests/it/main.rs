//! The scheduler and the controllers on the real API server, on virtual time.

mod collection;
mod devices;
mod idle;
mod nodes;
mod scheduling;
mod services;
mod simulation;
mod workloads;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use testkit::{Cluster, FATE};

/// A pod template that does nothing but carry a label.
pub(crate) fn template(app: &str, image: &str, fate: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}, "annotations": {FATE: fate}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A Deployment of `default`.
pub(crate) fn deployment(app: &str, replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": app}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}},
        "template": template(app, image, "run")}})
}

/// The pods of a label, that are not on their way out.
pub(crate) async fn pods(cluster: &Cluster, selector: &str) -> Vec<Pod> {
    let list = cluster
        .api::<Pod>("default")
        .list(&ListParams::default().labels(selector))
        .await;
    let all = list.expect("pods listed").items;
    all.into_iter()
        .filter(|p| p.metadata.deletion_timestamp.is_none())
        .collect()
}

/// Waits until so many pods of a label are ready, and no more exist.
pub(crate) async fn until_ready(cluster: &Cluster, selector: &str, count: usize) -> Vec<Pod> {
    let what = format!("{count} ready pods of {selector}");
    cluster
        .until(&what, || async move {
            let pods = pods(cluster, selector).await;
            let ready = pods.iter().filter(|p| condition(p, "Ready") == "True").count();
            (ready == count && pods.len() == count).then_some(pods)
        })
        .await
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> &'a str {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|c| c.type_ == kind);
    found.map_or("", |c| c.status.as_str())
}
