//! Decisions as tables of cases. What the kernel does with them is in `tests/it`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use linux::conntrack::{Connection, Tuple};
use linux::fake::Recorder;
use linux::nftables::{Family, Op, Ruleset};
use serde_json::{Value, json};

use super::endpoints::*;
use super::plan::*;
use super::service::*;
use super::stale::UdpFronts;
use super::state::State;
use super::table::*;
use crate::Names;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec})).unwrap()
}

fn web() -> Value {
    json!({"type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
           "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]})
}

fn with(mut spec: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// Endpoints in short: `<last octet><node letter>[flags]`, flags `t` terminating and serving, `x` unusable,
/// `s` serving only, `z<zone>` and `n<node>` hints.
fn slice(list: &[&str]) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = list
        .iter()
        .map(|text| {
            let mut words = text.split(' ');
            let (ip, node) = (words.next().unwrap(), words.next().unwrap());
            let (mut ready, mut serving, mut terminating) = (true, true, false);
            let (mut zones, mut nodes) = (Vec::new(), Vec::new());
            for word in words {
                match word.split_at(1) {
                    ("t", _) => (ready, terminating) = (false, true),
                    ("x", _) => (ready, serving, terminating) = (false, false, true),
                    ("s", _) => ready = false,
                    ("z", zone) => zones.push(json!({"name": zone})),
                    ("n", node) => nodes.push(json!({"name": node})),
                    other => panic!("{other:?}"),
                }
            }
            json!({"addresses": [format!("10.42.0.{ip}")], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                   "hints": {"forZones": zones, "forNodes": nodes}})
        })
        .collect();
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
        .unwrap(),
    )
}

fn node() -> NodeFacts {
    NodeFacts {
        name: "a".into(),
        zone: "1".into(),
        ips: vec!["192.0.2.1".parse().unwrap()],
    }
}

fn planned(spec: Value, list: &[&str]) -> PortPlan {
    let ports = service_ports(&service(spec), IpFamily::V4);
    let all = endpoints(&[slice(list)], IpFamily::V4, "a");
    plan(
        &ports[0],
        all.get(&("http".into(), 6)).unwrap_or(&Vec::new()),
        &node(),
    )
}

/// The last octets of a pool's endpoints.
fn pool(plan: &PortPlan, policy: Policy) -> Vec<u8> {
    let pool = plan.pools.iter().find(|pool| pool.policy == policy);
    let octet = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => panic!("not here"),
    };
    pool.map_or_else(Vec::new, |pool| {
        pool.endpoints.iter().map(|(ip, _)| octet(*ip)).collect()
    })
}

#[test]
fn which_endpoints_serve() {
    let local = json!({"internalTrafficPolicy": "Local"});
    type Case<'a> = (&'a str, Value, &'a [&'a str], Target, &'a [u8]);
    let cases: &[Case<'_>] = &[
        (
            "ready ones",
            json!({}),
            &["2 a", "3 b"],
            Target::Pool(Policy::Cluster),
            &[2, 3],
        ),
        (
            "not those that go",
            json!({}),
            &["2 a t", "3 b", "4 b x"],
            Target::Pool(Policy::Cluster),
            &[3],
        ),
        (
            "those that go, failing others",
            json!({}),
            &["2 a t", "4 b x"],
            Target::Pool(Policy::Cluster),
            &[2],
        ),
        (
            "not the merely serving",
            json!({}),
            &["2 a s"],
            Target::Reject,
            &[],
        ),
        ("nobody", json!({}), &[], Target::Reject, &[]),
        (
            "local ones",
            local.clone(),
            &["2 a", "3 b"],
            Target::Pool(Policy::Local),
            &[2],
        ),
        (
            "local ones that go",
            local.clone(),
            &["2 a t", "3 b"],
            Target::Pool(Policy::Local),
            &[2],
        ),
        ("elsewhere only", local, &["3 b"], Target::Drop, &[]),
        (
            "this zone",
            json!({}),
            &["2 a z1", "3 b z2", "4 b z1"],
            Target::Pool(Policy::Cluster),
            &[2, 4],
        ),
        (
            "hints incomplete",
            json!({}),
            &["2 a z1", "3 b"],
            Target::Pool(Policy::Cluster),
            &[2, 3],
        ),
        (
            "hints for others",
            json!({}),
            &["2 a z2", "3 b z2"],
            Target::Pool(Policy::Cluster),
            &[2, 3],
        ),
        (
            "this node first",
            json!({}),
            &["2 a z1 na", "3 b z1 nb"],
            Target::Pool(Policy::Cluster),
            &[2],
        ),
        (
            "hints of the unready",
            json!({}),
            &["2 a z1", "3 b t"],
            Target::Pool(Policy::Cluster),
            &[2],
        ),
    ];
    for (name, more, list, target, octets) in cases {
        let plan = planned(with(web(), more.clone()), list);
        assert_eq!(plan.fronts[0].to, *target, "{name}");
        let policy = if *target == Target::Pool(Policy::Local) {
            Policy::Local
        } else {
            Policy::Cluster
        };
        assert_eq!(pool(&plan, policy), *octets, "{name}");
    }
}

#[test]
fn outside_traffic_follows_its_policy() {
    let node_port = json!({"type": "NodePort", "externalIPs": ["198.51.100.7"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    let plan = planned(with(web(), node_port.clone()), &["2 a", "3 b"]);
    let ats: Vec<At> = plan.fronts.iter().map(|f| f.at).collect();
    let address = |ip: &str| At::Address(ip.parse().unwrap(), 80);
    assert_eq!(
        ats,
        [address("10.96.0.5"), address("198.51.100.7"), At::NodePort(30080)]
    );
    assert_eq!(plan.fronts[0].source, Source::Kept);
    assert_eq!(plan.fronts[2].source, Source::Masqueraded);

    let local = with(with(web(), node_port), json!({"externalTrafficPolicy": "Local"}));
    let plan = planned(local.clone(), &["2 a", "3 b"]);
    let front = plan.fronts[2];
    assert_eq!(
        (front.to, front.from_inside, front.source),
        (Target::Pool(Policy::Local), Some(Policy::Cluster), Source::Kept)
    );
    assert_eq!(
        (pool(&plan, Policy::Local), pool(&plan, Policy::Cluster)),
        (vec![2], vec![2, 3])
    );
    let plan = planned(local.clone(), &["3 b"]);
    assert_eq!(
        (plan.fronts[2].to, plan.fronts[2].from_inside),
        (Target::Drop, Some(Policy::Cluster))
    );
    let plan = planned(local, &[]);
    assert_eq!(
        (plan.fronts[2].to, plan.fronts[2].from_inside),
        (Target::Reject, None)
    );
}

#[test]
fn services_that_are_not_proxied() {
    for (name, spec) in [
        (
            "headless",
            with(web(), json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        ),
        (
            "external name",
            json!({"type": "ExternalName", "externalName": "example.org"}),
        ),
        (
            "other family",
            with(web(), json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]})),
        ),
    ] {
        assert!(service_ports(&service(spec), IpFamily::V4).is_empty(), "{name}");
    }
    let mut other = service(web());
    other.metadata.labels = Some(
        [(
            "service.kubernetes.io/service-proxy-name".to_owned(),
            "x".to_owned(),
        )]
        .into(),
    );
    assert!(service_ports(&other, IpFamily::V4).is_empty());
}

#[test]
fn load_balancers_let_in_whom_they_should() {
    let mut balanced = service(with(
        web(),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
               "loadBalancerSourceRanges": [" 192.0.2.0/24 ", "192.0.2.128/25", "fd00::/64"]}),
    ));
    balanced.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.9", "ipMode": "VIP"}, {"ip": "203.0.113.10", "ipMode": "Proxy"}]}}))
    .unwrap();
    assert_eq!(health_check_node_port(&balanced), Some(31000));
    let ports = service_ports(&balanced, IpFamily::V4);
    assert_eq!(
        ports[0].load_balancer_ips,
        ["203.0.113.9".parse::<IpAddr>().unwrap()]
    );
    let plan = plan(&ports[0], &[], &node());
    let allowed: Vec<String> = plan.firewall[0].1.iter().map(|net| net.to_string()).collect();
    assert_eq!(
        allowed,
        ["192.0.2.0/24", "203.0.113.9/32"],
        "the node's own range, so the balancer's address too"
    );
    assert_eq!(health_check_node_port(&service(web())), None);
}

#[test]
fn session_affinity_has_a_time() {
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let ports = service_ports(&service(with(web(), sticky.clone())), IpFamily::V4);
    assert_eq!(ports[0].affinity, Some(Duration::from_secs(10800)));
    let config = json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}});
    let ports = service_ports(&service(with(with(web(), sticky), config)), IpFamily::V4);
    assert_eq!(ports[0].affinity, Some(Duration::from_secs(5)));
}

#[test]
fn stale_udp_connections_are_those_to_nobody() {
    let spec = with(
        web(),
        json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]}),
    );
    let port = &service_ports(&service(spec), IpFamily::V4)[0];
    let all = endpoints(&[slice(&["2 a", "3 b", "4 b x"])], IpFamily::V4, "a")
        .remove(&("http".into(), 6))
        .unwrap();
    let mut fronts = UdpFronts::default();
    fronts.add(port, &all);
    let connection = |to: &str, answers: &str| {
        let tuple = |source: &str, destination: &str| {
            let (s, d): (std::net::SocketAddr, std::net::SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            Tuple {
                source: s.ip(),
                destination: d.ip(),
                source_port: s.port(),
                destination_port: d.port(),
            }
        };
        Connection::new(17, tuple("10.42.0.9:999", to), tuple(answers, "10.42.0.9:999"))
    };
    for (to, answers, stale) in [
        ("10.96.0.5:53", "10.42.0.2:8080", false),
        ("10.96.0.5:53", "10.42.0.4:8080", true),
        ("10.96.0.5:53", "10.96.0.5:53", true),
        ("10.96.0.6:53", "10.42.0.4:8080", false),
        ("192.0.2.1:30053", "10.42.0.4:8080", true),
        ("192.0.2.1:30053", "10.42.0.3:8080", false),
    ] {
        assert_eq!(fronts.is_stale(&connection(to, answers)), stale, "{to} {answers}");
    }
}

// === the table ===

fn options() -> TableOptions {
    TableOptions {
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_port_addresses: Vec::new(),
        mark: 0x4000,
        masquerade_all: false,
    }
}

fn state() -> State {
    State::new(Shape::new(
        &Names::new("0a1b2c").unwrap(),
        IpFamily::V4,
        options(),
    ))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

/// Batches applied one by one leave what one full rebuild would.
fn check_same(kernel: &Recorder, state: &mut State) {
    let table = Names::new("0a1b2c").unwrap().proxy_table(Family::Ip);
    let fresh = Recorder::default();
    fresh.commit(&state.rebuild()).unwrap();
    let (now, mut wanted) = (kernel.dump(&table).unwrap(), fresh.dump(&table).unwrap());
    for set in &mut wanted.sets {
        assert_eq!(now.set(&set.name).unwrap().elements, set.elements, "{}", set.name);
    }
    assert_eq!(now.sets.len(), wanted.sets.len());
    for chain in &wanted.chains {
        assert_eq!(
            now.chain(&chain.name).unwrap().rules,
            chain.rules,
            "{}",
            chain.name
        );
    }
    assert_eq!(now.chains.len(), wanted.chains.len());
}

#[test]
fn changes_add_up_to_what_a_rebuild_makes() {
    let kernel = Recorder::default();
    let mut state = state();
    kernel.commit(&state.rebuild()).unwrap();
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let node_port = json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    let other = json!({"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6"]});
    let steps: Vec<(&str, Vec<PortPlan>)> = vec![
        ("web", vec![planned(web(), &["2 a", "3 b"])]),
        ("api", vec![planned(with(web(), other.clone()), &["2 a"])]),
        ("web", vec![planned(web(), &["2 a", "3 b", "4 b"])]),
        ("web", vec![planned(with(web(), sticky), &["2 a", "3 b", "4 b"])]),
        ("web", vec![planned(with(web(), node_port.clone()), &["3 b"])]),
        ("web", vec![planned(with(web(), node_port), &["2 a"])]),
        ("api", vec![planned(with(web(), other), &[])]),
        ("web", vec![]),
        ("api", vec![]),
    ];
    for (name, plans) in steps {
        state.set(&key(name), &plans);
        kernel.commit(&state.take_changes()).unwrap();
        kernel.commit(&state.take_gone().1).unwrap();
        check_same(&kernel, &mut state);
    }
    assert_eq!(state.size().elements, 0);
    assert_eq!(state.size().services, 0);
}

#[test]
fn an_unchanged_service_costs_nothing_and_a_changed_one_little() {
    let mut state = state();
    let octets: Vec<String> = (2..102).map(|n| format!("{n} b")).collect();
    let list: Vec<&str> = octets.iter().map(String::as_str).collect();
    state.set(&key("web"), &[planned(web(), &list)]);
    let first = state.take_changes();
    assert!(!first.is_empty());
    state.set(&key("web"), &[planned(web(), &list)]);
    assert!(state.take_changes().is_empty());
    state.set(&key("web"), &[planned(web(), &list[1..])]);
    let elements: usize = state
        .take_changes()
        .ops
        .iter()
        .map(|op| match op {
            Op::AddElements(_, _, list) | Op::DeleteElements(_, _, list) => list.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(
        elements, 5,
        "one goes, the last takes its place, the front changes its chain"
    );
}

#[test]
fn two_claimants_of_one_front_take_turns() {
    let kernel = Recorder::default();
    let mut state = state();
    kernel.commit(&state.rebuild()).unwrap();
    for (name, list) in [("web", vec!["2 a"]), ("api", vec!["2 a", "3 b"]), ("web", vec![])] {
        let plans = if list.is_empty() {
            vec![]
        } else {
            vec![planned(web(), &list)]
        };
        state.set(&key(name), &plans);
        kernel.commit(&state.take_changes()).unwrap();
        check_same(&kernel, &mut state);
    }
    let table = Names::new("0a1b2c").unwrap().proxy_table(Family::Ip);
    let dump = kernel.dump(&table).unwrap();
    assert_eq!(
        format!("{:?}", dump.set("fronts").unwrap().elements[0].data),
        r#"Verdict(Goto("pool-2"))"#
    );
}

// === the shell ===

/// A refused batch is not the end: all is written anew once the kernel takes it.
#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_made_good() {
    use client::Informer;
    let kernel = Arc::new(Recorder::default());
    let sources = super::Sources {
        services: Informer::fixed([]),
        slices: Informer::fixed([]),
        node: Informer::fixed([]),
    };
    let (services, slices) = (sources.services.clone(), sources.slices.clone());
    let options = super::ProxyOptions {
        names: Names::new("0a1b2c").unwrap(),
        node_name: "a".into(),
        node_ips: Vec::new(),
        families: vec![IpFamily::V4],
        table: options(),
        min_interval: Duration::from_millis(20),
    };
    let mut proxy = super::start_from(crate::Host::fake(kernel.clone()), sources, options);
    proxy.synced().await;
    kernel.fail("add elements", 12);
    let mut web = service(web());
    web.metadata.resource_version = Some("1".into());
    services.written(web);
    let mut one = slice(&["2 a"]).as_ref().clone();
    one.metadata.resource_version = Some("2".into());
    slices.written(one);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let table = Names::new("0a1b2c").unwrap().proxy_table(Family::Ip);
    let fronts = || {
        kernel
            .dump(&table)
            .unwrap()
            .set("fronts")
            .map_or(0, |set| set.elements.len())
    };
    assert_eq!(fronts(), 0);
    kernel.heal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fronts(), 1);
    // Idle means idle.
    kernel.take_calls();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(kernel.take_calls().is_empty());
    proxy.stop().await;
}
