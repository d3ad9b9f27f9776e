//! A cluster in which nothing happens does nothing.

use crate::{deployment, until_ready};
use k8s_openapi::api::apps::v1::Deployment;
use std::collections::BTreeMap;
use std::time::Duration;
use testkit::{Cluster, Component, Faults, Options, Rates};

#[tokio::test(start_paused = true)]
async fn an_idle_hour_costs_leases_and_watches_that_are_opened_again() {
    let faults = Faults::new(1, Rates::default());
    let cluster = Cluster::start(Options {
        nodes: 3,
        faults: Some(faults.clone()),
        ..Options::default()
    })
    .await;
    cluster
        .create::<Deployment>("default", deployment("web", 6, "nginx"))
        .await;
    until_ready(&cluster, "app=web", 6).await;
    // What follows from the start is over by then.
    tokio::time::sleep(Duration::from_secs(600)).await;
    faults.note_requests();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let mut watches: BTreeMap<String, usize> = BTreeMap::new();
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    for (component, request) in faults.noted() {
        let leases = component == Component::Nodes;
        if request.contains("watch=true") {
            let path = request.split('?').next().unwrap_or("").to_owned();
            *watches.entry(format!("{component:?} {path}")).or_default() += 1;
        } else if !leases {
            *others.entry(format!("{component:?} {request}")).or_default() += 1;
        }
    }
    assert!(others.is_empty(), "somebody woke: {others:#?}");
    // An informer and a collector's monitor may watch the same resource, each for fifty minutes at most.
    let often: Vec<_> = watches.iter().filter(|(_, count)| **count > 4).collect();
    assert!(
        often.is_empty() && !watches.is_empty(),
        "watches are opened too often: {often:#?}"
    );
}
