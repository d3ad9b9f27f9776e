//! `kill -9` of kijabi, of shims and of containers at random while pods come, are looked into and go: nothing of
//! them is left, and no pod is stuck.
//!
//! It takes minutes, and a container that was killed often is held back for minutes more, so it runs only when
//! `KIJABI_FAULTS_SECONDS` says for how long; `KIJABI_FAULTS_SEED` says what is chosen. The counts before and after
//! are printed:
//!
//! ```text
//! KIJABI_FAULTS_SECONDS=600 cargo test -p kijabi --test it faults -- --nocapture
//! ```

use crate::api::{Kubectl, is_ready, name};
use crate::harness::{Machine, TestNode, skipped, wait_for, wait_within};
use crate::payload;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// As many pods at once.
const MOST: usize = 8;
/// A restart of a container is held off for longer after each of its deaths, up to five minutes.
const PATIENCE: Duration = Duration::from_secs(360);

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn choose<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        match list.len() {
            0 => None,
            len => list.get(self.below(len)),
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// What of pods is on the host, counted.
fn census(node: &TestNode) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut add = |kind: &str, count: usize| *counts.entry(kind.to_owned()).or_default() += count;
    for trace in node.machine().traces() {
        let mut words = trace.split(' ');
        match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
            // Of processes only what they are called: kijabi's own come and go with its restarts.
            ("process", "(kijabi)" | "(sh)" | "(nsenter)") => {}
            ("process", _) => add("processes", 1),
            (kind, _) => add(&format!("{kind}s"), 1),
        }
    }
    add("shims", shims(node).len());
    add("cgroups", node.cgroups().iter().map(|dir| directories(dir)).sum());
    let agent = node.data().join("agent");
    for (kind, dir) in [
        ("sandboxes", "runtime/pods"),
        ("network namespaces", "runtime/netns"),
        ("volume directories", "kubelet/pods"),
    ] {
        add(kind, entries(&agent.join(dir)));
    }
    add(
        "addresses",
        entries(&network::pod::state_dir(&agent).join("pods")),
    );
    counts
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, |entries| entries.count())
}

fn directories(dir: &Path) -> usize {
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    1 + below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| directories(&entry.path()))
        .sum::<usize>()
}

fn shims(node: &TestNode) -> Vec<String> {
    pids(node, "[s]him pod$")
}

/// Ids, inside the machine, of the processes whose command line matches. (A bracket hides the asking shell.)
fn pids(node: &TestNode, pattern: &str) -> Vec<String> {
    let found = node.machine().sh(&format!("pgrep -f '{pattern}' || true"));
    found.lines().map(str::to_owned).collect()
}

fn pod(number: usize, dice: &mut Dice) -> Value {
    let lives = "trap 'exit 0' TERM; while :; do echo tick; sleep 1 & wait $!; done";
    let (script, policy) = match dice.below(4) {
        0 => ("sleep 1; exit 0", "Never"),
        1 => ("sleep 1; exit 3", "OnFailure"),
        _ => (lives, "Always"),
    };
    let container = |name: &str, script: &str| {
        json!({
            "name": name, "image": payload::TOOLS, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        })
    };
    let mut containers = vec![container("main", script)];
    if dice.below(2) == 0 {
        containers.push(container("side", lives));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("churn-{number}"), "labels": {"app": "churn"}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "restartPolicy": policy,
            "initContainers": [container("first", "true")],
            "containers": containers,
            "volumes": [{"name": "scratch", "emptyDir": {"medium": if dice.below(2) == 0 { "" } else { "Memory" }}}],
        },
    })
}

/// Whether a pod has come to what it should come to.
fn is_settled(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed") || is_ready(pod)
        // One that fails for good is between its restarts, or about to be.
        || pod["spec"]["restartPolicy"] == "OnFailure" && phase == "Running"
}

#[test]
fn random_kills_leave_nothing_behind() {
    let length = Duration::from_secs(number("KIJABI_FAULTS_SECONDS", 0));
    if length.is_zero() {
        skipped("KIJABI_FAULTS_SECONDS does not say for how long");
        return;
    }
    let Some(tools) = payload::tools() else { return };
    let Some(machine) = Machine::new() else { return };
    let mut node = TestNode::start_on(&machine, &[]);
    let seed = number("KIJABI_FAULTS_SEED", 7);
    let mut dice = Dice(seed | 1);
    let kubectl = Kubectl::all().pop();
    node.import(&tools);
    // What the first pod of a node leaves for all others is no leak.
    let warm = pod(0, &mut Dice(1));
    assert_eq!(node.request("POST", PODS, warm.to_string()).code, 201);
    settle_and_remove(&node);
    let before = wait_for("nothing of the first pod is left", || {
        let counts = census(&node);
        (counts["sandboxes"] == 0 && counts["addresses"] == 0 && counts["volume directories"] == 0)
            .then_some(counts)
    });

    let mut done: BTreeMap<&str, usize> = BTreeMap::new();
    let mut execs: Vec<Child> = Vec::new();
    let end = Instant::now() + length;
    let mut next = 1;
    while Instant::now() < end {
        // A kijabi that was just killed answers nothing; the load goes on when it does.
        let ask = |method: &str, path: &str, body: String| {
            node.try_request(method, path, "application/json", body.into_bytes())
        };
        let names: Vec<String> = match ask("GET", PODS, String::new()) {
            Ok(answer) => answer.body["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|pod| name(pod).to_owned())
                .collect(),
            Err(_) => Vec::new(),
        };
        match dice.below(10) {
            0..4 if names.len() < MOST => {
                let made = ask("POST", PODS, pod(next, &mut dice).to_string());
                next += 1;
                *done.entry("created").or_default() += usize::from(made.is_ok());
            }
            0..6 => {
                if let Some(name) = dice.choose(&names) {
                    let grace = dice.below(2);
                    let path = format!("{PODS}/{name}?gracePeriodSeconds={grace}");
                    let gone = ask("DELETE", &path, String::new());
                    *done.entry("deleted").or_default() += usize::from(gone.is_ok());
                }
            }
            6 => {
                if let (Some(kubectl), Some(name)) = (&kubectl, dice.choose(&names)) {
                    let words = [
                        "exec",
                        name,
                        "-c",
                        "main",
                        "--",
                        "sh",
                        "-c",
                        "echo x > /scratch/x; sleep 1",
                    ];
                    let exec = kubectl
                        .command(&node, &words)
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn();
                    execs.push(exec.unwrap());
                    *done.entry("execs").or_default() += 1;
                }
            }
            7 => {
                if let Some(shim) = dice.choose(&shims(&node)) {
                    node.machine().sh(&format!("kill -9 {shim} || true"));
                    *done.entry("shims killed").or_default() += 1;
                }
            }
            8 => {
                let containers = pids(&node, "[t]rap .exit 0. TERM");
                if let Some(container) = dice.choose(&containers) {
                    node.machine().sh(&format!("kill -9 {container} || true"));
                    *done.entry("containers killed").or_default() += 1;
                }
            }
            _ => {
                node.crash();
                *done.entry("kijabi killed").or_default() += 1;
                // Half of the time in the middle of its start.
                node.spawn();
                if dice.below(2) == 0 {
                    node.wait_ready();
                }
            }
        }
        std::thread::sleep(Duration::from_millis(dice.below(300) as u64));
    }
    for mut exec in execs {
        // It may hang on a kijabi that is gone; what it left on the node is what is looked at.
        let _ = exec.kill();
        exec.wait().unwrap();
    }
    node.wait_ready();
    settle_and_remove(&node);
    println!("seed {seed}, {} s: {done:?}", length.as_secs());
    println!("before: {before:?}");
    let mut after = census(&node);
    let end = Instant::now() + Duration::from_secs(60);
    while after != before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        after = census(&node);
    }
    println!("after:  {after:?}");
    if after != before {
        println!("{:#?}", machine.traces());
    }
    assert_eq!(after, before, "something of the pods is left");
}

/// Waits until no pod is stuck on its way, then removes all and waits until they are gone.
fn settle_and_remove(node: &TestNode) {
    let mut unsettled = Vec::new();
    wait_within(PATIENCE, "every pod settles", || {
        let pods = node.pods("default", "app=churn");
        unsettled = pods
            .iter()
            .filter(|pod| !is_settled(pod))
            .map(|pod| format!("{}: {}", name(pod), pod["status"]))
            .collect();
        unsettled.is_empty().then_some(())
    });
    for pod in node.pods("default", "app=churn") {
        node.request("DELETE", &format!("{PODS}/{}", name(&pod)), "");
    }
    wait_within(PATIENCE, "every pod is gone", || {
        node.pods("default", "app=churn").is_empty().then_some(())
    });
}
