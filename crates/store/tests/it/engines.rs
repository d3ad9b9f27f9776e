//! The shared suite on each engine of this crate.

use std::path::PathBuf;
use std::sync::Arc;
use store::embedded::Options;
use store::suite::{self, model};
use store::{Embedded, Memory, Store};

/// Little of everything, so that small tests reach the slow paths too.
fn small() -> Options {
    Options {
        cache_bytes: 1 << 20,
        recent_bytes: 16 << 10,
        log_bytes: 32 << 10,
        watch_records: 64,
        watch_bytes: 64 << 10,
        ..Options::default()
    }
}

async fn embedded(dir: PathBuf, options: Options) -> Arc<dyn Store> {
    Arc::new(Embedded::open(&dir, options).await.expect("open"))
}

/// Another history on every run of the nightly job, the same one otherwise.
fn seed() -> u64 {
    std::env::var("STORE_SEED").map_or(1, |seed| seed.parse().expect("STORE_SEED is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_passes_the_suite() {
    suite::all(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_passes_the_suite() {
    let dir = tempfile::tempdir().expect("a directory");
    suite::all(embedded(dir.path().join("normal"), Options::default()).await).await;
    suite::all(embedded(dir.path().join("small"), small()).await).await;
}

#[tokio::test]
async fn memory_follows_the_model() {
    for seed in seed()..seed() + 5 {
        model::run(Arc::new(Memory::new()), "model", seed, 1000, None).await;
    }
}

#[tokio::test]
async fn embedded_follows_the_model() {
    let dir = tempfile::tempdir().expect("a directory");
    for seed in seed()..seed() + 5 {
        let path = dir.path().join(seed.to_string());
        let store = embedded(path.clone(), small()).await;
        let reopen = move |store: Arc<dyn Store>| -> futures::future::BoxFuture<'static, Arc<dyn Store>> {
            let path = path.clone();
            Box::pin(async move {
                store.close().await.expect("close");
                drop(store);
                embedded(path, small()).await
            })
        };
        model::run(store, "model", seed, 1000, Some(&reopen)).await;
    }
}
