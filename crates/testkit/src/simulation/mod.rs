//! A simulated hour of a cluster under faults: whatever is declared becomes so once the faults stop, and on the way no
//! promise is broken at any revision of the store.
//!
//! ```text
//!   seed ──► chance (names, uids, jitter) ─┐
//!        ──► faults of requests ───────────┼─► one thread, paused clock ─► store ─► ledger: world, promises, hash
//!        ──► disturbances ─────────────────┘
//! ```
//!
//! **Invariant:** a seed determines everything that is ever stored: [`Outcome::hash`] is the same in every run, in this
//! process or another. Nothing on the path reads a real clock, draws real chance or walks a hash table.

mod disturbances;
mod facts;
mod ledger;
mod promises;
mod settled;
mod window;
mod workloads;
mod world;

use crate::hollow::Habits;
use crate::{Cluster, Faults, Options, Rates};
use disturbances::Disturbances;
use futures::StreamExt as _;
use ledger::Ledger;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{KeyRange, Memory, Store as _, WatchRequest};
use tokio::time::Instant;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: usize,
    /// How long things go wrong.
    pub trouble: Duration,
    /// How long everything may take to be as declared afterwards.
    pub patience: Duration,
    /// Where to write one line for every change of the store.
    pub trace: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 100,
            trouble: Duration::from_secs(3600),
            patience: Duration::from_secs(1800),
            trace: None,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Over everything that was stored, in order.
    pub hash: u64,
    /// Changes of the store.
    pub events: u64,
    pub faults: u64,
    /// How long it took until everything was as declared.
    pub settled: Option<Duration>,
    /// Broken promises, and what was never as declared.
    pub wrong: Vec<String>,
    /// What happened last.
    pub tail: Vec<String>,
}

impl Outcome {
    pub fn is_sound(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Simulates a seed, on this thread.
pub fn run(seed: u64, plan: &Plan) -> Outcome {
    let _chance = machinery::chance::seed_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(simulate(seed, plan))
}

async fn simulate(seed: u64, plan: &Plan) -> Outcome {
    let rates = Rates {
        requests: 40,
        death: 4_000,
    };
    let faults = Faults::new(seed, rates);
    let store = Arc::new(Memory::new());
    let ledger = Arc::new(Mutex::new(Ledger::new(faults.clone(), plan.trace.as_deref())));
    let watch = store
        .watch(WatchRequest::new(KeyRange::prefix("/registry/"), 1))
        .await;
    let mut watch = watch.expect("a watch on the store");
    let writes = Arc::clone(&ledger);
    tokio::spawn(async move {
        while let Some(Ok(batch)) = watch.next().await {
            let mut ledger = writes.lock();
            batch.events.iter().for_each(|event| ledger.see(event));
        }
    });
    let cluster = Cluster::start(Options {
        nodes: plan.nodes,
        store: Arc::clone(&store) as Arc<dyn store::Store>,
        faults: Some(faults.clone()),
        seed,
        habits: Habits {
            renew: Duration::from_secs(20),
            start: Duration::from_secs(3),
        },
        ..Options::default()
    })
    .await;
    workloads::create(&cluster).await;
    faults.start();
    let end = Instant::now() + plan.trouble;
    let mut disturbances = Disturbances::new(&cluster, SmallRng::seed_from_u64(seed), plan.nodes);
    while Instant::now() < end {
        let pause = disturbances.random.random_range(1_000..30_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        disturbances.next().await;
    }
    faults.stop();
    disturbances.heal();
    let settled = settle(&cluster, &ledger, &disturbances.nodes, plan.patience).await;
    let mut ledger = ledger.lock();
    let mut wrong = std::mem::take(&mut ledger.broken);
    wrong.extend(cluster.nodes.twins());
    if settled.is_none() {
        let missing = settled::missing(&ledger.world, &cluster, &disturbances.nodes);
        wrong.extend(
            missing
                .into_iter()
                .map(|what| format!("never as declared: {what}")),
        );
    }
    Outcome {
        seed,
        hash: ledger.hash(),
        events: ledger.events,
        faults: faults.count(),
        settled,
        wrong,
        tail: ledger.tail.drain(..).collect(),
    }
}

/// Waits until nothing is missing.
async fn settle(
    cluster: &Cluster,
    ledger: &Mutex<Ledger>,
    nodes: &[String],
    patience: Duration,
) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if settled::missing(&ledger.lock().world, cluster, nodes).is_empty() {
            return Some(start.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    None
}
