//! Services on the real kernel: from pods, from the node, from outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::proxy::service::IpFamily;
use network::proxy::table::TableOptions;
use network::proxy::{ProxyHandle, ProxyOptions, Sources, start_from};
use serde_json::{Value, json};

use crate::harness::*;

pub(crate) struct Cluster {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    version: u64,
    _proxy: ProxyHandle,
}

impl Cluster {
    pub(crate) async fn start(node: &TestNode) -> Self {
        let sources = Sources {
            services: Informer::fixed([]),
            slices: Informer::fixed([]),
            node: Informer::<Node>::fixed([]),
        };
        let (services, slices) = (sources.services.clone(), sources.slices.clone());
        let options = ProxyOptions {
            names: names(),
            node_name: "here".into(),
            node_ips: vec![NODE.parse().unwrap()],
            families: vec![IpFamily::V4, IpFamily::V6],
            table: TableOptions {
                cluster_cidrs: ["10.42.0.0/16", "fd00:42::/48"]
                    .map(|net| net.parse().unwrap())
                    .to_vec(),
                service_cidrs: ["10.96.0.0/16", "fd00:96::/108"]
                    .map(|net| net.parse().unwrap())
                    .to_vec(),
                node_port_addresses: Vec::new(),
                mark: 0x4000,
                masquerade_all: false,
            },
            min_interval: Duration::ZERO,
        };
        let mut proxy = start_from(node.host.clone(), sources, options);
        proxy.synced().await;
        Cluster {
            services,
            slices,
            version: 0,
            _proxy: proxy,
        }
    }

    fn next(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(crate) fn service(&mut self, name: &str, spec: Value) {
        let meta = json!({"namespace": "ns", "name": name, "uid": name, "resourceVersion": self.next()});
        self.services
            .written(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap());
    }

    fn balanced(&mut self, name: &str, spec: Value, ip: &str) {
        let meta = json!({"namespace": "ns", "name": name, "uid": name, "resourceVersion": self.next()});
        let status = json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}});
        let service = json!({"metadata": meta, "spec": spec, "status": status});
        self.services.written(serde_json::from_value(service).unwrap());
    }

    /// Endpoints as `(address, node)`.
    pub(crate) fn endpoints(&mut self, name: &str, protocol: &str, list: &[(IpAddr, &str)]) {
        let endpoints: Vec<Value> = list
            .iter()
            .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        let six = list.first().is_some_and(|(ip, _)| ip.is_ipv6());
        let (kind, tail) = if six { ("IPv6", "six") } else { ("IPv4", "x") };
        let meta = json!({"namespace": "ns", "name": format!("{name}-{tail}"), "uid": format!("{name}-{tail}"),
            "resourceVersion": self.next(), "labels": {"kubernetes.io/service-name": name}});
        let ports = json!([{"name": "p", "port": 8080, "protocol": protocol}]);
        self.slices.written(
            serde_json::from_value(
                json!({"metadata": meta, "addressType": kind, "endpoints": endpoints,
                "ports": ports}),
            )
            .unwrap(),
        );
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.services.gone(&ObjectKey::new("ns", name), name);
        self.slices
            .gone(&ObjectKey::new("ns", &format!("{name}-x")), name);
    }
}

pub(crate) fn spec(ip: &str, protocol: &str, more: Value) -> Value {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
        "ports": [{"name": "p", "port": 80, "protocol": protocol}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn node_port(port: u16, more: Value) -> Value {
    let mut spec = json!({"type": "NodePort",
        "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": port}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// Calls until the answer is as expected: the rules follow a change within milliseconds, not at once.
pub(crate) async fn expect(
    from: Option<&Path>,
    to: &str,
    fits: impl Fn(&Answer) -> bool,
    what: &str,
) -> Answer {
    let mut last = None;
    for _ in 0..200 {
        let answer = call(from, to).await;
        if fits(&answer) {
            return answer;
        }
        last = Some(answer);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: {from:?} {to} {last:?}");
}

#[test]
fn a_service_is_reached_from_pods_the_node_and_outside() {
    on_a_node(async |node| {
        let (a, b) = (node.server("a").await, node.server("b").await);
        let client = node.pod("client").await;
        let mut cluster = Cluster::start(node).await;
        let more = node_port(30080, json!({"externalIPs": ["198.51.100.7"]}));
        cluster.service("web", spec("10.96.0.5", "TCP", more));
        cluster.endpoints("web", "TCP", &[(a.ip, "here"), (b.ip, "here")]);
        let served = |answer: &Answer| answer.who == "a" || answer.who == "b";
        let outside = node.outside.clone();
        let from_pod = expect(Some(&client.net), "10.96.0.5:80", served, "from a pod").await;
        assert_eq!(from_pod.saw, client.ip.to_string());
        let from_node = expect(None, "10.96.0.5:80", served, "from the node").await;
        assert_eq!(from_node.saw, "10.42.0.1");
        expect(None, "127.0.0.1:30080", served, "node port on loopback").await;
        expect(None, &format!("{NODE}:30080"), served, "node port from the node").await;
        expect(
            Some(&client.net),
            &format!("{NODE}:30080"),
            served,
            "node port from a pod",
        )
        .await;
        let far = expect(
            Some(&outside),
            &format!("{NODE}:30080"),
            served,
            "node port from outside",
        )
        .await;
        assert_eq!(far.saw, "10.42.0.1", "masqueraded");
        expect(Some(&outside), "198.51.100.7:80", served, "external address").await;
        let far = expect(Some(&outside), "10.96.0.5:80", served, "cluster IP from outside").await;
        assert_eq!(far.saw, "10.42.0.1", "masqueraded");

        // Both endpoints get their share.
        let mut seen = BTreeMap::new();
        for _ in 0..40 {
            *seen
                .entry(call(Some(&client.net), "10.96.0.5:80").await.who)
                .or_insert(0) += 1;
        }
        assert!(seen.len() == 2 && seen.values().all(|n| *n > 3), "{seen:?}");
        // A pod that reaches itself through the Service.
        for _ in 0..20 {
            let answer = call(Some(&a.net), "10.96.0.5:80").await;
            assert!(served(&answer), "{answer:?}");
        }
        // Another port of the address, and an address nobody has.
        assert_eq!(call(Some(&client.net), "10.96.0.5:81").await.who, "refused");
        assert_eq!(call(None, "10.96.0.5:81").await.who, "refused");
        assert_eq!(call(Some(&client.net), "10.96.0.77:80").await.who, "timeout");

        cluster.endpoints("web", "TCP", &[(b.ip, "here")]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 0..20 {
            assert_eq!(call(Some(&client.net), "10.96.0.5:80").await.who, "b");
        }
        cluster.endpoints("web", "TCP", &[]);
        for (from, to) in [
            (Some(client.net.as_path()), "10.96.0.5:80"),
            (None, "10.96.0.5:80"),
            (Some(&outside), "192.0.2.1:30080"),
            (None, "192.0.2.1:30080"),
        ] {
            expect(from, to, |answer| answer.who == "refused", "no endpoints").await;
        }
        cluster.remove("web");
        expect(
            None,
            "10.96.0.5:80",
            |answer| answer.who == "timeout",
            "no Service",
        )
        .await;
    });
}

#[test]
fn a_client_stays_with_its_endpoint_until_that_goes() {
    on_a_node(async |node| {
        let mut ips = Vec::new();
        for name in ["a", "b", "c"] {
            ips.push((node.server(name).await.ip, "here"));
        }
        let client = node.pod("client").await;
        let mut cluster = Cluster::start(node).await;
        let sticky = json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
        cluster.service("web", spec("10.96.0.5", "TCP", sticky));
        cluster.endpoints("web", "TCP", &ips);
        let first = expect(Some(&client.net), "10.96.0.5:80", |a| a.who.len() == 1, "sticky")
            .await
            .who;
        for _ in 0..20 {
            assert_eq!(call(Some(&client.net), "10.96.0.5:80").await.who, first);
        }
        let left: Vec<_> = ["a", "b", "c"]
            .iter()
            .zip(&ips)
            .filter(|(name, _)| **name != first)
            .map(|(_, ip)| *ip)
            .collect();
        cluster.endpoints("web", "TCP", &left);
        let moved = |answer: &Answer| answer.who.len() == 1 && answer.who != first;
        let second = expect(Some(&client.net), "10.96.0.5:80", moved, "moved")
            .await
            .who;
        for _ in 0..20 {
            assert_eq!(
                call(Some(&client.net), "10.96.0.5:80").await.who,
                second,
                "sticks to the new one"
            );
        }
        // From the node it is another client.
        let other = expect(None, "10.96.0.5:80", |a| a.who.len() == 1, "node")
            .await
            .who;
        for _ in 0..10 {
            assert_eq!(call(None, "10.96.0.5:80").await.who, other);
        }
    });
}

#[test]
fn local_policies_keep_to_this_node() {
    on_a_node(async |node| {
        let (a, b) = (node.server("a").await, node.server("b").await);
        let client = node.pod("client").await;
        let outside = node.outside.clone();
        let mut cluster = Cluster::start(node).await;
        let local = json!({"externalTrafficPolicy": "Local"});
        cluster.service("web", spec("10.96.0.5", "TCP", node_port(30080, local)));
        // `b` really is here; the proxy is told otherwise.
        cluster.endpoints("web", "TCP", &[(a.ip, "here"), (b.ip, "there")]);
        let front = format!("{NODE}:30080");
        let far = expect(
            Some(&outside),
            &front,
            |answer| answer.who == "a",
            "local endpoint",
        )
        .await;
        assert_eq!(far.saw, OUTSIDER, "the caller's address is kept");
        for _ in 0..20 {
            assert_eq!(call(Some(&outside), &front).await.who, "a");
        }
        cluster.endpoints("web", "TCP", &[(b.ip, "there")]);
        expect(
            Some(&outside),
            &front,
            |answer| answer.who == "timeout",
            "nobody here",
        )
        .await;
        // The node and its pods may still go anywhere.
        expect(Some(&client.net), &front, |answer| answer.who == "b", "pod").await;
        expect(None, &front, |answer| answer.who == "b", "node").await;
        expect(
            None,
            "127.0.0.1:30080",
            |answer| answer.who == "b",
            "node on loopback",
        )
        .await;

        cluster.service(
            "in",
            spec("10.96.0.6", "TCP", json!({"internalTrafficPolicy": "Local"})),
        );
        cluster.endpoints("in", "TCP", &[(a.ip, "here"), (b.ip, "there")]);
        expect(
            Some(&client.net),
            "10.96.0.6:80",
            |answer| answer.who == "a",
            "internal",
        )
        .await;
        cluster.endpoints("in", "TCP", &[(b.ip, "there")]);
        expect(
            Some(&client.net),
            "10.96.0.6:80",
            |answer| answer.who == "timeout",
            "internal",
        )
        .await;
    });
}

#[test]
fn udp_follows_its_endpoints() {
    on_a_node(async |node| {
        let (a, b) = (node.server("a").await, node.server("b").await);
        let mut cluster = Cluster::start(node).await;
        cluster.service("dns", spec("10.96.0.10", "UDP", json!({})));
        cluster.endpoints("dns", "UDP", &[(a.ip, "here")]);
        // One socket all along: one "connection" to the kernel.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let ask = async |who: &str| {
            for _ in 0..200 {
                let mut buffer = [0; 64];
                let heard = socket
                    .send_to(b"?", "10.96.0.10:80")
                    .and_then(|_| socket.recv(&mut buffer));
                if let Ok(n) = heard
                    && buffer[..n].starts_with(who.as_bytes())
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("never heard from {who}");
        };
        ask("a").await;
        cluster.endpoints("dns", "UDP", &[(b.ip, "here")]);
        ask("b").await;
    });
}

#[test]
fn two_instances_do_not_touch_each_other() {
    on_a_node(async |node| {
        let a = node.server("a").await;
        let mut cluster = Cluster::start(node).await;
        cluster.service("web", spec("10.96.0.5", "TCP", json!({})));
        cluster.endpoints("web", "TCP", &[(a.ip, "here")]);
        expect(None, "10.96.0.5:80", |answer| answer.who == "a", "first").await;

        let other = network::Names::new("ffffff").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = network::pod::Options {
            names: other.clone(),
            state: network::pod::state_dir(dir.path()),
            cluster_cidrs: vec!["10.52.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.53.0.0/16".parse().unwrap()],
            mtu: None,
        };
        let second = network::pod::BridgeNetwork::open(node.host.clone(), options).unwrap();
        cri::network::PodNetwork::set_pod_cidr(&second, "10.52.0.0/24")
            .await
            .unwrap();
        network::cleanup(&node.host, &other, &network::pod::state_dir(dir.path())).unwrap();
        assert_eq!(
            call(None, "10.96.0.5:80").await.who,
            "a",
            "the first is as before"
        );
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .unwrap()
                .trim(),
            "1"
        );
    });
}

/// As cluster DNS is: a server of the node itself, on the bridge's address.
#[test]
fn an_endpoint_may_be_the_node_itself() {
    on_a_node(async |node| {
        let client = node.pod("client").await;
        serve_here("10.42.0.1", "node");
        let mut cluster = Cluster::start(node).await;
        let gateway = "10.42.0.1".parse().unwrap();
        for (name, ip, protocol) in [("dns-tcp", "10.96.0.10", "TCP"), ("dns", "10.96.0.11", "UDP")] {
            cluster.service(name, spec(ip, protocol, json!({})));
            cluster.endpoints(name, protocol, &[(gateway, "here")]);
        }
        for from in [Some(client.net.as_path()), None] {
            expect(from, "10.96.0.10:80", |answer| answer.who == "node", "tcp").await;
            let mut heard = String::new();
            for _ in 0..100 {
                heard = ask_udp(from, "10.96.0.11:80").await;
                if heard.starts_with("node ") {
                    break;
                }
            }
            assert!(heard.starts_with("node "), "{from:?} {heard}");
        }
    });
}

#[test]
fn both_families_are_served() {
    on_a_dual_stack_node(async |node| {
        let (a, b) = (node.server("a").await, node.server("b").await);
        let client = node.pod("client").await;
        let mut cluster = Cluster::start(node).await;
        let more = json!({"clusterIPs": ["10.96.0.5", "fd00:96::5"], "type": "NodePort",
            "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
        cluster.service("web", spec("10.96.0.5", "TCP", more));
        let sticky = json!({"clusterIPs": ["10.96.0.6", "fd00:96::6"], "sessionAffinity": "ClientIP"});
        cluster.service("sticky", spec("10.96.0.6", "TCP", sticky));
        for name in ["web", "sticky"] {
            cluster.endpoints(name, "TCP", &[(a.ips[0], "here"), (b.ips[0], "here")]);
            cluster.endpoints(name, "TCP", &[(a.ips[1], "here"), (b.ips[1], "here")]);
        }
        let served = |answer: &Answer| answer.who == "a" || answer.who == "b";
        for to in [
            "10.96.0.5:80",
            "[fd00:96::5]:80",
            "[fd00:96::6]:80",
            "[fd00:42::1]:30080",
        ] {
            for from in [Some(client.net.as_path()), None] {
                expect(from, to, served, "dual stack").await;
            }
        }
        let first = call(Some(&client.net), "[fd00:96::6]:80").await.who;
        for _ in 0..10 {
            assert_eq!(call(Some(&client.net), "[fd00:96::6]:80").await.who, first);
        }
        // A pod that reaches itself.
        for _ in 0..10 {
            let answer = call(Some(&a.net), "[fd00:96::5]:80").await;
            assert!(served(&answer), "{answer:?}");
        }
        assert_eq!(call(Some(&client.net), "[fd00:96::5]:81").await.who, "refused");
    });
}

#[test]
fn load_balancers_are_asked_for_health_and_keep_strangers_out() {
    on_a_node(async |node| {
        let a = node.server("a").await;
        let outside = node.outside.clone();
        let mut cluster = Cluster::start(node).await;
        let balancer = "198.51.100.7";
        let ranges = |range: &str| {
            let more = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 31000, "loadBalancerSourceRanges": [range]});
            spec("10.96.0.5", "TCP", more)
        };
        cluster.balanced("web", ranges("203.0.113.0/24"), balancer);
        cluster.endpoints("web", "TCP", &[(a.ip, "here")]);
        expect(None, "10.96.0.5:80", |answer| answer.who == "a", "cluster IP").await;
        let front = format!("{balancer}:80");
        assert_eq!(
            call(Some(&outside), &front).await.who,
            "timeout",
            "not from there"
        );
        cluster.balanced("web", ranges("192.0.2.0/24"), balancer);
        let far = expect(Some(&outside), &front, |answer| answer.who == "a", "from there").await;
        assert_eq!(far.saw, OUTSIDER);

        let health = async || {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::TcpStream::connect("127.0.0.1:31000").await.unwrap();
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let text = health().await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("\"localEndpoints\": 1"), "{text}");
        cluster.endpoints("web", "TCP", &[(a.ip, "there")]);
        expect(
            Some(&outside),
            &front,
            |answer| answer.who == "timeout",
            "gone from here",
        )
        .await;
        assert!(health().await.starts_with("HTTP/1.1 503"));
    });
}

#[test]
fn bridge_filtering_is_not_needed() {
    on_a_node(async |node| {
        let setting = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if setting.exists() {
            std::fs::write(setting, "0").unwrap();
        }
        let a = node.server("a").await;
        let client = node.pod("client").await;
        let mut cluster = Cluster::start(node).await;
        cluster.service("web", spec("10.96.0.5", "TCP", json!({})));
        cluster.endpoints("web", "TCP", &[(a.ip, "here")]);
        for from in [&client.net, &a.net] {
            expect(
                Some(from),
                "10.96.0.5:80",
                |answer| answer.who == "a",
                "through the bridge",
            )
            .await;
        }
        let other = call(Some(&client.net), "10.96.0.5:81").await;
        assert_eq!(other.who, "refused");
    });
}
