//! The whole control plane under faults, on virtual time, for a few seeds; `examples/simulate.rs` runs a thousand.
//!
//! `KIJABI_SEEDS=<from>..<to>` runs other seeds than those of every day.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::simulation::{Outcome, Plan, run};

/// Smaller than an hour of a hundred nodes: unoptimised code is slow.
fn plan() -> Plan {
    Plan {
        nodes: 8,
        trouble: Duration::from_secs(300),
        ..Plan::default()
    }
}

fn seeds() -> std::ops::Range<u64> {
    let named = std::env::var("KIJABI_SEEDS").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    named.unwrap_or(1..21)
}

fn check(outcome: &Outcome) {
    let (seed, tail) = (outcome.seed, outcome.tail.join("\n"));
    assert!(outcome.is_sound(), "seed {seed}: {:#?}\n{tail}", outcome.wrong);
    let happened = outcome.faults > 0 && outcome.events > 1_000;
    assert!(happened, "seed {seed}: nothing happened");
}

#[test]
fn what_is_asked_for_becomes_so_whatever_fails_on_the_way() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    // Each seed has a thread to itself; they share nothing.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seeds.contains(&seed)
                {
                    check(&run(seed, &plan()));
                }
            });
        }
    });
}

#[test]
fn a_seed_replays_to_the_same_event() {
    let first = run(7, &plan());
    let again = std::thread::spawn(|| run(7, &plan()))
        .join()
        .expect("a second run");
    assert_eq!((first.hash, first.events), (again.hash, again.events));
    assert_ne!(first.hash, run(8, &plan()).hash);
}
