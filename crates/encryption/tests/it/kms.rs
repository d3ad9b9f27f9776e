//! KMS v2: the envelope, keys that change, a plugin that comes late, goes, and plugins that mean ill.

use super::plugin::Plugin;
use super::{SECRET, configuration, get, known, put, stand};
use encryption::{Sealed, unreadable};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::{KeyRange, RangeRequest, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::Instant;

const PREFIX: &[u8] = b"k8s:enc:kms:v2:k:";

fn provider(path: &Path, timeout: &str) -> String {
    format!(
        "kms: {{apiVersion: v2, name: k, endpoint: \"unix://{}\", timeout: {timeout}}}",
        path.display()
    )
}

#[tokio::test]
async fn one_seed_serves_many_values_and_a_restart_asks_once() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("kms.sock");
    let (plugin, task) = Plugin::start(&path, "key-1");
    let provider = provider(&path, "60s");
    let (inner, sealed) = stand(&[("secrets", &[&provider])]).await;
    for n in 0..100 {
        put(
            &sealed,
            &format!("/registry/secrets/default/s{n:02}"),
            &format!("plain {n}"),
        )
        .await;
    }
    assert!(
        get(&*inner, "/registry/secrets/default/s00")
            .await
            .starts_with(PREFIX)
    );
    assert_eq!(plugin.counts(), (1, 0));
    let again = Sealed::new(
        Arc::clone(&inner),
        known(),
        &configuration(&[("secrets", &[&provider])]),
    )
    .await;
    let all = again
        .range(RangeRequest::new(KeyRange::prefix("/registry/secrets/")))
        .await
        .expect("range");
    for (n, kv) in all.kvs.iter().enumerate() {
        assert_eq!(kv.value, format!("plain {n}"));
    }
    assert_eq!(
        plugin.counts(),
        (2, 1),
        "one seed a server, and one to read the other's"
    );
    assert!(again.health().is_ok());
    task.abort();
}

#[tokio::test]
async fn a_new_key_id_makes_old_values_stale() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("kms.sock");
    let (plugin, task) = Plugin::start(&path, "key-1");
    let provider = provider(&path, "60s");
    let rules: &[(&str, &[&str])] = &[("secrets", &[&provider])];
    let (inner, first) = stand(rules).await;
    put(&first, SECRET, "plain").await;
    assert!(!first.is_stale(SECRET.as_bytes()).await.expect("answers"));
    plugin.set_key("key-2");
    let second = Sealed::new(inner, known(), &configuration(rules)).await;
    assert_eq!(get(&second, SECRET).await, b"plain");
    assert!(second.is_stale(SECRET.as_bytes()).await.expect("answers"));
    put(&second, SECRET, "plain").await;
    assert!(!second.is_stale(SECRET.as_bytes()).await.expect("answers"));
    task.abort();
}

#[tokio::test]
async fn a_plugin_that_goes_stops_nothing_it_has_answered() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("kms.sock");
    let (plugin, task) = Plugin::start(&path, "key-1");
    let provider = provider(&path, "60s");
    let rules: &[(&str, &[&str])] = &[("secrets", &[&provider])];
    let (inner, sealed) = stand(rules).await;
    put(&sealed, SECRET, "plain").await;
    task.abort();
    assert!(task.await.expect_err("aborted").is_cancelled());
    put(&sealed, SECRET, "plain again").await;
    assert_eq!(get(&sealed, SECRET).await, b"plain again");
    // A server that starts now cannot read, says so, and takes nothing for lost.
    let late = Sealed::new(inner, known(), &configuration(rules)).await;
    let error = late
        .get(SECRET.as_bytes())
        .await
        .expect_err("no plugin")
        .to_string();
    assert!(error.contains("KMS provider"), "{error}");
    assert!(late.health().is_err());
    let write = late
        .txn(store::Txn::put(SECRET, "x"))
        .await
        .expect_err("no key")
        .to_string();
    assert!(write.contains("unable to encrypt"), "{write}");
    // The plugin comes back.
    let before = late.generation();
    let task = plugin.serve(path);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let deadline = Instant::now() + Duration::from_secs(60);
    while late.generation() == before {
        assert!(Instant::now() < deadline, "the plugin is asked again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(&late, SECRET).await, b"plain again");
    task.abort();
}

/// What a plugin that means ill does with a connection.
#[derive(Clone, Copy, Debug)]
enum Ill {
    Silent,
    Garbage,
    Closes,
    ClosesMidAnswer,
    Endless,
}

fn ill(path: &Path, how: Ill) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                match how {
                    Ill::Silent => std::future::pending::<()>().await,
                    Ill::Closes => {}
                    Ill::Garbage => {
                        let sent = stream.write_all(&[0x5a; 4096]).await;
                        let read = stream.read(&mut buffer).await;
                        drop((sent, read));
                    }
                    Ill::ClosesMidAnswer => {
                        // A SETTINGS frame, half a HEADERS frame, and the end.
                        let sent = stream
                            .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9, 1, 4, 0, 0, 0, 1, 0x88])
                            .await;
                        let read = stream.read(&mut buffer).await;
                        drop((sent, read));
                    }
                    Ill::Endless => while stream.write_all(&[0; 65536]).await.is_ok() {},
                }
            });
        }
    })
}

#[tokio::test]
async fn plugins_that_mean_ill_cost_their_timeout_and_nothing_else() {
    let dir = tempfile::tempdir().expect("dir");
    let good = dir.path().join("good.sock");
    let (_plugin, good_task) = Plugin::start(&good, "key-1");
    let (inner, sealed) = stand(&[("secrets", &[&provider(&good, "60s")])]).await;
    put(&sealed, SECRET, "plain").await;
    for how in [
        Ill::Silent,
        Ill::Garbage,
        Ill::Closes,
        Ill::ClosesMidAnswer,
        Ill::Endless,
    ] {
        let path = dir.path().join(format!("{how:?}.sock"));
        let task = ill(&path, how);
        let rules = configuration(&[("secrets", &[&provider(&path, "300ms")])]);
        let late = Arc::new(Sealed::new(Arc::clone(&inner), known(), &rules).await);
        // Many at once: each waits for one timeout at most.
        let asked = (0..50).map(|_| {
            let late = Arc::clone(&late);
            tokio::spawn(async move { late.get(SECRET.as_bytes()).await.map(|answer| answer.kv) })
        });
        let answers = tokio::time::timeout(Duration::from_secs(300), futures::future::join_all(asked)).await;
        for answer in answers.unwrap_or_else(|_| panic!("{how:?} is waited for")) {
            let error = answer
                .expect("no panic")
                .expect_err("unreadable for now")
                .to_string();
            assert!(error.contains("KMS provider"), "{how:?} {error}");
        }
        // Other objects never notice.
        put(&*late, super::POD, "pod").await;
        assert_eq!(get(&*late, super::POD).await, b"pod");
        task.abort();
    }
    // A value somebody damaged is unreadable, whatever the plugin says.
    let mut raw = get(&*inner, SECRET).await;
    let last = raw.len() - 60;
    raw[last] ^= 1;
    inner.txn(store::Txn::put(SECRET, raw)).await.expect("put");
    assert!(unreadable(&get(&sealed, SECRET).await).is_some());
    good_task.abort();
}
