//! How long a number of Deployments takes to become pods, all of them ready, on hollow nodes and real time.
//!
//! `cargo run --release -p testkit --example converge -- [deployments] [replicas] [nodes]`

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::{Cluster, Options};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|a| a.parse::<usize>().expect("a number"));
    let deployments = arguments.next().unwrap_or(100);
    let replicas = arguments.next().unwrap_or(50);
    let nodes = arguments.next().unwrap_or(50);
    let cluster = Cluster::start(Options {
        nodes,
        ..Options::default()
    })
    .await;
    let pods = cluster.informers.get::<Pod>();
    pods.synced().await;
    let start = Instant::now();
    let creates = (0..deployments).map(|number| {
        let app = format!("app-{number}");
        let template = json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
        let object = json!({"metadata": {"name": app}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"app": app}}, "template": template}});
        cluster.create::<Deployment>("default", object)
    });
    futures::future::join_all(creates).await;
    println!("{deployments} deployments created after {:?}", start.elapsed());
    let wanted = deployments * replicas;
    let mut shown = 0;
    loop {
        let all = pods.list();
        let bound = all
            .iter()
            .filter(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some()))
            .count();
        let running = all
            .iter()
            .filter(|p| {
                p.status
                    .as_ref()
                    .is_some_and(|s| s.phase.as_deref() == Some("Running"))
            })
            .count();
        if running == wanted {
            break;
        }
        shown += 1;
        if shown % 20 == 0 {
            println!(
                "{:>8.2?}: {} pods, {bound} bound, {running} running",
                start.elapsed(),
                all.len()
            );
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    println!("{wanted} pods running after {:?}", start.elapsed());
}
