//! Ten thousand Services: what one change costs then.

use std::time::{Duration, Instant};

use linux::nftables::Family;
use serde_json::json;

use crate::harness::*;
use crate::services::{Cluster, expect, spec};

#[test]
fn one_change_among_ten_thousand_services_is_cheap() {
    on_a_node(async |node| {
        let mut cluster = Cluster::start(node).await;
        let table = names().proxy_table(Family::Ip);
        let fronts = |dump: &linux::nftables::Dump| dump.set("fronts").map_or(0, |set| set.elements.len());
        let ip = |n: u32| std::net::IpAddr::from([10, 42, (n >> 8) as u8, n as u8]);
        let begun = Instant::now();
        for n in 0..10_000u32 {
            let [_, _, high, low] = n.to_be_bytes();
            let name = format!("s{n}");
            cluster.service(&name, spec(&format!("10.96.{high}.{low}"), "TCP", json!({})));
            cluster.endpoints(&name, "TCP", &[(ip(n), "here"), (ip(n + 1), "here")]);
        }
        while fronts(&node.host.ruleset.dump(&table).unwrap()) < 10_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("10,000 Services written in {:?}", begun.elapsed());

        // From here on whoever is called answers, before a change and after.
        let first = node.server("first").await;
        cluster.endpoints("s5", "TCP", &[(first.ip, "here")]);
        expect(None, "10.96.0.5:80", |answer| answer.who == "first", "first").await;
        let (mut worst, mut sum) = (Duration::ZERO, Duration::ZERO);
        const ROUNDS: u32 = 20;
        for round in 0..ROUNDS {
            let pod = node.server(&format!("p{round}")).await;
            let begun = Instant::now();
            cluster.endpoints("s5", "TCP", &[(pod.ip, "here")]);
            while call(None, "10.96.0.5:80").await.who != format!("p{round}") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let took = begun.elapsed();
            worst = worst.max(took);
            sum += took;
        }
        println!(
            "one change seen by a client: mean {:?}, worst {worst:?}",
            sum / ROUNDS
        );
        assert!(worst < Duration::from_secs(1), "{worst:?}");
    });
}

#[test]
fn a_hundred_pods_at_once_come_and_go_without_a_trace() {
    on_a_node(async |node| {
        use cri::network::{PodNetwork, PodNetworkRequest};
        use linux::namespace::{Namespace, Namespaces};
        let links = || node.host.links.links().unwrap().len();
        let before = links();
        let requests: Vec<PodNetworkRequest> = (0..100)
            .map(|n| {
                let net = node.dir.path().join(format!("many{n}"));
                linux::Kernel.create(Namespace::Net, &net).unwrap();
                PodNetworkRequest {
                    sandbox_id: format!("many{n}"),
                    netns_path: net,
                    ..PodNetworkRequest::default()
                }
            })
            .collect();
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for request in &requests {
            let (network, request) = (node.network.clone(), request.clone());
            tasks.spawn(async move { network.setup(request).await.unwrap().ips[0] });
        }
        let mut ips = tasks.join_all().await;
        println!("100 pods wired in {:?}", begun.elapsed());
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), 100);
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for request in &requests {
            let (network, request) = (node.network.clone(), request.clone());
            tasks.spawn(async move { network.teardown(request).await.unwrap() });
        }
        tasks.join_all().await;
        println!("100 pods unwired in {:?}", begun.elapsed());
        for request in &requests {
            linux::Kernel.remove(&request.netns_path).unwrap();
        }
        assert_eq!(links(), before);
        assert_eq!(
            std::fs::read_dir(node.dir.path().join("network/pods"))
                .unwrap()
                .count(),
            0
        );
    });
}
