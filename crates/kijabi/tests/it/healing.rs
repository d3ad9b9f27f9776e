//! What dies comes back, and what the death of kijabi must not touch goes on.

use crate::api::{is_ready, name};
use crate::harness::{TestNode, wait_for};
use crate::payload;
use serde_json::Value;

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: idle
        image: kijabi.test/tools:1
        imagePullPolicy: Never
        command: [sh, -c, 'trap exit TERM; date +%s%N; while :; do sleep 1 & wait $!; done']
";

fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"]
        .as_i64()
        .unwrap_or(-1)
}

fn container(pod: &Value) -> &str {
    pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap_or_default()
}

#[test]
fn containers_outlive_kijabi_and_what_dies_is_replaced() {
    let Some(tools) = payload::tools() else { return };
    let Some(mut node) = TestNode::start() else { return };
    node.import(&tools);
    node.create(MANIFEST);
    let before = node.wait_ready_pods("default", "app=idle", 2);
    assert_eq!(before.iter().map(restarts).sum::<i64>(), 0);

    // A killed container process restarts in its pod.
    let victim = name(&before[0]).to_owned();
    let path = format!("/api/v1/namespaces/default/pods/{victim}");
    let first = container(&before[0]).to_owned();
    kill_containers(&node);
    let again = wait_for("the killed container runs again", || {
        let pod = node.get(&path);
        (restarts(&pod) == 1 && is_ready(&pod)).then_some(pod)
    });
    assert_ne!(container(&again), first);
    assert_eq!(
        again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        137
    );

    // A deleted pod is replaced by another.
    assert_eq!(node.request("DELETE", &path, "").code, 200);
    let pods = wait_for("the deleted pod is gone and another is ready", || {
        let pods = node.pods("default", "app=idle");
        (pods.len() == 2 && pods.iter().all(|pod| is_ready(pod) && name(pod) != victim)).then_some(pods)
    });

    // Kijabi dies: the containers do not notice, and the next kijabi takes them over as they are.
    let told = |pods: &[Value]| {
        let mut told: Vec<_> = pods
            .iter()
            .map(|pod| (container(pod).to_owned(), restarts(pod)))
            .collect();
        told.sort();
        told
    };
    let (alive, known) = (node_processes(&node), told(&pods));
    node.crash();
    assert_eq!(node_processes(&node), alive, "containers outlive kijabi");
    node.up();
    let adopted = node.wait_ready_pods("default", "app=idle", 2);
    assert_eq!(
        told(&adopted),
        known,
        "the same containers, restart counts unchanged"
    );
    assert_eq!(node_processes(&node), alive);

    // The adopted ones are really looked after.
    kill_containers(&node);
    wait_for("an adopted container that was killed runs again", || {
        let pods = node.pods("default", "app=idle");
        pods.iter()
            .all(|pod| is_ready(pod) && !known.iter().any(|(id, _)| id == container(pod)))
            .then_some(())
    });
}

/// The containers' processes, by id. (The bracket keeps the asking shell itself from being found.)
fn node_processes(node: &TestNode) -> String {
    node.machine().sh("pgrep -f '[t]rap exit TERM'")
}

fn kill_containers(node: &TestNode) {
    node.machine().sh("kill -9 $(pgrep -f '[t]rap exit TERM')");
}
