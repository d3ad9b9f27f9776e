//! Compares a server with a model that has no concurrency, no cache and no store:
//!
//! ```sh
//! cargo run --release -p apiserver --example model -- --operations 1000000 --store embedded --seed 7
//! ```
//!
//! The seed is printed, and the same seed asks the same. `--store` is `memory`, `embedded`, or the URL of an
//! etcd that holds nothing yet. With `--clients 16` so many ask at once, and what they were told is compared with the
//! one order the revisions say; one client is compared step by step.

mod crowd;
mod drive;
mod history;
mod watcher;
mod world;

use std::error::Error;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> Result<(), Box<dyn Error>> {
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let (mut operations, mut clients, mut kind) = (100_000usize, 1usize, "memory".to_owned());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or("an option has a value")?;
        match word.as_str() {
            "--seed" => seed = value.parse()?,
            "--operations" => operations = value.parse()?,
            "--clients" => clients = value.parse()?,
            "--store" => kind = value,
            _ => return Err("options: --seed, --operations, --clients, --store".into()),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let directory = tempfile::tempdir()?;
    runtime.block_on(async {
        let store: Arc<dyn store::Store> = match kind.as_str() {
            "memory" => Arc::new(store::Memory::new()),
            "embedded" => {
                let options = store::embedded::Options::default();
                Arc::new(store::Embedded::open(directory.path(), options).await?)
            }
            endpoint if endpoint.starts_with("http://") => Arc::new(store::Etcd::connect(&[kind.clone()])?),
            _ => return Err("--store is memory, embedded or the URL of an etcd".into()),
        };
        let done = match clients {
            0 | 1 => drive::run(store, seed, operations).await,
            _ => crowd::run(store, seed, operations, clients).await,
        };
        println!("{done}");
        Ok(())
    })
}
