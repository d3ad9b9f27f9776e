//! What kijabi makes on the host goes with `kijabi down`, and instances do not touch each other.

use crate::api::loopback;
use crate::harness::{Machine, TestNode, wait_for};
use crate::payload;
use std::net::SocketAddr;
use std::path::PathBuf;

#[test]
fn down_leaves_the_host_as_it_was() {
    let (Some(front), Some(back)) = (payload::front(1), payload::back()) else {
        return;
    };
    let Some(machine) = Machine::new() else { return };
    let before = machine.traces();
    let mut node = TestNode::start_on(&machine, &[]);
    for image in [front, back] {
        node.import(&image);
    }
    node.create(payload::SHOP);
    node.wait_ready_pods("shop", "app=front", 2);
    node.wait_ready_pods("shop", "app=back", 1);
    let during = machine.traces();
    for kind in ["link", "route", "table", "mount"] {
        let count = |traces: &[String]| traces.iter().filter(|trace| trace.starts_with(kind)).count();
        assert!(count(&during) > count(&before), "{kind}: {during:#?}");
    }
    assert_ne!(node.cgroups(), Vec::<PathBuf>::new());

    // While kijabi runs, down refuses; when it has stopped, the pods are still there.
    let refused = node.kijabi(&["down"]).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("still runs"), "{said}");
    assert!(node.stop().success());
    let address = loopback(30080);
    assert_eq!(
        node.fetch(address, "/").unwrap().1,
        "front 1\n",
        "pods and Services live on"
    );

    let down = node.down(false);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    wait_for_traces(&machine, &before);
    assert_eq!(node.cgroups(), Vec::<PathBuf>::new());
    assert!(node.kubeconfig().exists(), "the data stays");

    // The same cluster comes back from its data, and its pods with it.
    node.up();
    node.wait_ready_pods("shop", "app=front", 2);
    wait_for("the front answers again", || {
        node.fetch(address, "/").ok().filter(|answer| answer.0 == 200)
    });

    // Killed in full work, down still finds everything.
    node.crash();
    let down = node.down(true);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    wait_for_traces(&machine, &before);
    assert!(!node.data().exists(), "purged");
}

/// Compares, and shows what is left.
#[track_caller]
fn wait_for_traces(machine: &Machine, before: &[String]) {
    let mut left = Vec::new();
    let same = || {
        left = machine.traces();
        (left == before).then_some(())
    };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        crate::harness::wait_within(std::time::Duration::from_secs(5), "the host is as before", same);
    }));
    if found.is_err() {
        assert_eq!(left, before, "kijabi down leaves the host as it was");
    }
}

#[test]
fn two_instances_live_side_by_side() {
    let Some(front) = payload::front(1) else { return };
    let Some(machine) = Machine::new() else { return };
    let first = TestNode::start_on(&machine, &[]);
    let mut second = TestNode::start_on(
        &machine,
        &[
            "--https-listen-port=7443",
            "--kubelet-port=11250",
            "--cluster-cidr=10.52.0.0/16",
            "--service-cidr=10.53.0.0/16",
            "--service-node-port-range=31000-31999",
            "--node-name=other",
        ],
    );
    let manifest = payload::SHOP
        .split("---")
        .filter(|part| !part.contains("back"))
        .collect::<Vec<_>>()
        .join("---");
    for (node, port, net) in [(&first, 30080, "10.42."), (&second, 31080, "10.52.")] {
        node.import(&front);
        node.create(&manifest.replace("30080", &port.to_string()));
        for pod in node.wait_ready_pods("shop", "app=front", 2) {
            let ip = pod["status"]["podIP"].as_str().unwrap();
            assert!(ip.starts_with(net), "{ip}");
        }
    }
    let answers = |node: &TestNode, port| {
        let service = node.get("/api/v1/namespaces/shop/services/front");
        let address: SocketAddr = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap())
            .parse()
            .unwrap();
        for address in [loopback(port), address] {
            wait_for(&format!("{address} answers"), || {
                node.fetch(address, "/").ok().filter(|a| a.0 == 200)
            });
        }
    };
    answers(&first, 30080);
    answers(&second, 31080);

    // One goes; the other does not notice.
    let ready = first.wait_ready_pods("shop", "app=front", 2);
    let down = second.down(true);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    answers(&first, 30080);
    assert!(
        node_has_only(&machine, &first),
        "the second's links are gone, the first's are not"
    );
    let restarts = |pods: &[serde_json::Value]| -> Vec<serde_json::Value> {
        pods.iter()
            .map(|pod| pod["status"]["containerStatuses"].clone())
            .collect()
    };
    let still = first.wait_ready_pods("shop", "app=front", 2);
    assert_eq!(restarts(&still), restarts(&ready));
}

/// Whether the bridges of the machine are just this node's.
fn node_has_only(machine: &Machine, node: &TestNode) -> bool {
    let bridges: Vec<String> = machine
        .links()
        .links()
        .unwrap()
        .into_iter()
        .filter(|link| link.kind == "bridge")
        .map(|link| link.name)
        .collect();
    bridges == [format!("kj{}br", node.id())]
}
