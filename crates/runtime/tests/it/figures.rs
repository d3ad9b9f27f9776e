//! What things cost, for `docs/benchmarks.md`: `cargo test --release -p runtime --test it -- figures`.

use std::time::{Duration, Instant};

use cri::v1::*;

use crate::place::{Pod, with_runtime};

const ROUNDS: u32 = 20;

pub(crate) fn print() {
    with_runtime(|place, clients| async move {
        let (mut run, mut create, mut start, mut exec, mut stop) = (vec![], vec![], vec![], vec![], vec![]);
        let mut memory = Vec::new();
        for round in 0..ROUNDS {
            let clock = Instant::now();
            let pod = Pod::run(&place, &clients, |c| c.metadata.as_mut().unwrap().attempt = round).await;
            run.push(clock.elapsed());
            let clock = Instant::now();
            let id = pod.create("one", "exec sleep 1000", |_| ()).await;
            create.push(clock.elapsed());
            let clock = Instant::now();
            pod.start(&id).await.unwrap();
            start.push(clock.elapsed());
            let clock = Instant::now();
            let request = ExecSyncRequest {
                container_id: id.clone(),
                cmd: vec!["true".into()],
                timeout: 5,
            };
            clients.runtime.clone().exec_sync(request).await.unwrap();
            exec.push(clock.elapsed());
            memory.push(shim_memory(&clients, &pod).await);
            let clock = Instant::now();
            pod.remove().await;
            stop.push(clock.elapsed());
        }
        for (what, mut times) in [
            ("run pod", run),
            ("create container", create),
            ("start container", start),
            ("exec true", exec),
            ("remove pod", stop),
        ] {
            times.sort_unstable();
            println!(
                "{what:18} p50 {:>6.1?}  p95 {:>6.1?}",
                median(&times),
                times[times.len() * 95 / 100]
            );
        }
        memory.sort_unstable();
        println!(
            "shim               private {} KiB, shared {} KiB",
            memory[memory.len() / 2].0,
            memory[0].1
        );
    });
}

fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}

/// Private and shared memory of the pod's shim, in KiB.
async fn shim_memory(clients: &cri::Clients, pod: &Pod) -> (u64, u64) {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    let info = clients
        .runtime
        .clone()
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner()
        .info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", info["pid"])).unwrap();
    let sum = |kind: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(kind));
        lines
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    };
    (sum("Private_"), sum("Shared_"))
}
