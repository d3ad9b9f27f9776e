//! A rolling update and its undoing, under requests that must all succeed.

use crate::api::fetch;
use crate::harness::{Machine, TestNode, wait_for};
use crate::payload;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/front";

/// What the constant stream of requests met.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    versions: Vec<String>,
    failures: Vec<String>,
}

/// Asks without pause, each time over a connection of its own, until told to stop.
fn stream(machine: &Machine, address: SocketAddr, stop: &AtomicBool) -> Seen {
    machine.inside(|| {
        let mut seen = Seen::default();
        while !stop.load(Ordering::Relaxed) {
            match fetch(address, "/") {
                Ok((200, body)) => {
                    seen.answers += 1;
                    if seen.versions.last() != Some(&body) {
                        seen.versions.push(body);
                    }
                }
                other => seen
                    .failures
                    .push(format!("after {} answers: {other:?}", seen.answers)),
            }
        }
        seen
    })
}

fn roll(node: &TestNode, image: &str) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "nginx", "image": image}]}}}});
    let kind = "application/strategic-merge-patch+json";
    let answer = node
        .try_request("PATCH", DEPLOYMENT, kind, patch.to_string().into())
        .unwrap();
    assert_eq!(answer.code, 200, "{}", answer.body);
    rolled_out(node);
}

fn rolled_out(node: &TestNode) {
    wait_for("the front is rolled out", || {
        let front = node.get(DEPLOYMENT);
        let (status, wanted) = (&front["status"], &front["spec"]["replicas"]);
        let all = ["replicas", "updatedReplicas", "availableReplicas"];
        let seen = status["observedGeneration"] == front["metadata"]["generation"];
        (seen && all.iter().all(|count| &status[*count] == wanted)).then_some(())
    });
}

#[test]
fn no_request_fails_while_the_front_is_updated_and_put_back() {
    let (Some(first), Some(second)) = (payload::front(1), payload::front(2)) else {
        return;
    };
    let Some(node) = TestNode::start() else { return };
    for image in [first, second] {
        node.import(&image);
    }
    node.create(payload::SHOP);
    node.wait_ready_pods("shop", "app=front", 2);
    let service = node.get("/api/v1/namespaces/shop/services/front");
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let address = SocketAddr::new(address.parse().unwrap(), 80);
    let answers = |body: &str| {
        node.fetch(address, "/")
            .is_ok_and(|answer| answer.1 == body)
            .then_some(())
    };
    wait_for("the Service answers", || answers("front 1\n"));

    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let stream = scope.spawn(|| stream(node.machine(), address, &stop));
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            roll(&node, "kijabi.test/front:2");
            wait_for("the new front answers", || answers("front 2\n"));
            roll(&node, "kijabi.test/front:1");
            wait_for("the old front answers again", || answers("front 1\n"));
            node.wait_ready_pods("shop", "app=front", 2);
        }));
        stop.store(true, Ordering::Relaxed);
        let seen = stream.join().unwrap();
        work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    });
    println!("{} requests answered", seen.answers);
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(
        seen.versions.contains(&"front 2\n".to_owned()),
        "both versions were asked"
    );

    // The way back went to the replica set that was there, which the history tells.
    let sets = node.get("/apis/apps/v1/namespaces/shop/replicasets?labelSelector=app=front");
    let mut revisions: Vec<&Value> = sets["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|set| &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
        .collect();
    revisions.sort_by_key(|revision| revision.as_str());
    assert_eq!(revisions, ["2", "3"]);
}
