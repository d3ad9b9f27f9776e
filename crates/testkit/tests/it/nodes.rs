//! What happens when a node falls silent, comes back, or goes for good.

use crate::{deployment, until_ready};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams};
use std::time::Duration;
use testkit::{Cluster, Options};
use tokio::time::Instant;

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
