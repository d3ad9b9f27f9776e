//! Where pods go, and what is said when they cannot go anywhere.

use crate::{condition, until_ready};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testkit::{Cluster, Options};

fn pod(name: &str, cpu: &str, more: Value) -> Value {
    let mut spec =
        json!({"containers": [{"name": "c", "image": "nginx", "resources": {"requests": {"cpu": cpu}}}]});
    for (key, value) in more.as_object().expect("fields") {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

async fn until_said(cluster: &Cluster, name: &str, message: &str) {
    let pods = cluster.api::<Pod>("default");
    cluster
        .until(message, || async {
            let pod = pods.get(name).await.ok()?;
            let conditions = pod.status?.conditions?;
            let scheduled = conditions.into_iter().find(|c| c.type_ == "PodScheduled")?;
            (scheduled.message.as_deref() == Some(message)).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_until_a_node_has_room() {
    let cluster = Cluster::start(Options::default()).await;
    cluster
        .create::<Pod>("default", pod("big", "40", json!({})))
        .await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
         1 Preemption is not helpful for scheduling.";
    until_said(&cluster, "big", message).await;
    let events = cluster.api::<Event>("default");
    cluster
        .until("the event", || async {
            let all = events.list(&ListParams::default()).await.expect("events").items;
            let mut failures = all
                .iter()
                .filter(|e| e.reason.as_deref() == Some("FailedScheduling"));
            failures
                .any(|e| e.message.as_deref() == Some(message))
                .then_some(())
        })
        .await;
    let nodes = Api::<Node>::all(cluster.admin());
    let more = Patch::Merge(json!({"status": {"allocatable": {"cpu": "64"}, "capacity": {"cpu": "64"}}}));
    nodes
        .patch_status("node-0", &PatchParams::default(), &more)
        .await
        .expect("grown");
    let ready = until_ready(&cluster, "app=big", 1).await;
    assert_eq!(condition(&ready[0], "PodScheduled"), "True");
}

#[tokio::test(start_paused = true)]
async fn cordons_gates_and_selectors_are_honoured() {
    let cluster = Cluster::start(Options {
        nodes: 2,
        ..Options::default()
    })
    .await;
    let nodes = Api::<Node>::all(cluster.admin());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes
        .patch("node-1", &PatchParams::default(), &cordon)
        .await
        .expect("cordoned");
    let one = json!({"nodeSelector": {"kubernetes.io/hostname": "node-1"}});
    cluster.create::<Pod>("default", pod("picky", "1", one)).await;
    let gates = json!({"schedulingGates": [{"name": "x.io/wait"}]});
    cluster.create::<Pod>("default", pod("gated", "1", gates)).await;
    cluster
        .create::<Pod>("default", pod("plain", "1", json!({})))
        .await;
    let plain = until_ready(&cluster, "app=plain", 1).await;
    assert_eq!(
        plain[0].spec.as_ref().and_then(|s| s.node_name.as_deref()),
        Some("node-0")
    );
    let pods = cluster.api::<Pod>("default");
    let waits = |pod: Pod| pod.spec.is_some_and(|s| s.node_name.is_none());
    assert!(waits(pods.get("picky").await.expect("pod")) && waits(pods.get("gated").await.expect("pod")));

    let open = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    pods.patch("gated", &PatchParams::default(), &open)
        .await
        .expect("opened");
    until_ready(&cluster, "app=gated", 1).await;
    let uncordon = Patch::Merge(json!({"spec": {"unschedulable": false}}));
    nodes
        .patch("node-1", &PatchParams::default(), &uncordon)
        .await
        .expect("uncordoned");
    until_ready(&cluster, "app=picky", 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_important_displace_the_others() {
    let cluster = Cluster::start(Options::default()).await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    let class: PriorityClass = serde_json::from_value(class).expect("class");
    let classes = Api::<PriorityClass>::all(cluster.admin());
    classes
        .create(&PostParams::default(), &class)
        .await
        .expect("created");
    cluster
        .create::<Pod>("default", pod("low", "20", json!({})))
        .await;
    until_ready(&cluster, "app=low", 1).await;
    let high = json!({"priorityClassName": "high"});
    cluster.create::<Pod>("default", pod("high", "20", high)).await;
    until_ready(&cluster, "app=high", 1).await;
    assert!(
        cluster
            .api::<Pod>("default")
            .get_opt("low")
            .await
            .expect("asked")
            .is_none()
    );
}
