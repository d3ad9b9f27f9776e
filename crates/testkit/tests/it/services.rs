//! Endpoints and EndpointSlices follow the pods.

use crate::{deployment, until_ready};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use testkit::{Cluster, Options};

#[tokio::test(start_paused = true)]
async fn addresses_follow_the_pods() {
    let cluster = Cluster::start(Options::default()).await;
    cluster
        .create::<Deployment>("default", deployment("web", 3, "nginx"))
        .await;
    let spec =
        json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    cluster
        .create::<Service>("default", json!({"metadata": {"name": "web"}, "spec": spec}))
        .await;
    let mut addresses: Vec<String> = until_ready(&cluster, "app=web", 3)
        .await
        .iter()
        .filter_map(|p| p.status.as_ref()?.pod_ip.clone())
        .collect();
    addresses.sort();
    let slices = cluster.api::<EndpointSlice>("default");
    let endpoints = cluster.api::<Endpoints>("default");
    let of_service = ListParams::default().labels("kubernetes.io/service-name=web");
    let ready = || async {
        let slices = slices.list(&of_service).await.expect("slices").items;
        let ready = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
        let ready = ready.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
        let mut found: Vec<String> = ready.flat_map(|e| e.addresses.clone()).collect();
        found.sort();
        found
    };
    let legacy = || async {
        let endpoints = endpoints.get_opt("web").await.expect("asked");
        let subsets = endpoints.and_then(|e| e.subsets).unwrap_or_default();
        let mut found: Vec<String> = subsets
            .into_iter()
            .flat_map(|s| s.addresses.unwrap_or_default())
            .map(|a| a.ip)
            .collect();
        found.sort();
        found
    };
    cluster
        .until("all addresses", || async {
            (ready().await == addresses && legacy().await == addresses).then_some(())
        })
        .await;
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let deployments = cluster.api::<Deployment>("default");
    deployments
        .patch("web", &PatchParams::default(), &none)
        .await
        .expect("scaled");
    cluster
        .until("no address", || async {
            (ready().await.is_empty() && legacy().await.is_empty()).then_some(())
        })
        .await;
    cluster
        .api::<Service>("default")
        .delete("web", &DeleteParams::default())
        .await
        .expect("deleted");
    cluster
        .until("the slices to go", || async {
            let left = slices.list(&of_service).await.expect("slices").items;
            (left.is_empty() && endpoints.get_opt("web").await.expect("asked").is_none()).then_some(())
        })
        .await;
}
