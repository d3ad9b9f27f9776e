//! The shared suite on a real etcd, where one is installed.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::suite::{self, model};
use store::{Error, Etcd, Store};

/// An etcd of our own on loopback, ended with the test.
struct Server {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Nothing if there is no etcd on this machine.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let [client, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .args([
                "--name",
                "test",
                "--unsafe-no-fsync",
                "--log-level",
                "error",
                "--data-dir",
            ])
            .arg(dir.path())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("test={peer}")])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self {
            child,
            endpoint: client,
            _dir: dir,
        })
    }

    async fn store(&self) -> Arc<dyn Store> {
        let store = Etcd::connect(std::slice::from_ref(&self.endpoint)).expect("a URL");
        let ready = async {
            while store.current_revision().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .expect("etcd starts");
        Arc::new(store)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_passes_the_suite() {
    let Some(server) = Server::start() else {
        println!("skipped: no etcd on this machine");
        return;
    };
    let store = server.store().await;
    for (name, check) in suite::CHECKS {
        println!("store check: {name}");
        check(store.clone(), name).await;
    }
    let store = model::run(store, "model", 1, 400, None).await;
    let mut watch = store
        .watch(store::WatchRequest::new(store::KeyRange::all(), 0))
        .await
        .expect("watch");
    store.close().await.expect("close");
    assert!(
        futures::StreamExt::next(&mut watch).await.is_none(),
        "closing ends watches"
    );
    assert!(matches!(store.get(b"/a").await, Err(Error::Closed)));
}

#[tokio::test]
async fn nobody_there() {
    let store = Etcd::connect(&[format!("http://127.0.0.1:{}", free_port())]).expect("a URL");
    let get = tokio::time::timeout(Duration::from_secs(120), store.get(b"/a")).await;
    assert!(matches!(get, Ok(Err(Error::Unavailable { .. }))), "{get:?}");
    assert!(Etcd::connect(&[]).is_err());
}
