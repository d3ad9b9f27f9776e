//! Pods that ask for devices.

use crate::{condition, pods, until_ready};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use testkit::{Cluster, Options};

/// Two nodes with one device each, and a template that asks for one.
async fn cluster() -> Cluster {
    let cluster = Cluster::start(Options {
        nodes: 2,
        ..Options::default()
    })
    .await;
    let selectors = json!([{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors}});
    Api::<DeviceClass>::all(cluster.admin())
        .create(
            &PostParams::default(),
            &serde_json::from_value(class).expect("class"),
        )
        .await
        .expect("created");
    for node in ["node-0", "node-1"] {
        let slice = json!({"metadata": {"name": format!("{node}-gpus")}, "spec": {
            "driver": "gpu.example.com", "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "attributes": {"model": {"string": node}}}]}});
        Api::<ResourceSlice>::all(cluster.admin())
            .create(
                &PostParams::default(),
                &serde_json::from_value(slice).expect("slice"),
            )
            .await
            .expect("created");
    }
    let template = json!({"metadata": {"name": "one"}, "spec": {"spec": {"devices": {"requests": [
        {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}}});
    cluster.create::<ResourceClaimTemplate>("default", template).await;
    cluster
}

fn pod(name: &str, claim: Value) -> Value {
    let mut claim = claim;
    claim["name"] = json!("gpu");
    json!({"metadata": {"name": name, "labels": {"app": "gpu"}}, "spec": {"terminationGracePeriodSeconds": 0,
        "resourceClaims": [claim],
        "containers": [{"name": "c", "image": "nginx", "resources": {"claims": [{"name": "gpu"}]}}]}})
}

async fn claims(cluster: &Cluster) -> Vec<ResourceClaim> {
    let all = cluster
        .api::<ResourceClaim>("default")
        .list(&ListParams::default())
        .await;
    all.expect("claims").items
}

#[tokio::test(start_paused = true)]
async fn each_device_goes_to_one_pod_and_then_to_the_next() {
    let cluster = cluster().await;
    for name in ["a", "b", "c"] {
        let claim = json!({"resourceClaimTemplateName": "one"});
        cluster.create::<Pod>("default", pod(name, claim)).await;
    }
    let waiting = cluster
        .until("two with a device and one without", || async {
            let pods = pods(&cluster, "app=gpu").await;
            let ready = pods.iter().filter(|p| condition(p, "Ready") == "True").count();
            let waiting = pods.into_iter().find(|p| condition(p, "PodScheduled") == "False");
            waiting.filter(|_| ready == 2)
        })
        .await;
    let conditions = waiting.status.and_then(|s| s.conditions).expect("conditions");
    let said = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled")
        .and_then(|c| c.message.as_deref());
    assert_eq!(
        said,
        Some(
            "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: \
             0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        )
    );
    let mut devices: Vec<String> = claims(&cluster)
        .await
        .iter()
        .filter_map(|c| {
            c.status
                .as_ref()?
                .allocation
                .as_ref()?
                .devices
                .as_ref()?
                .results
                .as_ref()
        })
        .flatten()
        .map(|r| format!("{}/{}", r.pool, r.device))
        .collect();
    devices.sort();
    assert_eq!(devices, ["node-0/gpu-0", "node-1/gpu-0"]);
    let one = pods(&cluster, "app=gpu").await;
    let one = one
        .iter()
        .find(|p| condition(p, "Ready") == "True")
        .expect("one that is ready");
    let name = one.metadata.name.clone().expect("a name");
    let api = cluster.api::<Pod>("default");
    api.delete(&name, &DeleteParams::default())
        .await
        .expect("deleted");
    until_ready(&cluster, "app=gpu", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_shared_where_its_device_is() {
    let cluster = cluster().await;
    let claim = json!({"metadata": {"name": "shared"}, "spec": {"devices": {"requests": [
        {"name": "gpu", "exactly": {"deviceClassName": "gpu", "selectors": [
            {"cel": {"expression": "device.attributes['gpu.example.com'].model == 'node-1'"}}]}}]}}});
    for name in ["a", "b"] {
        let uses = json!({"resourceClaimName": "shared"});
        cluster.create::<Pod>("default", pod(name, uses)).await;
    }
    // The pods are there before their claim.
    cluster.create::<ResourceClaim>("default", claim).await;
    let ready = until_ready(&cluster, "app=gpu", 2).await;
    assert!(
        ready
            .iter()
            .all(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some("node-1"))
    );
    let users = claims(&cluster)
        .await
        .remove(0)
        .status
        .and_then(|s| s.reserved_for)
        .unwrap_or_default();
    assert_eq!(users.len(), 2);
    let api: Api<Pod> = cluster.api("default");
    for name in ["a", "b"] {
        api.delete(name, &DeleteParams::default()).await.expect("deleted");
    }
    cluster
        .until("the claim to be free", || async {
            let status = claims(&cluster).await.remove(0).status.unwrap_or_default();
            (status.allocation.is_none() && status.reserved_for.is_none_or(|r| r.is_empty())).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_fails_is_said() {
    let cluster = cluster().await;
    let claim = json!({"metadata": {"name": "wrong"}, "spec": {"devices": {"requests": [
        {"name": "gpu", "exactly": {"deviceClassName": "gpu", "selectors": [
            {"cel": {"expression": "device.attributes['gpu.example.com'].nothing == 'x'"}}]}}]}}});
    cluster.create::<ResourceClaim>("default", claim).await;
    let uses = json!({"resourceClaimName": "wrong"});
    cluster.create::<Pod>("default", pod("a", uses)).await;
    let said = cluster
        .until("what is wrong", || async {
            let conditions = pods(&cluster, "app=gpu").await.pop()?.status?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "PodScheduled")
        })
        .await;
    assert_eq!(said.reason.as_deref(), Some("SchedulerError"));
    assert_eq!(
        said.message.as_deref(),
        Some(
            "running \"DynamicResources\" filter plugin: claim default/wrong: selector #0: CEL runtime error: \
             no such key: nothing"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_missing_is_said() {
    let cluster = cluster().await;
    let claim = json!({"metadata": {"name": "wrong"}, "spec": {"devices": {"requests": [
        {"name": "gpu", "exactly": {"deviceClassName": "nothing"}}]}}});
    cluster.create::<ResourceClaim>("default", claim).await;
    let uses = json!({"resourceClaimName": "wrong"});
    cluster.create::<Pod>("default", pod("a", uses)).await;
    let said = cluster
        .until("what is wrong", || async {
            let conditions = pods(&cluster, "app=gpu").await.pop()?.status?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "PodScheduled")
        })
        .await;
    assert_eq!(
        said.message.as_deref(),
        Some(
            "0/2 nodes are available: request gpu: device class nothing does not exist. no new claims to deallocate, \
             preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        )
    );
    let waits = json!({"metadata": {"name": "v", "labels": {"app": "volume"}}, "spec": {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}],
        "containers": [{"name": "c", "image": "nginx"}]}});
    cluster.create::<Pod>("default", waits).await;
    let said = cluster
        .until("what is missing", || async {
            let conditions = pods(&cluster, "app=volume").await.pop()?.status?.conditions?;
            conditions
                .into_iter()
                .find(|c| c.type_ == "PodScheduled")?
                .message
        })
        .await;
    assert_eq!(
        said,
        "0/2 nodes are available: persistentvolumeclaim \"none\" not found. not found"
    );
}
