//! Measures the embedded store: one JSON line per scenario.
//!
//! `cargo run --release -p store --example bench -- [directory]`; the directory is made and removed.

use bytes::Bytes;
use futures::StreamExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use store::embedded::Options;
use store::{Embedded, KeyRange, RangeRequest, Store, Txn, WatchRequest};

const VALUE: usize = 1024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let (Some(what), Some(dir)) = (std::env::args().nth(1), std::env::args().nth(2)) {
        let dir = Path::new(&dir);
        return if what == "die" {
            die(dir).await
        } else {
            start(dir).await
        };
    }
    let dir = std::env::args()
        .nth(1)
        .map_or_else(|| PathBuf::from("store-bench.tmp"), PathBuf::from);
    anyhow::ensure!(!dir.exists(), "{} exists", dir.display());
    let result = scenarios(&dir).await;
    std::fs::remove_dir_all(&dir)?;
    result
}

async fn scenarios(dir: &Path) -> anyhow::Result<()> {
    let begin = Instant::now();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir, Options::default()).await?);
    println!(
        r#"{{"scenario":"first start","ms":{:.2},"rss_kib":{}}}"#,
        ms(begin),
        rss()
    );
    // As many watches as an API server holds, each on a resource of its own, and one on what is written.
    let mut watches = Vec::new();
    for number in 0..80 {
        let range = KeyRange::prefix(format!("/registry/resource-{number:02}/"));
        watches.push(store.watch(WatchRequest::new(range, 0)).await?);
    }
    let mut pods = store
        .watch(WatchRequest::new(KeyRange::prefix("/registry/pods/"), 0))
        .await?;
    let told = Arc::new(AtomicUsize::new(0));
    let counter = told.clone();
    let reader = tokio::spawn(async move {
        while let Some(Ok(batch)) = pods.next().await {
            counter.fetch_add(batch.events.len(), Ordering::Relaxed);
        }
    });
    for (in_flight, count) in [(1, 5_000), (8, 40_000), (32, 100_000), (256, 100_000)] {
        println!("{}", creates(&store, in_flight, count, Duration::ZERO).await?);
    }
    // As an API server with its client on the same machine asks: 32 in flight, most of them elsewhere.
    println!("{}", creates(&store, 32, 50_000, Duration::from_millis(4)).await?);
    println!(
        r#"{{"scenario":"update of one key","in_flight":1,{}}}"#,
        updates(&store).await?
    );
    gets(&store).await?;
    ranges(&store).await?;
    compaction(&store).await?;
    drop(watches);
    let status = store.status().await?;
    println!(
        r#"{{"scenario":"size","keys":{},"file_mib":{},"in_use_mib":{},"rss_kib":{},"events_told":{}}}"#,
        status.keys,
        status.size >> 20,
        status.size_in_use >> 20,
        rss(),
        told.load(Ordering::Relaxed)
    );
    let begin = Instant::now();
    store.close().await?;
    reader.abort();
    println!(r#"{{"scenario":"close","ms":{:.2}}}"#, ms(begin));
    drop(store);
    // In processes of their own, for what memory they need.
    let small = dir.join("small");
    Embedded::open(&small, Options::default()).await?.close().await?;
    for dir in [dir, &small] {
        let status = std::process::Command::new(std::env::current_exe()?)
            .arg("start")
            .arg(dir)
            .status()?;
        anyhow::ensure!(status.success(), "the process that starts a store failed");
    }
    let store = Embedded::open(dir, Options::default()).await?;
    // A process that dies in the middle.
    store.close().await?;
    drop(store);
    let status = std::process::Command::new(std::env::current_exe()?)
        .arg("die")
        .arg(dir)
        .status()?;
    anyhow::ensure!(!status.success(), "it was to die");
    let begin = Instant::now();
    let store = Embedded::open(dir, Options::default()).await?;
    println!(r#"{{"scenario":"start after a crash","ms":{:.2}}}"#, ms(begin));
    Ok(store.close().await?)
}

/// Leaves a log for the next start to read.
async fn die(dir: &Path) -> anyhow::Result<()> {
    let store = Embedded::open(dir, Options::default()).await?;
    for number in 0..1500 {
        store
            .txn(Txn::put(format!("/registry/last/{number}"), vec![7; VALUE]))
            .await?;
    }
    std::process::abort()
}

async fn start(dir: &Path) -> anyhow::Result<()> {
    let begin = Instant::now();
    let store = Embedded::open(dir, Options::default()).await?;
    let status = store.status().await?;
    println!(
        r#"{{"scenario":"start","keys":{},"revision":{},"ms":{:.2},"rss_kib":{}}}"#,
        status.keys,
        status.revision,
        ms(begin),
        rss()
    );
    if status.keys == 0 {
        idle().await;
    }
    Ok(store.close().await?)
}

async fn creates(
    store: &Arc<dyn Store>,
    in_flight: usize,
    count: usize,
    pause: Duration,
) -> anyhow::Result<String> {
    let (cpu, written, calls, begin) = (cpu(), written(), calls(), Instant::now());
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (store, next) = (store.clone(), next.clone());
        tasks.spawn(async move {
            let mut took = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, store::Error>(took);
                }
                // Names as random as those of pods.
                let name = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let kind = if pause.is_zero() { "pod" } else { "paced" };
                let key = format!("/registry/pods/default/{kind}-{in_flight}-{name:016x}");
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let begin = Instant::now();
                assert!(
                    store
                        .txn(Txn::create(key, Bytes::from(vec![7; VALUE]), 0))
                        .await?
                        .succeeded
                );
                took.push(begin.elapsed());
            }
        });
    }
    let mut took = Vec::new();
    while let Some(part) = tasks.join_next().await {
        took.extend(part??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    took.sort_unstable();
    let us = |share: usize| took[took.len() * share / 1000].as_micros();
    Ok(format!(
        r#"{{"scenario":"create 1 KiB","in_flight":{in_flight},"pause_ms":{},"per_second":{:.0},"p50_us":{},"p99_us":{},"max_us":{},"cpu_us_per_write":{:.1},"bytes_written_per_write":{},"write_calls_per_write":{:.2}}}"#,
        pause.as_millis(),
        count as f64 / seconds,
        us(500),
        us(990),
        took[took.len() - 1].as_micros(),
        (self::cpu() - cpu) * 1e6 / count as f64,
        (self::written() - written) / count as u64,
        (self::calls() - calls) as f64 / count as f64,
    ))
}

async fn updates(store: &Arc<dyn Store>) -> anyhow::Result<String> {
    const COUNT: usize = 2_000;
    let begin = Instant::now();
    let cpu = cpu();
    let mut revision = 0;
    for _ in 0..COUNT {
        let txn = Txn::update("/registry/leases/kube-node-lease/a", revision, vec![7; 300], 0);
        revision = store.txn(txn).await?.revision;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpu_us = (self::cpu() - cpu) * 1e6 / COUNT as f64;
    Ok(format!(
        r#""per_second":{:.0},"cpu_us_per_write":{cpu_us:.1}"#,
        COUNT as f64 / seconds
    ))
}

async fn gets(store: &Arc<dyn Store>) -> anyhow::Result<()> {
    const COUNT: usize = 50_000;
    let (begin, cpu) = (Instant::now(), cpu());
    for number in 0..COUNT {
        let name = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let found = store
            .get(format!("/registry/pods/default/pod-32-{name:016x}").as_bytes())
            .await?;
        anyhow::ensure!(found.kv.is_some(), "a key is missing");
    }
    println!(
        r#"{{"scenario":"get","per_second":{:.0},"cpu_us":{:.1}}}"#,
        COUNT as f64 / begin.elapsed().as_secs_f64(),
        (self::cpu() - cpu) * 1e6 / COUNT as f64
    );
    Ok(())
}

async fn ranges(store: &Arc<dyn Store>) -> anyhow::Result<()> {
    let range = KeyRange::prefix("/registry/pods/default/pod-32-");
    let revision = store.current_revision().await?;
    let one = |request: RangeRequest| {
        let store = store.clone();
        async move {
            let begin = Instant::now();
            let found = store.range(request).await?;
            Ok::<_, store::Error>((found.kvs.len(), ms(begin)))
        }
    };
    for (name, request) in [
        ("range of everything", RangeRequest::new(range.clone())),
        ("page of 500", RangeRequest::new(range.clone()).limit(500)),
        (
            "range in the past",
            RangeRequest::new(range.clone()).at(revision - 1000),
        ),
        ("count", RangeRequest::new(range).select(store::Select::CountOnly)),
    ] {
        let (found, ms) = one(request).await?;
        println!(r#"{{"scenario":"{name}","keys":{found},"ms":{ms:.2}}}"#);
    }
    Ok(())
}

/// Writes over old keys and compacts, again and again: the file must not grow with it.
async fn compaction(store: &Arc<dyn Store>) -> anyhow::Result<()> {
    for round in 0..4 {
        let begin = Instant::now();
        let mut worst = Duration::ZERO;
        let before = store.current_revision().await?;
        for number in 0..200 {
            let writes = (0..100).map(|place| {
                store.txn(Txn::put(
                    format!("/registry/churn/{}", (number * 100 + place) % 5000),
                    vec![7; VALUE],
                ))
            });
            let begin = Instant::now();
            futures::future::try_join_all(writes).await?;
            worst = worst.max(begin.elapsed());
        }
        store.compact(before + 20_000).await?;
        println!(
            r#"{{"scenario":"20,000 updates and a compaction","round":{round},"ms":{:.0},"worst_100_ms":{:.1},"file_mib":{}}}"#,
            ms(begin),
            worst.as_secs_f64() * 1e3,
            store.status().await?.size >> 20
        );
    }
    Ok(())
}

async fn idle() {
    let (cpu, switches) = (cpu(), switches());
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        r#"{{"scenario":"idle for 3 s","cpu_ms":{:.1},"wake_ups":{},"rss_kib":{}}}"#,
        (self::cpu() - cpu) * 1e3,
        self::switches() - switches,
        rss()
    );
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

/// A number of a file in /proc, 0 where there is none.
fn number(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn rss() -> u64 {
    number("/proc/self/status", "VmRSS:")
}

fn written() -> u64 {
    number("/proc/self/io", "wchar:")
}

fn switches() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    tasks
        .flatten()
        .map(|task| {
            number(
                &task.path().join("status").to_string_lossy(),
                "voluntary_ctxt_switches:",
            )
        })
        .sum()
}

/// Write calls so far.
fn calls() -> u64 {
    number("/proc/self/io", "syscw:")
}

/// Seconds of processor time of this process.
fn cpu() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}
