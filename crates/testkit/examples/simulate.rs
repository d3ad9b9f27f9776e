//! Simulated hours of a cluster under faults, one for each seed.
//!
//! `KIJABI_SEEDS=1..1001 cargo run --release -p testkit --example simulate -- [threads] [nodes] [seconds] [trace file]`
//!
//! Every seed is one line: its hash, what happened, and how long it took. A seed that is not sound says what went wrong,
//! and the program fails in the end. With one seed and a trace file every change of the store is written to it: the
//! difference of two such files is where two runs part.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testkit::simulation::{Plan, run};

fn main() -> ExitCode {
    let seeds = std::env::var("KIJABI_SEEDS").unwrap_or_else(|_| "1..11".to_owned());
    let bounds = seeds.split_once("..").expect("KIJABI_SEEDS is <from>..<to>");
    let number = |text: &str| text.parse::<u64>().expect("KIJABI_SEEDS is <from>..<to>");
    let (from, to) = (number(bounds.0), number(bounds.1));
    let mut arguments = std::env::args().skip(1);
    let threads = arguments
        .next()
        .map_or(2, |n| n.parse().expect("a number of threads"));
    let usual = Plan::default();
    let plan = Plan {
        nodes: arguments
            .next()
            .map_or(usual.nodes, |n| n.parse().expect("a number of nodes")),
        trouble: arguments.next().map_or(usual.trouble, |s| {
            Duration::from_secs(s.parse().expect("a number of seconds"))
        }),
        trace: arguments.next().map(PathBuf::from),
        ..usual
    };
    let (next, unsound) = (AtomicU64::new(from), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let began = Instant::now();
                    let outcome = run(seed, &plan);
                    println!(
                        "seed {seed}: {:016x}, {} changes, {} faults, settled after {:?}, took {:.2?}",
                        outcome.hash,
                        outcome.events,
                        outcome.faults,
                        outcome.settled.unwrap_or_default(),
                        began.elapsed()
                    );
                    if !outcome.is_sound() {
                        unsound.fetch_add(1, Ordering::Relaxed);
                        println!("seed {seed} IS NOT SOUND:");
                        outcome.wrong.iter().for_each(|wrong| println!("  {wrong}"));
                        println!("  the last changes:");
                        outcome.tail.iter().for_each(|line| println!("    {line}"));
                    }
                }
            });
        }
    });
    let unsound = unsound.into_inner();
    println!(
        "{} seeds in {:.1?}, {unsound} not sound",
        to - from,
        start.elapsed()
    );
    if unsound == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
