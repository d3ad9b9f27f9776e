//! A short slice of the model (`examples/model`, which has the long one).

#[path = "../../examples/model/crowd.rs"]
mod crowd;
#[path = "../../examples/model/drive.rs"]
mod drive;
#[path = "../../examples/model/history.rs"]
mod history;
#[path = "../../examples/model/watcher.rs"]
mod watcher;
#[path = "../../examples/model/world.rs"]
mod world;

use crate::breaking::Breaking;
use std::sync::Arc;

#[tokio::test]
async fn a_server_answers_as_the_model_does() {
    for seed in [1, rand::random()] {
        println!("{}", drive::run(Arc::new(store::Memory::new()), seed, 2000).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_watch_on_the_store_breaks_off_answers_as_the_model_does() {
    for seed in [1, rand::random()] {
        let store: Arc<dyn store::Store> = Arc::new(store::Memory::new());
        let store = Arc::new(Breaking { store, after: 40 });
        println!("{}", drive::run(store, seed, 2000).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asked_by_many_at_once_answers_in_one_order() {
    for seed in [1, rand::random()] {
        println!(
            "{}",
            crowd::run(Arc::new(store::Memory::new()), seed, 2000, 8).await
        );
    }
}
