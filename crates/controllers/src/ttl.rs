//! The TTL controller: says on each node for how long its kubelet may trust what it knows of config maps and secrets,
//! the longer the larger the cluster.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const WORKERS: usize = 5;

/// Between which numbers of nodes how many seconds hold; they overlap so that it does not flap.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, usize::MAX, 300),
];

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let nodes = context.informer::<Node>();
    let queue = context.queue::<ObjectKey>("ttlcontroller");
    let step = Arc::new(Mutex::new(0usize));
    let (adds, all, known) = (queue.clone(), nodes.clone(), Arc::clone(&step));
    nodes.subscribe(move |event| {
        let changed = {
            let mut step = known.lock();
            let next = next_step(*step, all.len());
            std::mem::replace(&mut *step, next) != next
        };
        if changed {
            all.list().iter().for_each(|n| adds.add(ObjectKey::of(&**n)));
        } else if !matches!(event, Event::Deleted(_)) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let all = nodes.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, WORKERS, synced, move |key| {
            let (context, nodes) = (shell.clone(), nodes.clone());
            let seconds = STEPS[*step.lock()].2;
            async move { reconcile(&context, &nodes, &key, seconds).await }
        })
        .await;
}

fn next_step(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

async fn reconcile(
    context: &Context,
    nodes: &Informer<Node>,
    key: &ObjectKey,
    seconds: u32,
) -> Result<Outcome, kube::Error> {
    let Some(node) = nodes.get(key) else {
        return Ok(Outcome::Done);
    };
    let wanted = seconds.to_string();
    let annotations = node.metadata.annotations.as_ref();
    if annotations.is_some_and(|a| a.get(ANNOTATION) == Some(&wanted)) {
        return Ok(Outcome::Done);
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
    let api = Api::<Node>::all(context.client.clone());
    match api.patch(&key.name, &PatchParams::default(), &patch).await {
        Ok(written) => nodes.written(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        assert_eq!(next_step(0, 100), 0);
        assert_eq!(next_step(0, 101), 1);
        assert_eq!(next_step(1, 90), 1);
        assert_eq!(next_step(1, 89), 0);
        assert_eq!(next_step(0, 5000), 4);
        assert_eq!(next_step(4, 1), 0);
    }
}
