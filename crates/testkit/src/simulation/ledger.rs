//! Follows every revision of the store: keeps the world, asks the promises, and sums up what happened in one number.
//!
//! The number is a hash over every event's revision, key and value in the order they were committed. Two runs of one
//! seed that differ in anything that was ever stored, a timestamp or a generated name included, differ in it.

use super::promises::{self, Promise};
use super::window::STALE;
use super::world::{Change, World};
use crate::faults::Faults;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use store::{Event, EventKind};
use tokio::time::Instant;

/// How much of what happened last is told of a seed that fails.
const TAIL: usize = 40;

pub(super) struct Ledger {
    pub(super) world: World,
    promises: Vec<Box<dyn Promise>>,
    pub(super) broken: Vec<String>,
    pub(super) tail: VecDeque<String>,
    hash: DefaultHasher,
    pub(super) events: u64,
    start: Instant,
    faults: Faults,
    trace: Option<std::io::BufWriter<std::fs::File>>,
}

impl Ledger {
    pub(super) fn new(faults: Faults, trace: Option<&std::path::Path>) -> Self {
        let open = |path| std::fs::File::create(path).expect("the trace can be written");
        Self {
            world: World::default(),
            promises: promises::all(),
            broken: Vec::new(),
            tail: VecDeque::new(),
            // Its keys are fixed, unlike those of hash maps.
            hash: DefaultHasher::new(),
            events: 0,
            start: Instant::now(),
            faults,
            trace: trace.map(|path| std::io::BufWriter::new(open(path))),
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// One event of the store, in the order of its revisions.
    pub(super) fn see(&mut self, event: &Event) {
        let at = self.start.elapsed();
        self.events += 1;
        let kv = &event.kv;
        self.hash.write_i64(kv.mod_revision);
        self.hash.write(&kv.key);
        self.hash.write(&kv.value);
        let key = std::str::from_utf8(&kv.key).expect("keys are text");
        if let Some(trace) = &mut self.trace {
            let mut value = DefaultHasher::new();
            value.write(&kv.value);
            let line = writeln!(trace, "{} {at:?} {key} {:016x}", kv.mod_revision, value.finish());
            line.expect("the trace can be written");
        }
        let Some(resource) = World::resource_of(key) else {
            return;
        };
        let gone = event.kind == EventKind::Delete;
        let new = (!gone).then(|| Arc::new(World::decode(&kv.value)));
        let old = self.world.replace(resource, key, new.clone());
        let verb = match (&old, &new) {
            (None, _) => "made",
            (_, None) => "gone",
            _ => "changed",
        };
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(format!(
            "{:>9.3} s  revision {}: {verb} {key}",
            at.as_secs_f64(),
            kv.mod_revision
        ));
        let since = Instant::now().checked_sub(STALE).unwrap_or(self.start);
        let change = Change {
            at,
            resource,
            old: old.as_deref(),
            new: new.as_deref(),
            untold: i64::try_from(self.faults.lost_since(since)).unwrap_or(i64::MAX),
        };
        for promise in &mut self.promises {
            if let Some(how) = promise.judge(&change, &self.world) {
                self.broken.push(told(at, kv.mod_revision, &how));
            }
        }
    }
}

fn told(at: Duration, revision: i64, how: &str) -> String {
    format!("{:.3} s, revision {revision}: {how}", at.as_secs_f64())
}
