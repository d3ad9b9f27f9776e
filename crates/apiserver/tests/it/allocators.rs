//! Addresses and ports of Services through the whole API, and the objects that show them.

use super::watches::Watch;
use super::{Api, connect};
use apiserver::registry::ServiceAllocator;
use apiserver::{Config, Server};
use machinery::clock::SystemClock;
use machinery::user::UserInfo;
use serde_json::{Value as Json, json};
use std::collections::HashSet;
use std::sync::Arc;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

impl Api {
    /// A server that gives Services addresses of these ranges.
    async fn with_ranges(store: Arc<dyn store::Store>, ranges: &[&str]) -> Self {
        let ranges: Vec<_> = ranges.iter().map(|r| r.parse().expect("a range")).collect();
        let services = ServiceAllocator::load(&*store, &ranges, 30000..=30063).await;
        let config = Config {
            dial: Arc::new(connect::EchoKubelet),
            hooks: vec![services.expect("Services read").hooks()],
            ..Config::new(Arc::clone(&store), Arc::new(SystemClock))
        };
        let server = Server::start(config).await.expect("starts");
        Self {
            service: server.service(),
            user: Arc::new(UserInfo::authenticated("admin", &["system:masters"])),
            store,
        }
    }

    async fn serving(range: &str) -> Self {
        Self::with_ranges(Arc::new(store::Memory::new()), &[range]).await
    }
}

fn service(name: &str, mut spec: Json) -> Json {
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn text(object: &Json, path: &str) -> String {
    object
        .pointer(path)
        .and_then(Json::as_str)
        .expect("text")
        .to_owned()
}

#[tokio::test]
async fn addresses_asked_for_are_given_once_and_come_back() {
    let api = Api::serving("10.43.0.0/24").await;
    let wanted = || service("a", json!({"clusterIP": "10.43.0.10"}));
    let made = api.post(SERVICES, wanted()).await.ok();
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.43.0.10"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(made["spec"]["ipFamilyPolicy"], "SingleStack");
    for (ip, why) in [
        ("10.43.0.10", "provided IP is already allocated"),
        (
            "10.44.0.10",
            "the provided network does not match the current range",
        ),
        (
            "10.43.0.0",
            "the provided network does not match the current range",
        ),
        (
            "10.43.0.255",
            "the provided network does not match the current range",
        ),
    ] {
        let message = format!(
            r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: {why}"#
        );
        api.post(SERVICES, service("b", json!({"clusterIP": ip})))
            .await
            .fails(422, &message);
    }
    // A Service that is there already costs nothing.
    assert_eq!(
        api.post(SERVICES, service("a", json!({"clusterIP": "10.43.0.11"})))
            .await
            .status,
        409
    );
    api.post(SERVICES, service("c", json!({"clusterIP": "10.43.0.11"})))
        .await
        .ok();
    api.delete(&format!("{SERVICES}/a"), Json::Null).await.ok();
    api.post(SERVICES, wanted()).await.ok();
}

#[tokio::test]
async fn a_dry_run_and_a_refused_service_hold_nothing() {
    let api = Api::serving("10.43.0.0/24").await;
    let spec =
        json!({"type": "NodePort", "clusterIP": "10.43.0.10", "ports": [{"port": 80, "nodePort": 30001}]});
    let dry = api
        .post(&format!("{SERVICES}?dryRun=All"), service("a", spec.clone()))
        .await
        .ok();
    assert_eq!(dry["spec"]["clusterIP"], "10.43.0.10");
    let mut bad = service("a", spec.clone());
    bad["metadata"]["labels"] = json!({"a b": "c"});
    assert_eq!(api.post(SERVICES, bad).await.status, 422);
    api.post(SERVICES, service("a", spec)).await.ok();
}

#[tokio::test]
async fn what_a_finalizer_held_comes_back_with_the_object() {
    let api = Api::serving("10.43.0.0/24").await;
    let spec =
        || json!({"type": "NodePort", "clusterIP": "10.43.0.10", "ports": [{"port": 80, "nodePort": 30001}]});
    let path = format!("{SERVICES}/a");
    for _ in 0..20 {
        let mut held = service("a", spec());
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        api.post(SERVICES, held).await.ok();
        api.delete(&path, Json::Null).await.ok();
        // Still there: nobody else gets its address.
        assert_eq!(api.post(SERVICES, service("b", spec())).await.status, 422);
        api.patch(
            &path,
            "merge-patch+json",
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    }
    api.post(SERVICES, service("b", spec())).await.ok();
}

#[tokio::test]
async fn many_at_once_get_different_ones_until_none_is_left() {
    // Fourteen addresses.
    let api = Api::serving("10.43.0.0/28").await;
    let made = futures::future::join_all(
        (0..14).map(|n| api.post(SERVICES, service(&format!("s{n}"), json!({"type": "NodePort"})))),
    )
    .await;
    let made: Vec<Json> = made.into_iter().map(super::Answer::ok).collect();
    let ips: HashSet<String> = made.iter().map(|s| text(s, "/spec/clusterIP")).collect();
    let ports: HashSet<i64> = made
        .iter()
        .map(|s| s["spec"]["ports"][0]["nodePort"].as_i64().expect("a port"))
        .collect();
    assert_eq!((ips.len(), ports.len()), (14, 14));
    // Sixteen of sixty-four are kept for those who ask.
    assert!(
        ports.iter().all(|port| (30016..=30063).contains(port)),
        "{ports:?}"
    );
    api.post(SERVICES, service("full", json!({}))).await.fails(
        500,
        r#"Internal error occurred: failed to allocate a serviceIP for Service "full": range is full"#,
    );
}

#[tokio::test]
async fn a_change_of_type_takes_and_gives_back() {
    let api = Api::serving("10.43.0.0/24").await;
    let path = format!("{SERVICES}/a");
    let merge = "merge-patch+json";
    let made = api.post(SERVICES, service("a", json!({}))).await.ok();
    let ip = text(&made, "/spec/clusterIP");
    let local = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}});
    let balanced = api.patch(&path, merge, local).await.ok();
    let port = balanced["spec"]["ports"][0]["nodePort"].as_i64().expect("a port");
    let health = balanced["spec"]["healthCheckNodePort"].as_i64().expect("a port");
    assert!(port != health && balanced["spec"]["clusterIP"] == ip);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = api.patch(&path, merge, external).await.ok();
    assert_eq!(external["spec"].get("clusterIP"), None, "{external}");
    let ports =
        json!([{"name": "a", "port": 1, "nodePort": port}, {"name": "b", "port": 2, "nodePort": health}]);
    let heir = json!({"type": "NodePort", "clusterIP": ip, "ports": ports});
    api.post(SERVICES, service("b", heir)).await.ok();
}

#[tokio::test]
async fn what_is_stored_is_held_after_a_restart() {
    let store: Arc<dyn store::Store> = Arc::new(store::Memory::new());
    let api = Api::with_ranges(Arc::clone(&store), &["10.43.0.0/24"]).await;
    let spec =
        || json!({"type": "NodePort", "clusterIP": "10.43.0.10", "ports": [{"port": 80, "nodePort": 30001}]});
    api.post(SERVICES, service("a", spec())).await.ok();
    let api = Api::with_ranges(store, &["10.43.0.0/24"]).await;
    assert_eq!(api.post(SERVICES, service("b", spec())).await.status, 422);
}

#[tokio::test]
async fn two_families_are_given_to_who_wants_them() {
    let store: Arc<dyn store::Store> = Arc::new(store::Memory::new());
    let api = Api::with_ranges(store, &["10.43.0.0/24", "fd00:43::/112"]).await;
    let spec = json!({"ipFamilyPolicy": "PreferDualStack"});
    let made = api.post(SERVICES, service("a", spec)).await.ok();
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let second = text(&made, "/spec/clusterIPs/1");
    assert!(second.starts_with("fd00:43::"), "{second}");
    let mut addresses = Watch::open(
        &api,
        &format!("{ADDRESSES}?watch=1&fieldSelector=metadata.name={second}"),
    )
    .await;
    let shown = addresses.next().await.expect("an event");
    assert_eq!(
        shown["object"]["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"],
        "IPv6"
    );
    let single = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let single = api
        .patch(&format!("{SERVICES}/a"), "merge-patch+json", single)
        .await
        .ok();
    assert_eq!(single["spec"]["clusterIPs"].as_array().map(Vec::len), Some(1));
    addresses.expect(&[&format!("DELETED {second}")]).await;
}

#[tokio::test]
async fn an_address_is_shown_for_as_long_as_it_is_held() {
    let api = Api::serving("10.43.0.0/24").await;
    let mut watch = Watch::open(&api, &format!("{ADDRESSES}?watch=1")).await;
    api.post(SERVICES, service("a", json!({"clusterIP": "10.43.0.10"})))
        .await
        .ok();
    let added = watch.next().await.expect("an event");
    assert_eq!(added["type"], "ADDED");
    let object = &added["object"];
    assert_eq!(object["metadata"]["name"], "10.43.0.10");
    assert_eq!(
        object["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(
        object["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "a"})
    );
    // Who removes it does not free the address.
    api.delete(&format!("{ADDRESSES}/10.43.0.10"), Json::Null)
        .await
        .ok();
    watch.expect(&["DELETED 10.43.0.10", "ADDED 10.43.0.10"]).await;
    api.delete(&format!("{SERVICES}/a"), Json::Null).await.ok();
    watch.expect(&["DELETED 10.43.0.10"]).await;
    // Other people's are left alone; a name need not be a domain.
    let theirs = json!({"metadata": {"name": "fe80::42"},
        "spec": {"parentRef": {"group": "g", "resource": "r", "name": "n"}}});
    api.post(ADDRESSES, theirs).await.ok();
    watch.expect(&["ADDED fe80::42"]).await;
    api.post(SERVICES, service("b", json!({"clusterIP": "10.43.0.11"})))
        .await
        .ok();
    watch.expect(&["ADDED 10.43.0.11"]).await;
    api.get(&format!("{ADDRESSES}/fe80::42")).await.ok();
}

#[tokio::test]
async fn the_default_range_is_an_object() {
    let api = Api::serving("10.43.0.0/24").await;
    let mut watch = Watch::open(&api, "/apis/networking.k8s.io/v1/servicecidrs?watch=1").await;
    loop {
        let event = watch.next().await.expect("an event");
        let object = &event["object"];
        assert_eq!(object["metadata"]["name"], "kubernetes");
        assert_eq!(object["spec"]["cidrs"], json!(["10.43.0.0/24"]));
        let Some(condition) = object.pointer("/status/conditions/0") else {
            continue;
        };
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("Ready"), &json!("True"))
        );
        return;
    }
}
