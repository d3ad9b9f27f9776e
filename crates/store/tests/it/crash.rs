//! A child process writes as fast as it can and is killed with SIGKILL in the middle, again and again.
//!
//! `STORE_CRASH_ROUNDS=200 cargo test -p store killed` for the long form.

use futures::future::join_all;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::embedded::Options;
use store::suite::model::Dice;
use store::{Embedded, KeyRange, KeyValue, Op, RangeRequest, Store, Txn};

const CHILD_DIR: &str = "STORE_CRASH_CHILD";
const WRITERS: usize = 8;
/// Each writer keeps its newest keys only: every transaction puts one pair and deletes the oldest.
const WINDOW: usize = 5;

fn options() -> Options {
    Options {
        cache_bytes: 2 << 20,
        recent_bytes: 64 << 10,
        log_bytes: 128 << 10,
        ..Options::default()
    }
}

fn key(kind: &str, writer: usize, number: usize) -> String {
    format!("/{kind}/{writer}/{number:010}")
}

/// What one writer has in the store: number and revision.
async fn window(store: &Embedded, writer: usize) -> BTreeMap<usize, i64> {
    let list = async |kind: &str| {
        let range = KeyRange::prefix(format!("/{kind}/{writer}/"));
        store.range(RangeRequest::new(range)).await.expect("range").kvs
    };
    let of = |kvs: Vec<KeyValue>| -> BTreeMap<usize, (i64, bytes::Bytes)> {
        let number = |kv: &KeyValue| {
            std::str::from_utf8(&kv.key[kv.key.len() - 10..])
                .expect("digits")
                .parse()
        };
        kvs.into_iter()
            .map(|kv| (number(&kv).expect("a number"), (kv.mod_revision, kv.value)))
            .collect()
    };
    let (left, right) = (of(list("left").await), of(list("right").await));
    assert_eq!(left, right, "half a transaction of writer {writer}");
    left.into_iter()
        .map(|(number, (revision, _))| (number, revision))
        .collect()
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let store = Arc::new(Embedded::open(Path::new(&dir), options()).await.expect("open"));
    let say = |line: String| {
        // Whole lines, in one write each.
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .expect("the parent listens");
    };
    say("ready\n".to_owned());
    let writer = |writer: usize| {
        let store = store.clone();
        async move {
            let mut next = window(&store, writer)
                .await
                .last_key_value()
                .map_or(0, |(number, _)| number + 1);
            loop {
                let value = bytes::Bytes::from(format!("{next}-").repeat(1 + (next * 37) % 300));
                let mut then: Vec<Op> = ["left", "right"]
                    .map(|kind| Op::Put {
                        key: key(kind, writer, next).into(),
                        value: value.clone(),
                        lease: 0,
                    })
                    .into();
                if let Some(old) = next.checked_sub(WINDOW) {
                    then.extend(
                        ["left", "right"].map(|kind| Op::Delete(KeyRange::key(key(kind, writer, old)))),
                    );
                }
                let revision = store
                    .txn(Txn {
                        then,
                        ..Txn::default()
                    })
                    .await
                    .expect("txn")
                    .revision;
                say(format!("acknowledged {writer} {next} {revision}\n"));
                next += 1;
                if writer == 0 && next.is_multiple_of(50) {
                    store.compact(revision).await.expect("compact");
                }
            }
        }
    };
    join_all((0..WRITERS).map(writer)).await;
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args([
            "--exact",
            "crash::child_that_is_killed",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the child")
}

/// Lets a child work for a while, kills it, and tells what it said was acknowledged.
fn round(dir: &Path, lifetime: Duration) -> Vec<(usize, usize, i64)> {
    let mut child = start_child(dir);
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    loop {
        let line = lines
            .next()
            .expect("the child says when it is ready")
            .expect("text");
        if line.ends_with("ready") {
            break;
        }
    }
    let killer = std::thread::spawn(move || {
        // The moment of death is what varies, not something waited for.
        std::thread::sleep(lifetime);
        child.kill().expect("kill");
        child.wait().expect("wait");
    });
    // Until the pipe breaks; the last line may be torn.
    let acknowledged = lines
        .map_while(Result::ok)
        .filter_map(|line| {
            let mut words = line.strip_prefix("acknowledged ")?.split(' ');
            let mut number = || words.next()?.parse::<i64>().ok();
            Some((number()? as usize, number()? as usize, number()?))
        })
        .collect();
    killer.join().expect("the killer");
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_writes() {
    let rounds = std::env::var("STORE_CRASH_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut dice = Dice::new(rounds as u64);
    let mut total = 0;
    let mut newest = 1;
    for number in 0..rounds {
        let lifetime = Duration::from_millis(5 + dice.roll(120) as u64);
        let (path, begin) = (dir.path().to_owned(), std::time::Instant::now());
        let acknowledged = tokio::task::spawn_blocking(move || round(&path, lifetime))
            .await
            .expect("a round");
        let at = format!("round {number}, killed after {lifetime:?}");
        let store = Embedded::open(dir.path(), options())
            .await
            .unwrap_or_else(|error| panic!("{at}: {error:?}"));
        let mut of_writer: [BTreeMap<usize, i64>; WRITERS] = Default::default();
        for (writer, n, revision) in &acknowledged {
            assert!(*revision > newest, "{at}: revision {revision} was used before");
            assert!(of_writer[*writer].insert(*n, *revision).is_none());
        }
        for (writer, said) in of_writer.iter().enumerate() {
            let found = window(&store, writer).await;
            let Some((last, _)) = found.last_key_value() else {
                assert!(said.is_empty(), "{at}: writer {writer} has lost everything");
                continue;
            };
            let expected: Vec<usize> = (last.saturating_sub(WINDOW - 1)..=*last).collect();
            assert_eq!(
                found.keys().copied().collect::<Vec<_>>(),
                expected,
                "{at}: writer {writer}"
            );
            if let Some((last_said, _)) = said.last_key_value() {
                assert!(
                    last == last_said || *last == last_said + 1,
                    "{at}: {last_said} said, {last} found"
                );
            }
            for (n, revision) in said.iter().filter(|(n, _)| found.contains_key(n)) {
                assert_eq!(found[n], *revision, "{at}: writer {writer}, number {n}");
            }
        }
        total += acknowledged.len();
        newest = store.current_revision().await.expect("revision");
        store.close().await.expect("close");
        if number == 0 || number + 1 == rounds {
            println!(
                "store crash: {at}, {total} acknowledged so far, {:?}",
                begin.elapsed()
            );
        }
    }
    assert!(total > 0, "nothing was written");
}
