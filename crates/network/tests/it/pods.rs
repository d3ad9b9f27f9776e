//! Pods reach each other, the node and the world; everything goes away again.

use cri::network::PodNetwork;
use cri::v1::PortMapping;

use crate::harness::*;

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    on_a_node(async |node| {
        let a = node.server("a").await;
        let b = node.server("b").await;
        let outside = node.outside.clone();
        serve(&outside, "outside");
        let answer = call(Some(&a.net), &format!("{}:8080", b.ip)).await;
        assert_eq!(
            answer,
            Answer {
                who: "b".into(),
                saw: a.ip.to_string()
            },
            "pods see each other's address"
        );
        let answer = call(None, &format!("{}:8080", a.ip)).await;
        assert_eq!(
            answer,
            Answer {
                who: "a".into(),
                saw: "10.42.0.1".into()
            }
        );
        let answer = call(Some(&a.net), &format!("{OUTSIDER}:8080")).await;
        assert_eq!(
            answer,
            Answer {
                who: "outside".into(),
                saw: NODE.into()
            },
            "the world sees the node"
        );
        let answer = call(Some(&a.net), &format!("{}:8080", a.ip)).await;
        assert_eq!(answer.who, "a");
    });
}

#[test]
fn host_ports_lead_to_their_pod_from_everywhere() {
    on_a_node(async |node| {
        let mapping = |host_port, host_ip: &str, protocol| PortMapping {
            protocol,
            container_port: 8080,
            host_port,
            host_ip: host_ip.into(),
        };
        let ports = vec![mapping(9000, "", 0), mapping(9001, NODE, 0), mapping(9000, "", 1)];
        let pod = node.pod_with_ports("p", ports).await;
        serve(&pod.net, "p");
        let other = node.pod("other").await;
        for (from, to, saw) in [
            (
                Some(node.outside.as_path()),
                format!("{NODE}:9000"),
                OUTSIDER.to_owned(),
            ),
            (Some(&node.outside), format!("{NODE}:9001"), OUTSIDER.to_owned()),
            (None, format!("{NODE}:9000"), NODE.to_owned()),
            (None, "127.0.0.1:9000".to_owned(), "10.42.0.1".to_owned()),
            (Some(&other.net), format!("{NODE}:9000"), other.ip.to_string()),
            (Some(&pod.net), format!("{NODE}:9000"), "10.42.0.1".to_owned()),
        ] {
            let answer = call(from, &to).await;
            assert_eq!(answer, Answer { who: "p".into(), saw }, "{from:?} {to}");
        }
        assert_eq!(
            call(None, "127.0.0.1:9001").await.who,
            "refused",
            "bound to the node's address alone"
        );
        node.network.teardown(pod.request).await.unwrap();
        assert_eq!(
            call(Some(&node.outside), &format!("{NODE}:9000")).await.who,
            "refused"
        );
    });
}

#[test]
fn a_restarted_node_agent_finds_its_pods_again() {
    on_a_node(async |node| {
        let mapping = PortMapping {
            container_port: 8080,
            host_port: 9000,
            ..PortMapping::default()
        };
        let a = node.pod_with_ports("a", vec![mapping]).await;
        serve(&a.net, "a");
        // As after kill -9: nothing was told to end.
        node.network = open_network(&node.host, node.dir.path());
        node.network.set_pod_cidr("10.42.0.0/24").await.unwrap();
        let again = node.network.setup(a.request.clone()).await.unwrap();
        assert_eq!(again.ips, [a.ip]);
        assert_eq!(call(None, "127.0.0.1:9000").await.who, "a");
        let b = node.server("b").await;
        assert_ne!(a.ip, b.ip);
        assert_eq!(call(Some(&a.net), &format!("{}:8080", b.ip)).await.who, "b");
    });
}

#[test]
fn clean_up_leaves_the_host_as_it_was() {
    on_a_node(async |node| {
        let setting = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        node.pod("a").await;
        node.pod("b").await;
        assert_eq!(setting().trim(), "1");
        let state = network::pod::state_dir(node.dir.path());
        let gone = network::cleanup(&node.host, &names(), &state).unwrap();
        assert_eq!(gone.links.len(), 3, "{gone:?}");
        let links: Vec<String> = node
            .host
            .links
            .links()
            .unwrap()
            .into_iter()
            .map(|l| l.name)
            .collect();
        assert_eq!(
            links.iter().filter(|name| name.starts_with("kj")).count(),
            0,
            "{links:?}"
        );
        assert!(node.host.ruleset.tables().unwrap().is_empty());
        assert_eq!(setting().trim(), "0");
        assert_eq!(
            network::leftovers(&node.host, &names()).unwrap(),
            network::Leftovers::default()
        );
    });
}
