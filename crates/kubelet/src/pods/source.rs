//! Where pods come from: the API server's pods of this node, and a directory of manifests.
//!
//! One task takes changes in order and tells the workers; admission is decided here, one pod after another, so
//! that two pods never count on the same room.

use std::sync::Arc;
use std::time::Duration;

use client::{Event, Informer};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::admission::{self, Place};
use super::worker::Command;
use super::workers::{Begin, Workers};
use super::{manifests, orphans, sysctls};
use crate::allocation::judge;
use crate::node::context::NodeContext;
use crate::pod::{HASH_ANNOTATION, MIRROR_ANNOTATION, PodExt, is_terminal};

/// How often what nobody knows any more is looked for, beside the occasions that call for it.
const SWEEP: Duration = Duration::from_secs(300);

/// What happened to a pod, from wherever it comes.
pub enum Change {
    Is(Arc<Pod>),
    Gone(Arc<Pod>),
}

/// Runs until `stop`.
pub async fn run(
    node: Arc<NodeContext>,
    workers: Arc<Workers>,
    pods: Informer<Pod>,
    sweep_now: Arc<tokio::sync::Notify>,
    stop: CancellationToken,
) {
    let (sender, mut changes) = mpsc::unbounded_channel();
    let from_files = sender.clone();
    pods.subscribe(move |event| {
        let change = match event {
            Event::Added(pod) | Event::Updated { new: pod, .. } => Change::Is(pod.clone()),
            Event::Deleted(pod) => Change::Gone(pod.clone()),
        };
        // Nobody listens any more when the kubelet stops.
        drop(sender.send(change));
    });
    tokio::select! {
        () = pods.synced() => {}
        () = stop.cancelled() => return,
    }
    // What ran before this kubelet takes its room first, then the older before the younger.
    let mut present = pods.list();
    present.sort_by_key(|p| (p.phase() == "Pending", p.metadata.creation_timestamp.clone()));
    for pod in present {
        take(&node, &workers, pod);
    }
    // Static pods whose predecessor of the same name is still on its way out.
    let mut queued: Vec<Arc<Pod>> = Vec::new();
    // A static pod that ran before is an orphan to the first sweep unless it is known by then.
    if let Some(place) = node.settings.static_pods.clone() {
        for pod in manifests::read(&node, &place).into_values() {
            take(&node, &workers, pod);
        }
        let followed = manifests::follow(node.clone(), place, from_files);
        let until = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = followed => {}
            }
        });
    }
    let mut next_sweep = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(change) = changes.recv() => match change {
                Change::Is(pod) if has_namesake(&workers, &pod) => queued.push(pod),
                Change::Is(pod) => take(&node, &workers, pod),
                Change::Gone(pod) if pod.is_mirror() => node.mirrors.remove_mirror(&pod),
                Change::Gone(pod) => {
                    if pod.is_static() {
                        queued.retain(|p| p.uid() != pod.uid());
                        node.mirrors.remove_static(&pod);
                    }
                    workers.tell(pod.uid(), Command::Gone);
                    node.allocations.settle(pod.uid());
                    judge::retry(&node, &workers);
                }
            },
            () = workers.ended.notified() => {
                let (waiting, free): (Vec<_>, Vec<_>) =
                    queued.drain(..).partition(|pod| has_namesake(&workers, pod));
                queued = waiting;
                free.into_iter().for_each(|pod| take(&node, &workers, pod));
                judge::retry(&node, &workers);
            }
            () = sweep_now.notified() => next_sweep = tokio::time::Instant::now(),
            () = tokio::time::sleep_until(next_sweep) => {
                // A worker that is just ending still removes its own.
                if let Err(error) = orphans::sweep(&node, &workers.uids()).await {
                    tracing::warn!(error = error.full(), "cannot look for what pods have left behind");
                }
                next_sweep = tokio::time::Instant::now() + SWEEP;
            }
        }
    }
}

/// Whether another pod of a static pod's name is here.
fn has_namesake(workers: &Workers, pod: &Pod) -> bool {
    let other = workers.find(pod.namespace(), pod.name());
    pod.is_static() && other.is_some_and(|other| other.uid() != pod.uid())
}

fn take(node: &Arc<NodeContext>, workers: &Arc<Workers>, pod: Arc<Pod>) {
    if pod.is_mirror() {
        node.mirrors.set_mirror(&pod);
        if let Some(own) = pod
            .annotation(MIRROR_ANNOTATION)
            .filter(|_| pod.annotation(HASH_ANNOTATION).is_some())
        {
            node.status.observe_mirror(own);
        }
        return;
    }
    if pod.is_static() {
        if workers.knows(pod.uid()) {
            return;
        }
        node.mirrors.set_static(&pod);
    }
    node.status.observe(&pod);
    if workers.knows(pod.uid()) {
        let uid = pod.uid().to_owned();
        if pod.is_deleting() || is_terminal(pod.phase()) {
            node.allocations.settle(&uid);
            workers.tell(&uid, Command::Pod(node.allocations.allocated(&pod)));
        } else {
            judge::take(node, workers, &pod);
        }
        judge::retry(node, workers);
        return;
    }
    let wish = pod.clone();
    let pod = node.allocations.recalled(&pod);
    let begin = match admit(node, workers, &pod) {
        Ok(()) => {
            node.allocations.admit(&pod);
            Begin::Run
        }
        Err(refusal) => {
            tracing::info!(
                pod = pod.describe(),
                reason = refusal.reason,
                message = refusal.message,
                "refusing a pod"
            );
            node.events
                .pod(&pod)
                .event_warning(&refusal.reason, &refusal.message);
            Begin::Refuse(refusal.reason, format!("Pod was rejected: {}", refusal.message))
        }
    };
    workers.begin(pod.clone(), begin);
    if !Arc::ptr_eq(&wish, &pod) {
        judge::take(node, workers, &wish);
    }
}

fn admit(node: &NodeContext, workers: &Workers, pod: &Pod) -> Result<(), admission::Refusal> {
    if pod.is_deleting() || is_terminal(pod.phase()) || pod.phase() == "Running" {
        return Ok(());
    }
    admission::check_pressures(pod, &node.pressures.all())?;
    sysctls::check(pod, &node.settings.allowed_sysctls)?;
    let others = workers.pods();
    let known = node
        .state
        .read()
        .node
        .clone()
        .unwrap_or_else(|| Arc::new(Node::default()));
    let mut allocatable = node.allocatable().clone();
    allocatable.extend(node.devices.allocatable());
    let mut place = Place::of(&known, &node.settings.node_name, &allocatable);
    if place.labels.is_empty() {
        // Not registered yet: what it will have.
        place.labels = &node.settings.labels;
    }
    admission::check(pod, &place, others.iter().map(|p| &**p))
}
