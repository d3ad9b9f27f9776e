//! What happens when a node falls silent, comes back, or goes for good.

use crate::{condition, deployment, until_ready};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams};
use serde_json::json;
use std::time::Duration;
use testkit::{Cluster, Options};
use tokio::time::Instant;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or("")
}

fn ready(node: &Node) -> &str {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    ready.map_or("", |c| c.status.as_str())
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_loses_its_pods_and_may_come_back() {
    let cluster = Cluster::start(Options {
        nodes: 3,
        ..Options::default()
    })
    .await;
    let nodes = Api::<Node>::all(cluster.admin());
    let node = nodes.get("node-0").await.expect("node");
    assert!(
        node.spec.is_some_and(|s| s.pod_cidr.is_some()) || {
            cluster
                .until("its range", || async {
                    nodes.get("node-0").await.ok()?.spec?.pod_cidr
                })
                .await
                .ends_with("/24")
        }
    );
    cluster
        .create::<Deployment>("default", deployment("web", 6, "nginx"))
        .await;
    until_ready(&cluster, "app=web", 6).await;
    cluster.nodes.silence("node-0");
    let silent = Instant::now();
    cluster
        .until("the node to be unknown", || async {
            let node = nodes.get("node-0").await.ok()?;
            let taints = node.spec.as_ref()?.taints.clone().unwrap_or_default();
            let unreachable = taints
                .iter()
                .filter(|t| t.key == "node.kubernetes.io/unreachable")
                .count();
            (ready(&node) == "Unknown" && unreachable == 2).then_some(())
        })
        .await;
    let waited = silent.elapsed();
    assert!(
        waited >= Duration::from_secs(39) && waited < Duration::from_secs(51),
        "{waited:?}"
    );
    cluster
        .until("six pods elsewhere", || async {
            let pods = crate::pods(&cluster, "app=web").await;
            (pods.len() == 6
                && pods
                    .iter()
                    .all(|p| node_of(p) != "node-0" && !node_of(p).is_empty()))
            .then_some(())
        })
        .await;
    let waited = silent.elapsed();
    assert!(
        waited >= Duration::from_secs(300) && waited < Duration::from_secs(360),
        "{waited:?}"
    );
    cluster.nodes.revive("node-0");
    cluster
        .until("the node to be back", || async {
            let node = nodes.get("node-0").await.ok()?;
            let tainted = node.spec.as_ref()?.taints.as_ref().is_some_and(|t| !t.is_empty());
            (ready(&node) == "True" && !tainted).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_deleted_node_are_collected() {
    let cluster = Cluster::start(Options {
        nodes: 2,
        ..Options::default()
    })
    .await;
    cluster
        .create::<Deployment>("default", deployment("web", 4, "nginx"))
        .await;
    until_ready(&cluster, "app=web", 4).await;
    cluster.nodes.silence("node-1");
    let nodes = Api::<Node>::all(cluster.admin());
    nodes
        .delete("node-1", &DeleteParams::default())
        .await
        .expect("deleted");
    cluster
        .until("all pods on the other", || async {
            let pods = crate::pods(&cluster, "app=web").await;
            (pods.len() == 4 && pods.iter().all(|p| node_of(p) == "node-0")).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_pods_of_a_lost_node_are_replaced_as_soon_as_their_grace_ends() {
    let cluster = Cluster::start(Options {
        nodes: 1,
        ..Options::default()
    })
    .await;
    let mut wide = deployment("wide", 100, "nginx");
    wide["spec"]["template"]["spec"]["tolerations"] = json!([{"key": UNREACHABLE, "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 30}]);
    cluster.create::<Deployment>("default", wide).await;
    until_ready(&cluster, "app=wide", 100).await;
    cluster.nodes.add("node-1").await;
    cluster.nodes.silence("node-0");
    let (nodes, pods) = (cluster.informers.get::<Node>(), cluster.informers.get::<Pod>());
    let is_tainted = || {
        let node = nodes.find("", "node-0")?;
        let taints = node.spec.as_ref()?.taints.as_ref()?;
        let found = taints
            .iter()
            .find(|t| t.key == UNREACHABLE && t.effect == "NoExecute");
        found.map(|_| ())
    };
    let look = Duration::from_millis(20);
    while is_tainted().is_none() {
        tokio::time::sleep(look).await;
    }
    let tainted = Instant::now();
    let replaced = || {
        let all = pods.list();
        let ready = all
            .iter()
            .filter(|p| node_of(p) == "node-1" && condition(p, "Ready") == "True");
        let left = all
            .iter()
            .filter(|p| node_of(p) == "node-0" && p.metadata.deletion_timestamp.is_none());
        (ready.count(), left.count()) == (100, 0)
    };
    while !replaced() {
        tokio::time::sleep(look).await;
    }
    let took = tainted.elapsed();
    assert!(
        took >= Duration::from_secs(30),
        "they were tolerated for {took:?}"
    );
    assert!(
        took <= Duration::from_secs(32),
        "all were replaced after {took:?}"
    );
}
