//! Against a recording kernel: the order of things, repetition, crashes. The real kernel is in `tests/it`.

use std::sync::Arc;

use cri::v1::PortMapping;
use linux::fake::Recorder;
use linux::namespace::{Namespace, Namespaces, Net};
use linux::netlink::{LinkKind, Links};

use super::*;

struct Fixture {
    host: Arc<Recorder>,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Fixture {
            host: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
        };
        fixture
            .host
            .set_sysctl(&Net::Own, "net.ipv4.ip_forward", "0")
            .unwrap();
        fixture
    }

    fn open(&self) -> BridgeNetwork {
        let options = Options {
            names: Names::new("0a1b2c").unwrap(),
            state: state_dir(self.dir.path()),
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            mtu: None,
        };
        BridgeNetwork::open(Host::fake(self.host.clone()), options).unwrap()
    }

    fn request(&self, sandbox: &str) -> PodNetworkRequest {
        let net = self.dir.path().join(sandbox);
        self.host.create(Namespace::Net, &net).unwrap();
        PodNetworkRequest {
            sandbox_id: sandbox.into(),
            netns_path: net,
            namespace: "default".into(),
            name: sandbox.into(),
            ..PodNetworkRequest::default()
        }
    }
}

fn address(ips: &PodNetworkStatus) -> String {
    ips.ips[0].to_string()
}

#[tokio::test]
async fn a_pod_gets_the_same_address_again_until_it_is_torn_down() {
    let fixture = Fixture::new();
    let network = fixture.open();
    assert_eq!(network.ready(), Err("the node has no pod CIDR yet".into()));
    let early = network.setup(fixture.request("a")).await;
    assert!(matches!(early, Err(PodNetworkError::NotReady { .. })));
    network.set_pod_cidr("10.42.0.0/24").await.unwrap();
    network.ready().unwrap();
    assert_eq!(
        address(&network.setup(fixture.request("a")).await.unwrap()),
        "10.42.0.2"
    );
    assert_eq!(
        address(&network.setup(fixture.request("b")).await.unwrap()),
        "10.42.0.3"
    );
    assert_eq!(
        address(&network.setup(fixture.request("a")).await.unwrap()),
        "10.42.0.2"
    );
    network.teardown(fixture.request("a")).await.unwrap();
    network.teardown(fixture.request("a")).await.unwrap();
    assert_eq!(
        address(&network.setup(fixture.request("c")).await.unwrap()),
        "10.42.0.4"
    );
    let calls = fixture.host.calls();
    for line in [
        "link-create kj0a1b2cbr bridge",
        "route-set 10.43.0.0/16 dev kj0a1b2cbr",
    ] {
        assert!(calls.iter().any(|call| call == line), "{line} in {calls:#?}");
    }
}

#[tokio::test]
async fn a_restart_keeps_living_pods_and_frees_vanished_ones() {
    let fixture = Fixture::new();
    let network = fixture.open();
    network.set_pod_cidr("10.42.0.0/24").await.unwrap();
    for sandbox in ["a", "b"] {
        network.setup(fixture.request(sandbox)).await.unwrap();
    }
    let living = fixture.request("b");
    drop(network);
    fixture.host.remove(&fixture.dir.path().join("a")).unwrap();
    let stray = Names::new("0a1b2c").unwrap().veth("stray", 0);
    fixture.host.create_link(&stray, &LinkKind::Dummy).unwrap();

    let network = fixture.open();
    network.set_pod_cidr("10.42.0.0/24").await.unwrap();
    assert_eq!(address(&network.setup(living).await.unwrap()), "10.42.0.3");
    let links: Vec<String> = fixture
        .host
        .links()
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert!(
        !links.contains(&Names::new("0a1b2c").unwrap().veth("a", 0)),
        "{links:?}"
    );
}

#[tokio::test]
async fn a_failed_setup_gives_everything_back() {
    let fixture = Fixture::new();
    let network = fixture.open();
    network.set_pod_cidr("10.42.0.0/24").await.unwrap();
    let request = fixture.request("a");
    fixture.host.inside(&request.netns_path).fail("address-add", 22);
    assert!(network.setup(request.clone()).await.is_err());
    let names = Names::new("0a1b2c").unwrap();
    assert!(fixture.host.link(&names.veth("a", 0)).unwrap().is_none());
    assert_eq!(
        std::fs::read_dir(state_dir(fixture.dir.path()).join("pods"))
            .unwrap()
            .count(),
        0
    );
    fixture.host.inside(&request.netns_path).heal();
    assert!(network.setup(request).await.is_ok());
}

#[tokio::test]
async fn clean_up_restores_settings_and_removes_all() {
    let fixture = Fixture::new();
    let network = fixture.open();
    network.set_pod_cidr("10.42.0.0/24").await.unwrap();
    let mut request = fixture.request("a");
    request.port_mappings = vec![PortMapping {
        container_port: 80,
        host_port: 8080,
        ..PortMapping::default()
    }];
    network.setup(request).await.unwrap();
    assert_eq!(
        fixture.host.sysctl(&Net::Own, "net.ipv4.ip_forward").unwrap(),
        "1"
    );

    let names = Names::new("0a1b2c").unwrap();
    let host = Host::fake(fixture.host.clone());
    let state = state_dir(fixture.dir.path());
    let gone = crate::cleanup(&host, &names, &state).unwrap();
    assert_eq!(gone.links.len(), 2);
    assert_eq!(gone.tables, ["ip kijabi-0a1b2c-pods"]);
    assert_eq!(
        fixture.host.sysctl(&Net::Own, "net.ipv4.ip_forward").unwrap(),
        "0"
    );
    assert!(!state.exists());
    assert_eq!(
        crate::cleanup(&host, &names, &state).unwrap(),
        crate::Leftovers::default()
    );
}

#[test]
fn ranges_are_read_and_judged() {
    for good in [
        "10.42.0.0/24",
        "10.42.0.0/24,fd00::/64",
        " fd00::/64 , 10.42.0.0/24 ",
    ] {
        assert!(parse_cidrs(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "10.42.0.0",
        "10.42.0.0/24,10.43.0.0/24",
        "10.42.0.0/31",
        "x/24",
    ] {
        assert!(parse_cidrs(bad).is_err(), "{bad}");
    }
}
