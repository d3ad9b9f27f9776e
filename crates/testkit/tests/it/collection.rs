//! What goes with its owner, and what goes with its namespace.

use crate::{deployment, pods, until_ready};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, DeleteParams, ListParams, PostParams, PropagationPolicy};
use serde_json::json;
use testkit::{Cluster, Options};

async fn sets(cluster: &Cluster) -> Vec<ReplicaSet> {
    cluster
        .api::<ReplicaSet>("default")
        .list(&ListParams::default())
        .await
        .expect("sets")
        .items
}

#[tokio::test(start_paused = true)]
async fn dependents_go_first_last_or_stay() {
    let cluster = Cluster::start(Options::default()).await;
    let deployments = cluster.api::<Deployment>("default");
    for (name, policy) in [
        ("background", PropagationPolicy::Background),
        ("foreground", PropagationPolicy::Foreground),
        ("orphan", PropagationPolicy::Orphan),
    ] {
        cluster
            .create::<Deployment>("default", deployment(name, 2, "nginx"))
            .await;
        let selector = format!("app={name}");
        until_ready(&cluster, &selector, 2).await;
        let orphans = policy == PropagationPolicy::Orphan;
        let params = DeleteParams {
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        deployments.delete(name, &params).await.expect("deleted");
        cluster
            .until("the owner to go", || async {
                deployments
                    .get_opt(name)
                    .await
                    .expect("asked")
                    .is_none()
                    .then_some(())
            })
            .await;
        if name == "foreground" {
            assert!(sets(&cluster).await.is_empty(), "the owner went last");
        }
        if orphans {
            let left = sets(&cluster).await;
            assert_eq!(left.len(), 1);
            assert!(
                left[0]
                    .metadata
                    .owner_references
                    .as_ref()
                    .is_none_or(Vec::is_empty)
            );
            assert_eq!(pods(&cluster, &selector).await.len(), 2);
        } else {
            until_ready(&cluster, &selector, 0).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_owner_is_noticed() {
    let cluster = Cluster::start(Options::default()).await;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "no-such-uid"}]);
    cluster
        .create::<ConfigMap>(
            "default",
            json!({"metadata": {"name": "child", "ownerReferences": owner}}),
        )
        .await;
    let maps = cluster.api::<ConfigMap>("default");
    cluster
        .until("the child to go", || async {
            maps.get_opt("child")
                .await
                .expect("asked")
                .is_none()
                .then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::start(Options::default()).await;
    let namespaces = Api::<Namespace>::all(cluster.admin());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("namespace");
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("created");
    let accounts = cluster.api::<ServiceAccount>("n");
    let maps = cluster.api::<ConfigMap>("n");
    cluster
        .until("its account and its certificate", || async {
            let account = accounts.get_opt("default").await.expect("asked");
            let map = maps.get_opt("kube-root-ca.crt").await.expect("asked");
            (account.is_some() && map.is_some()).then_some(())
        })
        .await;
    cluster
        .create::<Deployment>("n", deployment("web", 3, "nginx"))
        .await;
    namespaces
        .delete("n", &DeleteParams::default())
        .await
        .expect("deleted");
    cluster
        .until("the namespace to go", || async {
            namespaces
                .get_opt("n")
                .await
                .expect("asked")
                .is_none()
                .then_some(())
        })
        .await;
    assert!(
        maps.list(&ListParams::default())
            .await
            .expect("maps")
            .items
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn roles_are_made_of_others() {
    let cluster = Cluster::start(Options::default()).await;
    let roles = Api::<ClusterRole>::all(cluster.admin());
    let reads = |rule: &PolicyRule| {
        rule.resources.iter().flatten().any(|r| r == "pods") && rule.verbs.iter().any(|v| v == "list")
    };
    cluster
        .until("the rules of admin", || async {
            let admin = roles.get("admin").await.ok()?;
            admin.rules.iter().flatten().any(reads).then_some(())
        })
        .await;
}
