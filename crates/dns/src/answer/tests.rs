//! Names and what is said about them, as one table.

use client::Informer;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::*;
use crate::index::InformerIndex;

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})).unwrap()
}

fn slice(service: &str, endpoints: Value, ports: Value) -> EndpointSlice {
    let kind = if endpoints[0]["addresses"][0].as_str().unwrap().contains(':') {
        "IPv6"
    } else {
        "IPv4"
    };
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": format!("{service}-{kind}"),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind, "endpoints": endpoints, "ports": ports}))
    .unwrap()
}

pub(crate) fn index() -> InformerIndex {
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let services = [
        service(
            "web",
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": http}),
        ),
        service(
            "db",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": http}),
        ),
        service("bare", json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        service(
            "empty",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": http}),
        ),
        service(
            "out",
            json!({"type": "ExternalName", "externalName": "www.example.org"}),
        ),
        service(
            "in",
            json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}),
        ),
    ];
    let slices = [
        slice(
            "db",
            json!([{"addresses": ["10.42.0.2"], "hostname": "db-0"}, {"addresses": ["10.42.0.3"]},
                   {"addresses": ["10.42.0.4"], "conditions": {"ready": false}}]),
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}]),
        ),
        slice(
            "db",
            json!([{"addresses": ["fd00:42::2"], "hostname": "db-0"}]),
            json!([{"name": "http", "port": 8080}]),
        ),
        slice(
            "web",
            json!([{"addresses": ["10.42.0.9"]}]),
            json!([{"name": "http", "port": 8080}]),
        ),
        slice("bare", json!([{"addresses": ["10.42.0.7"]}]), json!([])),
    ];
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "ns"}})).unwrap();
    InformerIndex::of(
        Informer::fixed([namespace]),
        Informer::fixed(services),
        Informer::fixed(slices),
    )
}

pub(crate) fn zone() -> Zone {
    Zone::new("cluster.local", vec!["10.96.0.10".parse().unwrap()]).unwrap()
}

/// An answer in words: records without owner and time to live, `+` before additional ones.
fn words(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::Records { answers, additional } => answers
            .iter()
            .map(|r| r.data.to_string())
            .chain(additional.iter().map(|r| format!("+{} {}", r.name, r.data)))
            .collect(),
        Answer::NoData => vec!["nodata".into()],
        Answer::NoName => vec!["nxdomain".into()],
        Answer::Alias(_, target) => vec![format!("alias {target}")],
    }
}

#[test]
fn names_and_their_records() {
    let (zone, index) = (zone(), index());
    use RecordType::{A, AAAA, CNAME, MX, NS, SRV, TXT};
    let cases: &[(&str, RecordType, &[&str])] = &[
        ("web.ns.svc.", A, &["10.96.0.5"]),
        ("WEB.ns.SVC.", A, &["10.96.0.5"]),
        ("web.ns.svc.", AAAA, &["fd00::5"]),
        ("web.ns.svc.", MX, &["nodata"]),
        ("nobody.ns.svc.", A, &["nxdomain"]),
        ("web.other.svc.", A, &["nxdomain"]),
        ("_http._tcp.web.ns.svc.", A, &["10.96.0.5"]),
        (
            "_http._tcp.web.ns.svc.",
            SRV,
            &[
                "0 100 80 web.ns.svc.cluster.local.",
                "+web.ns.svc.cluster.local. 10.96.0.5",
                "+web.ns.svc.cluster.local. fd00::5",
            ],
        ),
        ("_http._udp.web.ns.svc.", SRV, &["nxdomain"]),
        ("_nope._tcp.web.ns.svc.", SRV, &["nxdomain"]),
        ("10-42-0-9.web.ns.svc.", A, &["10.42.0.9"]),
        ("db.ns.svc.", A, &["10.42.0.2", "10.42.0.3"]),
        ("db.ns.svc.", AAAA, &["fd00:42::2"]),
        ("db-0.db.ns.svc.", A, &["10.42.0.2"]),
        ("10-42-0-3.db.ns.svc.", A, &["10.42.0.3"]),
        ("10-42-0-4.db.ns.svc.", A, &["nxdomain"]),
        ("db-1.db.ns.svc.", A, &["nxdomain"]),
        (
            "_http._tcp.db.ns.svc.",
            SRV,
            &[
                "0 50 8080 10-42-0-3.db.ns.svc.cluster.local.",
                "0 50 8080 db-0.db.ns.svc.cluster.local.",
                "+10-42-0-3.db.ns.svc.cluster.local. 10.42.0.3",
                "+db-0.db.ns.svc.cluster.local. 10.42.0.2",
                "+db-0.db.ns.svc.cluster.local. fd00:42::2",
            ],
        ),
        ("bare.ns.svc.", A, &["10.42.0.7"]),
        ("bare.ns.svc.", SRV, &["nodata"]),
        ("empty.ns.svc.", A, &["nxdomain"]),
        ("out.ns.svc.", A, &["alias www.example.org."]),
        ("out.ns.svc.", CNAME, &["www.example.org."]),
        ("out.ns.svc.", TXT, &["nodata"]),
        ("in.ns.svc.", AAAA, &["alias web.ns.svc.cluster.local."]),
        ("10-42-0-7.ns.pod.", A, &["10.42.0.7"]),
        ("10-42-0-7.ns.pod.", AAAA, &["nodata"]),
        ("10-42-0-7.other.pod.", A, &["nxdomain"]),
        ("web.ns.pod.", A, &["nxdomain"]),
        ("dns-version.", TXT, &["1.1.0"]),
        ("ns.dns.", A, &["10.96.0.10"]),
        ("", A, &["nodata"]),
        (
            "",
            NS,
            &["ns.dns.cluster.local.", "+ns.dns.cluster.local. 10.96.0.10"],
        ),
        ("svc.", A, &["nodata"]),
        ("ns.svc.", A, &["nodata"]),
        ("other.svc.", A, &["nxdomain"]),
        ("what.ever.", A, &["nxdomain"]),
    ];
    for (name, kind, wanted) in cases {
        let name = Name::from_ascii(format!("{name}cluster.local.")).unwrap();
        assert!(zone.contains(&name), "{name}");
        let found = words(&zone.answer(&index, &name, *kind).unwrap());
        let found: Vec<&str> = found.iter().map(|word| word.trim_matches('"')).collect();
        assert_eq!(found, *wanted, "{name} {kind}");
    }
    assert!(!zone.contains(&Name::from_ascii("cluster.local.example.org.").unwrap()));
}

#[test]
fn addresses_and_their_names() {
    let (zone, index) = (zone(), index());
    for (ip, wanted) in [
        ("10.96.0.5", Some("web.ns.svc.cluster.local.")),
        ("fd00::5", Some("web.ns.svc.cluster.local.")),
        ("10.42.0.2", Some("db-0.db.ns.svc.cluster.local.")),
        ("10.42.0.3", Some("10-42-0-3.db.ns.svc.cluster.local.")),
        ("10.42.0.4", None),
        ("192.0.2.1", None),
    ] {
        let ip: IpAddr = ip.parse().unwrap();
        let answer = zone.reverse(&index, &Name::root(), ip).unwrap();
        let found = answer.as_ref().map(words);
        assert_eq!(found, wanted.map(|name| vec![name.to_owned()]), "{ip}");
    }
}

#[test]
fn the_owner_is_named_as_asked() {
    let name = Name::from_ascii("WeB.ns.svc.cluster.local.").unwrap();
    let Answer::Records { answers, .. } = zone().answer(&index(), &name, RecordType::A).unwrap() else {
        panic!("records")
    };
    assert_eq!(answers[0].name.to_ascii(), "WeB.ns.svc.cluster.local.");
    assert_eq!(answers[0].ttl, 5);
}
