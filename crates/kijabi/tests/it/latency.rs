//! How long pods, execs and exits take, and what they weigh, as figures that are printed.
//!
//! What the machine and the build decide is never asserted, so that a slow machine fails nothing: a test fails here only
//! when something does not happen at all, or leaves another number of shims than pods.
//!
//! Runs only when `KIJABI_LATENCY_PODS` says how many pods one after another; then as many times four at once (a node
//! takes 110 in all, so 20 is about the most):
//!
//! ```text
//! KIJABI_TEST_BINARY=target/*/release/kijabi KIJABI_LATENCY_PODS=20 \
//!     cargo test -p kijabi --test it latency -- --nocapture
//! ```

use crate::harness::{PATIENCE, TestNode, skipped, wait_for};
use crate::images::Image;
use crate::payload;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, PostParams, WatchEvent, WatchParams};
use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

fn pod(name: &str) -> Pod {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": payload::TOOLS, "imagePullPolicy": "Never",
            "command": ["sh", "-c", "sleep 100000 & wait", name],
        }]},
    });
    serde_json::from_value(pod).unwrap()
}

fn is_running(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses.and_then(|list| list.first()).map_or(0, |one| {
        let ended = one.state.as_ref().is_some_and(|state| state.terminated.is_some());
        one.restart_count + i32::from(ended)
    })
}

/// Starts `work`, and gives when each of the named pods was first seen as `wanted`.
async fn seen(
    api: &Api<Pod>,
    names: &[String],
    wanted: fn(&Pod) -> bool,
    work: impl AsyncFnOnce(),
) -> BTreeMap<String, Instant> {
    let from = api.list(&Default::default()).await.unwrap().metadata;
    let from = from.resource_version.unwrap();
    let mut changes = Box::pin(api.watch(&WatchParams::default(), &from).await.unwrap());
    let mut times = BTreeMap::new();
    let watch = async {
        while times.len() < names.len() {
            let event = changes.next().await.expect("the watch goes on").unwrap();
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
                && wanted(&pod)
                && let Some(name) = pod.metadata.name.filter(|name| names.contains(name))
            {
                times.entry(name).or_insert_with(Instant::now);
            }
        }
    };
    tokio::time::timeout(PATIENCE * 3, async { tokio::join!(watch, work()) })
        .await
        .expect("every pod comes to it");
    times
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    println!(
        "{what}: p50 {:.1} ms, p99 {:.1} ms, {} times",
        at(0.5).as_secs_f64() * 1e3,
        at(0.99).as_secs_f64() * 1e3,
        times.len()
    );
}

/// Processes that do what `is` says of their directory in `/proc`.
fn processes(is: impl Fn(&Path) -> bool) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw)
            && is(&entry.path())
        {
            found.push(pid);
        }
    }
    found
}

fn has_words(process: &Path, words: &[&str]) -> bool {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let all: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.iter().all(|word| all.contains(&word.as_bytes()))
}

/// KiB that the process shares with nobody.
fn private(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero())).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[test]
fn latency_and_weight_of_pods() {
    let Ok(count) = std::env::var("KIJABI_LATENCY_PODS") else {
        skipped("KIJABI_LATENCY_PODS does not say how many");
        return;
    };
    let count: usize = count.parse().expect("a number");
    let Some(tools) = payload::tools() else { return };
    let Some(node) = TestNode::start() else { return };
    import_speed(&node, count);
    node.import(&tools);
    node.machine().block_on(async || {
        let api: Api<Pod> = Api::default_namespaced(node.client().await);
        one_after_another(&api, count).await;
        exits(&api, count).await;
        execs(&api, count).await;
        at_once(&api, count * 4).await;
    });
    let data = node.data().to_owned();
    let shims = processes(|process| {
        has_words(process, &["shim", "pod"])
            && std::fs::read_link(process.join("cwd")).is_ok_and(|dir| dir.starts_with(&data))
    });
    assert_eq!(shims.len(), count * 5);
    let most = shims.iter().map(|shim| private(*shim)).max().unwrap();
    println!("{} shims: at most {most} KiB private memory each", shims.len());
    let kijabi = processes(|process| {
        has_words(process, &["up", data.to_str().unwrap()])
            && std::fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm.starts_with("kijabi"))
    });
    for pid in kijabi {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let lines: Vec<&str> = status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"))
            .collect();
        println!(
            "kijabi with {} pods: {}",
            shims.len(),
            lines.join(", ").replace('\t', " ")
        );
    }
}

async fn one_after_another(api: &Api<Pod>, count: usize) {
    let mut times = Vec::new();
    for at in 0..count {
        let name = format!("single-{at}");
        let mut start = Instant::now();
        let seen = seen(api, std::slice::from_ref(&name), is_running, async || {
            start = Instant::now();
            api.create(&PostParams::default(), &pod(&name)).await.unwrap();
        })
        .await;
        times.push(seen[&name] - start);
    }
    tell("pod created to Running", times);
}

async fn exits(api: &Api<Pod>, count: usize) {
    let mut times = Vec::new();
    for at in 0..count {
        let name = format!("single-{at}");
        let mut start = Instant::now();
        let ended: fn(&Pod) -> bool = |pod| restarts(pod) > 0;
        let seen = seen(api, std::slice::from_ref(&name), ended, async || {
            let container = processes(|process| has_words(process, &["sh", &name]));
            start = Instant::now();
            kill_process(container[0], Signal::KILL).unwrap();
        })
        .await;
        times.push(seen[&name] - start);
    }
    tell("container's exit to the pod's status", times);
}

async fn execs(api: &Api<Pod>, count: usize) {
    let name = format!("single-{}", count - 1);
    let restarted = || async {
        let pod = api.get(&name).await.unwrap();
        is_running(&pod) && pod.status.unwrap().container_statuses.unwrap()[0].ready
    };
    let end = Instant::now() + PATIENCE;
    while !restarted().await {
        assert!(Instant::now() < end, "{name} runs again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut times = Vec::new();
    for _ in 0..count * 2 {
        let start = Instant::now();
        let mut process = api.exec(&name, ["true"], &AttachParams::default()).await.unwrap();
        let status = process.take_status().unwrap().await.unwrap();
        assert_eq!(status.status.as_deref(), Some("Success"), "{status:?}");
        times.push(start.elapsed());
        process.join().await.unwrap();
    }
    tell("exec true", times);
}

async fn at_once(api: &Api<Pod>, count: usize) {
    let names: Vec<String> = (0..count).map(|at| format!("burst-{at}")).collect();
    let start = Instant::now();
    let seen = seen(api, &names, is_running, async || {
        let parameters = PostParams::default();
        let all = names
            .iter()
            .map(|name| async { api.create(&parameters, &pod(name)).await.map(drop) });
        futures::future::try_join_all(all).await.unwrap();
    })
    .await;
    let last = seen.values().max().unwrap();
    println!(
        "{count} pods at once: all Running after {:.2} s",
        (*last - start).as_secs_f64()
    );
}

fn import_speed(node: &TestNode, count: usize) {
    let mut ballast = vec![0_u8; (count * 8) << 20];
    rand::rng().fill(&mut ballast[..]);
    let mut image = Image::new("kijabi.test/ballast:1", &[]);
    // As many files as a system image of this size has.
    for (at, part) in ballast.chunks(64 << 10).enumerate() {
        image = image.file(&format!("data/{at}"), 0o644, part);
    }
    let archive = node.home().join("ballast.tar");
    image.write(&archive);
    let start = Instant::now();
    let out = node.kijabi(&["image", "import"]).arg(&archive).output().unwrap();
    let took = start.elapsed();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let megabytes = std::fs::metadata(&archive).unwrap().len() as f64 / 1e6;
    std::fs::remove_file(&archive).unwrap();
    println!(
        "image import: {:.0} MB/s ({megabytes:.0} MB)",
        megabytes / took.as_secs_f64()
    );
    wait_for("the ballast goes again", || {
        let removed = node
            .kijabi(&["image", "remove", "kijabi.test/ballast:1"])
            .output()
            .unwrap();
        removed.status.success().then_some(())
    });
}
