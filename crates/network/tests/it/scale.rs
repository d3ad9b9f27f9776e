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
