//! Follows the APIServices in the watch cache: who answers for which group and version.

use super::remote::Remote;
use super::{GROUP, Place, RESOURCE, Remotes, check, local};
use crate::cache::{Filter, WatchReceiver, WatchStart};
use crate::registry::Resource;
use crate::server::Core;
use machinery::status::ApiError;
use std::sync::Arc;
use std::time::Duration;

/// How long a watch that broke off is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// Begins with what is stored, and follows until the server ends.
pub(crate) async fn start(core: &Arc<Core>) -> Result<(), ApiError> {
    let Some(resource) = core.routes.resource(GROUP, RESOURCE) else {
        return Ok(());
    };
    let receiver = look(core, &resource).await?;
    let shutdown = core.shutdown.clone();
    let followed = Arc::clone(core);
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow(&followed, &resource, receiver) => {}
        }
    });
    local::start(core).await
}

async fn follow(core: &Arc<Core>, resource: &Arc<Resource>, mut receiver: WatchReceiver) {
    loop {
        if receiver.next().await.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
        match look(core, resource).await {
            Ok(again) => receiver = again,
            Err(error) => {
                tracing::warn!(error = %error.message, "watching APIServices");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Takes in the whole present state, and watches from there.
async fn look(core: &Arc<Core>, resource: &Arc<Resource>) -> Result<WatchReceiver, ApiError> {
    let started = resource
        .watch(&core.registry.reflector, &Filter::all(""), WatchStart::State)
        .await?;
    let aggregation = &core.aggregation;
    let known = aggregation.remotes.load_full();
    let mut remotes = Remotes::new();
    for entry in &started.initial {
        let object = match entry.value(resource) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(%error, "an APIService cannot be read");
                continue;
            }
        };
        let Some(remote) = Remote::read(&object, aggregation.front_proxy(), &core.shutdown) else {
            continue;
        };
        let place: Place = (remote.group.clone(), remote.version.clone());
        let same = known
            .get(&place)
            .filter(|known| known.spec == remote.spec && known.name == remote.name);
        let remote = match same {
            Some(known) => Arc::clone(known),
            None => {
                let remote = Arc::new(remote);
                tokio::spawn(check::run(Arc::clone(core), Arc::clone(&remote)));
                remote
            }
        };
        remotes.insert(place, remote);
    }
    for (place, old) in known.iter() {
        if !remotes.get(place).is_some_and(|new| Arc::ptr_eq(new, old)) {
            old.gone.cancel();
        }
    }
    aggregation.remotes.store(Arc::new(remotes));
    Ok(started.receiver)
}
