//! A short slice of the model (`examples/model`, which has the long one).

#[path = "../../examples/model/drive.rs"]
mod drive;
#[path = "../../examples/model/watcher.rs"]
mod watcher;
#[path = "../../examples/model/world.rs"]
mod world;

use std::sync::Arc;

#[tokio::test]
async fn a_server_answers_as_the_model_does() {
    for seed in [1, rand::random()] {
        println!("{}", drive::run(Arc::new(store::Memory::new()), seed, 2000).await);
    }
}
