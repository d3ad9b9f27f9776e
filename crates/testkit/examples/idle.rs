//! A cluster that does nothing: what it costs is to be read from outside.
//!
//! `cargo run --release -p testkit --example idle -- [nodes] [seconds]`

use std::time::Duration;
use testkit::{Cluster, Options};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|a| a.parse::<usize>().expect("a number"));
    let nodes = arguments.next().unwrap_or(1);
    let seconds = arguments.next().unwrap_or(60);
    let cluster = Cluster::start(Options {
        nodes,
        ..Options::default()
    })
    .await;
    println!("started");
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    drop(cluster);
}
