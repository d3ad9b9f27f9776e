//! `kill -9` in the middle of a write load: nothing acknowledged is missing, no revision is used twice.
//!
//! `KIJABI_CRASH_ROUNDS` says how often (5 unless told).

use crate::api::send;
use crate::harness::{Machine, TestNode, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Every write that was acknowledged, by its revision: the object's name and the value written.
type Acknowledged = Mutex<BTreeMap<u64, (String, u64)>>;

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// Writes until kijabi is gone: each writer creates an object of this round, then updates it over and over.
async fn write(client: kube::Client, round: usize, writer: usize, acknowledged: &Acknowledged) {
    let name = format!("round-{round}-writer-{writer}");
    for value in 0_u64.. {
        // Long enough that half an object could be told from a whole one.
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"value": value.to_string(), "again": value.to_string(), "ballast": "x".repeat(2000)},
        });
        let (method, path) = if value == 0 {
            ("POST", MAPS.to_owned())
        } else {
            ("PUT", format!("{MAPS}/{name}"))
        };
        let sent = send(
            &client,
            method,
            &path,
            "application/json",
            object.to_string().into(),
        );
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), sent).await else {
            return;
        };
        assert!(
            matches!(answer.code, 200 | 201),
            "{} {}",
            answer.code,
            answer.body
        );
        let before = acknowledged
            .lock()
            .unwrap()
            .insert(revision(&answer.body), (name.clone(), value));
        assert_eq!(before, None, "a revision is used once");
    }
}

/// Everything acknowledged must be there: each object at the last acknowledged value or the one after it,
/// whose acknowledgement the crash may have swallowed.
fn check(node: &TestNode, acknowledged: &Acknowledged) {
    let mut last: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (revision, (name, value)) in acknowledged.lock().unwrap().iter() {
        last.insert(name.clone(), (*revision, *value));
    }
    let list = node.get(MAPS);
    let mut found = 0;
    for object in list["items"].as_array().unwrap() {
        let name = object["metadata"]["name"].as_str().unwrap();
        if !name.starts_with("round-") {
            continue;
        }
        let data = &object["data"];
        assert_eq!(data["value"], data["again"], "{name} is whole");
        assert_eq!(data["ballast"].as_str().unwrap().len(), 2000, "{name} is whole");
        let value: u64 = data["value"].as_str().unwrap().parse().unwrap();
        let Some((acknowledged, expected)) = last.get(name) else {
            continue;
        };
        found += 1;
        let revision = revision(object);
        assert!(
            (value == *expected && revision == *acknowledged)
                || (value == *expected + 1 && revision > *acknowledged),
            "{name}: acknowledged {expected} at {acknowledged}, there is {value} at {revision}"
        );
    }
    assert_eq!(found, last.len(), "objects that were acknowledged are missing");
    let highest = acknowledged
        .lock()
        .unwrap()
        .keys()
        .next_back()
        .copied()
        .unwrap_or_default();
    assert!(
        revision(&json!({"metadata": list["metadata"]})) >= highest,
        "revisions never go back"
    );
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let rounds = std::env::var("KIJABI_CRASH_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    let Some(machine) = Machine::new() else { return };
    let mut node = TestNode::start_on(&machine, &[]);
    let acknowledged = Acknowledged::default();
    for round in 0..rounds {
        // At another point of the load each time, without chance: a failing round can be repeated.
        let enough = acknowledged.lock().unwrap().len() + 20 + (round * 37) % 150;
        let client_files = node.kubeconfig();
        std::thread::scope(|scope| {
            let writers = scope.spawn(|| {
                machine.block_on(async || {
                    let client = client::remote(&client_files).await.unwrap();
                    let all = (0..8).map(|writer| write(client.clone(), round, writer, &acknowledged));
                    futures::future::join_all(all).await;
                });
            });
            wait_for("enough writes are acknowledged", || {
                let done = acknowledged.lock().unwrap().len() >= enough || writers.is_finished();
                done.then_some(())
            });
            node.crash();
            writers.join().unwrap();
        });
        node.up();
        check(&node, &acknowledged);
    }
    println!(
        "{} writes acknowledged in {rounds} rounds",
        acknowledged.lock().unwrap().len()
    );
}
