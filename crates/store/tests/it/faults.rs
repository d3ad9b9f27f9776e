//! The embedded engine on a disk that fails at every operation in turn, fills up, or lies.

use crate::sim::{Fault, SimDisk};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::embedded::{Disk, Options};
use store::suite::model::Dice;
use store::{Embedded, Error, EventKind, KeyRange, Op, RangeRequest, Store, Txn, WatchRequest};

type State = BTreeMap<Bytes, Bytes>;

fn options() -> Options {
    Options {
        cache_bytes: 1 << 20,
        recent_bytes: 8 << 10,
        log_bytes: 24 << 10,
        ..Options::default()
    }
}

async fn open(disk: &Arc<SimDisk>) -> Result<Embedded, Error> {
    Embedded::on_disk(disk.clone() as Arc<dyn Disk>, options()).await
}

/// A workload that changes two keys with every transaction, deletes and compacts, and remembers what was
/// acknowledged.
#[derive(Debug, Default, Clone)]
struct Ledger {
    /// The state at every acknowledged revision.
    states: BTreeMap<i64, State>,
    /// What the transaction that got no clear answer would have made of it.
    in_doubt: Option<State>,
    compacted: i64,
}

impl Ledger {
    fn newest(&self) -> (i64, State) {
        self.states
            .last_key_value()
            .map_or((1, State::new()), |(revision, state)| (*revision, state.clone()))
    }

    /// Runs steps until one fails.
    async fn work(&mut self, store: &Embedded, steps: usize, dice: &mut Dice) -> Result<(), Error> {
        for step in 0..steps {
            let (revision, mut state) = self.newest();
            if dice.roll(8) == 0 && revision > self.compacted + 2 {
                let to =
                    self.compacted.max(1) + 1 + dice.roll((revision - self.compacted) as usize - 1) as i64;
                let to = to.min(revision);
                store.compact(to).await?;
                self.compacted = to;
                continue;
            }
            let name = Bytes::from(format!("/key/{}", dice.roll(12)));
            let twin = Bytes::from(format!("/twin{name:?}"));
            let ops = if dice.roll(4) == 0 && state.contains_key(&name) {
                state.remove(&name);
                state.remove(&twin);
                [name, twin].map(|key| Op::Delete(KeyRange::key(key))).to_vec()
            } else {
                let value = Bytes::from(format!("{step}-").repeat(1 + dice.roll(800)));
                state.insert(name.clone(), value.clone());
                state.insert(twin.clone(), value.clone());
                [name, twin]
                    .map(|key| Op::Put {
                        key,
                        value: value.clone(),
                        lease: 0,
                    })
                    .to_vec()
            };
            self.in_doubt = Some(state.clone());
            let response = store
                .txn(Txn {
                    then: ops,
                    ..Txn::default()
                })
                .await?;
            assert_eq!(response.revision, revision + 1, "revisions without gaps");
            self.states.insert(response.revision, state);
            self.in_doubt = None;
        }
        Ok(())
    }

    /// What is found must be what was acknowledged, and of the transaction in doubt all or nothing.
    async fn verify(&mut self, store: &Embedded, at: &str) {
        let found = read(store, 0).await;
        let revision = store.current_revision().await.expect("revision");
        let (newest, state) = self.newest();
        if revision == newest + 1 && self.in_doubt.as_ref() == Some(&found) {
            self.states.insert(revision, found);
        } else {
            assert_eq!((revision, &found), (newest, &state), "{at}");
        }
        self.in_doubt = None;
        let compacted = store.status().await.expect("status").compact_revision;
        assert!(compacted >= self.compacted, "{at}: compaction is forgotten");
        self.compacted = compacted;
        // The past is still there, and replaying it gives the present.
        for (revision, state) in self.states.range(compacted.max(1)..) {
            assert_eq!(
                &read(store, *revision).await,
                state,
                "{at}: at revision {revision}"
            );
        }
        let (from, mut replayed) = match self.states.range(compacted.max(1)..).next() {
            Some((revision, state)) => (*revision, state.clone()),
            None => return,
        };
        let request = WatchRequest::new(KeyRange::all(), from + 1).progress();
        let mut watch = store.watch(request).await.expect("watch");
        loop {
            let batch = watch.next().await.expect("the watch goes on").expect("no error");
            for event in batch.events {
                match event.kind {
                    EventKind::Put => drop(replayed.insert(event.kv.key, event.kv.value)),
                    EventKind::Delete => drop(replayed.remove(&event.kv.key)),
                }
            }
            if batch.revision >= revision {
                break;
            }
        }
        assert_eq!(replayed, self.newest().1, "{at}: replayed");
    }
}

async fn read(store: &Embedded, revision: i64) -> State {
    let request = RangeRequest::new(KeyRange::all()).at(revision);
    let kvs = store.range(request).await.expect("range").kvs;
    kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

/// Opens a store, works until the fault, and checks what a restart finds, and that it can go on.
async fn crash_at(operation: usize, fault: Fault, seed: u64) -> bool {
    let at = format!("{fault:?} at operation {operation}, seed {seed}");
    let mut dice = Dice::new(seed);
    let disk = SimDisk::new();
    disk.fail_at(operation, fault);
    let mut ledger = Ledger::default();
    let mut hit = false;
    if let Ok(store) = open(&disk).await {
        hit |= ledger.work(&store, 40, &mut dice).await.is_err();
        if !hit {
            hit |= store.close().await.is_err() || disk.is_broken();
        }
    } else {
        hit = true;
    }
    let left = if fault == Fault::Power {
        disk.after_power_loss(&mut dice)
    } else {
        disk.after_kill()
    };
    let store = open(&left)
        .await
        .unwrap_or_else(|error| panic!("{at}: {error:?}"));
    ledger.verify(&store, &at).await;
    ledger
        .work(&store, 10, &mut dice)
        .await
        .unwrap_or_else(|error| panic!("{at}: {error:?}"));
    ledger.verify(&store, &at).await;
    hit
}

async fn crash_everywhere(fault: Fault) {
    let stride = if std::env::var_os("STORE_CRASH_ALL").is_some() {
        1
    } else {
        7
    };
    let mut operation = 0;
    let mut runs = 0;
    // Until a run ends before the fault.
    while crash_at(operation, fault, operation as u64).await {
        operation += stride;
        runs += 1;
    }
    println!("store faults: {fault:?} at {runs} of {operation} operations");
    assert!(runs > 20, "only {runs} runs met the fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_at_every_write() {
    crash_everywhere(Fault::Power).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_at_every_write() {
    crash_everywhere(Fault::Fail).await;
    crash_everywhere(Fault::Short).await;
}

/// The disk fails and comes back: without a restart nothing is lost and work goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_comes_back() {
    for (seed, fault) in [Fault::Fail, Fault::Short]
        .into_iter()
        .cycle()
        .take(20)
        .enumerate()
    {
        let mut dice = Dice::new(seed as u64);
        let disk = SimDisk::new();
        let store = open(&disk).await.expect("open");
        let mut ledger = Ledger::default();
        let mut watch = store
            .watch(WatchRequest::new(KeyRange::all(), 0))
            .await
            .expect("watch");
        for round in 0..5 {
            disk.fail_at(disk.operations() + 1 + dice.roll(60), fault);
            let at = format!("seed {seed}, round {round}");
            if let Err(error) = ledger.work(&store, 30, &mut dice).await {
                assert!(matches!(error, Error::Unavailable { .. }), "{at}: {error:?}");
                let refused = store.txn(Txn::put("/refused", "x")).await;
                assert!(refused.is_err(), "{at}: the disk is still broken");
            }
            disk.heal();
            // The first write after the disk has come back finds out what happened.
            let response = store
                .txn(Txn::always(Op::Delete(KeyRange::key("/nothing"))))
                .await;
            response.unwrap_or_else(|error| panic!("{at}: {error:?}"));
            ledger.verify(&store, &at).await;
        }
        let (revision, state) = ledger.newest();
        let mut told = State::new();
        let mut last = 1;
        while last < revision {
            for event in watch
                .next()
                .await
                .expect("the watch goes on")
                .expect("no error")
                .events
            {
                let this = event.kv.mod_revision;
                assert!(
                    this == last || this == last + 1,
                    "seed {seed}: {this} after {last}"
                );
                last = this;
                match event.kind {
                    EventKind::Put => drop(told.insert(event.kv.key, event.kv.value)),
                    EventKind::Delete => drop(told.remove(&event.kv.key)),
                }
            }
        }
        assert_eq!(told, state, "seed {seed}: what the watch was told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_recovers() {
    let disk = SimDisk::new();
    let store = open(&disk).await.expect("open");
    let mut watch = store
        .watch(WatchRequest::new(KeyRange::all(), 0))
        .await
        .expect("watch");
    store.txn(Txn::put("/first", "x")).await.expect("put");
    for round in 0..3 {
        disk.set_capacity(disk.used() + (300 << 10));
        let before = store.current_revision().await.expect("revision");
        let mut written = 0;
        let error = loop {
            let key = format!("/round/{round}/{written}");
            match store.txn(Txn::create(key, vec![b'x'; 20_000], 0)).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
        assert!(written > 0);
        // What the log gives back in the meantime may be used again.
        let mut later = 0;
        for _ in 0..20 {
            match store.txn(Txn::put("/refused", vec![b'x'; 20_000])).await {
                Ok(_) => later += 1,
                Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{error:?}"),
            }
        }
        let revision = store.current_revision().await.expect("revision");
        assert_eq!(revision, before + written + later, "nothing half done");
        assert!(store.get(b"/first").await.expect("reads go on").kv.is_some());
        let range = RangeRequest::new(KeyRange::prefix(format!("/round/{round}/")));
        assert_eq!(store.range(range).await.expect("reads go on").count, written);
        disk.set_capacity(usize::MAX);
        let response = store.txn(Txn::put("/first", "y")).await.expect("works again");
        assert_eq!(response.revision, revision + 1);
    }
    let newest = store.current_revision().await.expect("revision");
    let mut last = 1;
    while last < newest {
        for event in watch
            .next()
            .await
            .expect("the watch goes on")
            .expect("no error")
            .events
        {
            assert_eq!(event.kv.mod_revision, last + 1);
            last += 1;
        }
    }
    drop(store);
    let store = open(&disk.after_kill()).await.expect("open");
    assert_eq!(store.current_revision().await.expect("revision"), newest);
    assert!(store.get(b"/refused").await.expect("get").kv.is_none());
}

/// Whatever bit of the file flips, nothing wrong is ever served and nothing panics outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_noticed() {
    let disk = SimDisk::new();
    let mut ledger = Ledger::default();
    let store = open(&disk).await.expect("open");
    ledger.work(&store, 60, &mut Dice::new(1)).await.expect("work");
    store.close().await.expect("close");
    let (revision, state) = ledger.newest();
    let mut dice = Dice::new(2);
    let (mut refused, mut whole) = (0, 0);
    for _ in 0..150 {
        let damaged = disk.after_kill();
        let bytes = damaged.written("store.redb");
        damaged.flip("store.redb", bytes[dice.roll(bytes.len())], 1 << dice.roll(8));
        match open(&damaged).await {
            Err(Error::Corrupt { path, .. }) => {
                // Tables of which an older state is left whole no longer fit the log: then that is named.
                assert_eq!(path.parent(), damaged.path("store.redb").parent());
                refused += 1;
            }
            Err(error) => panic!("{error:?}"),
            Ok(store) => match store.range(RangeRequest::new(KeyRange::all())).await {
                Ok(response) => {
                    let found: State = response.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
                    assert_eq!(
                        (response.revision, &found),
                        (revision, &state),
                        "served what was not written"
                    );
                    whole += 1;
                }
                Err(Error::Corrupt { .. }) => refused += 1,
                Err(error) => panic!("{error:?}"),
            },
        }
    }
    println!("store faults: {refused} flips noticed, {whole} hit nothing in use");
    assert!(refused > 0 && whole > 0);
}

/// A log that was not saved when the process died, and then damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_noticed() {
    const WRITES: i64 = 12;
    let disk = SimDisk::new();
    let store = open(&disk).await.expect("open");
    for number in 0..WRITES {
        store
            .txn(Txn::put(format!("/{number}"), vec![b'x'; 300]))
            .await
            .expect("put");
    }
    let left = disk.after_kill();
    let (mut refused, mut torn, mut harmless) = (0, 0, 0);
    for byte in (0..8000).step_by(13) {
        let damaged = left.after_kill();
        damaged.flip("log.0", byte, 1 << (byte % 8));
        match open(&damaged).await {
            Err(Error::Corrupt { path, .. }) => {
                assert_eq!(path, damaged.path("log.0"));
                refused += 1;
            }
            Err(error) => panic!("byte {byte}: {error:?}"),
            Ok(store) => {
                let revision = store.current_revision().await.expect("revision");
                let count = store
                    .range(RangeRequest::new(KeyRange::all()))
                    .await
                    .expect("range")
                    .count;
                assert_eq!(count, revision - 1, "byte {byte}");
                // Damage to the newest frame looks as if it had been torn while it was written.
                match WRITES - count {
                    0 => harmless += 1,
                    1 => torn += 1,
                    lost => panic!("byte {byte}: {lost} lost without a word"),
                }
            }
        }
    }
    println!("store faults: {refused} noticed, {torn} in the newest frame, {harmless} in no frame");
    assert!(refused > torn && torn > 0 && harmless > 0);
}
