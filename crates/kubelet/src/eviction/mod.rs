//! Ending pods before the node itself runs out: memory, disk, inodes, process ids.
//!
//! ```text
//!  signals ──thresholds (pure)──► met? ──► images and dead containers go ──► still? ──► one pod, by rank (pure)
//!                                  └──► the node's pressure conditions, and what admission refuses
//! ```
//! **Invariants:** at most one pod a round; never a static or system-critical one; a condition stays for five
//! minutes after its signal was last bad, so that it does not flap.
//! Follows upstream's `pkg/kubelet/eviction`, with its defaults, reasons and messages.

pub mod local_storage;
pub mod rank;
pub mod signals;
pub mod thresholds;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::housekeeping;
use crate::node::context::NodeContext;
use crate::pod::{PodExt, is_terminal};
use crate::pods::worker::{Command, End};
use crate::pods::workers::Workers;
use thresholds::{Policy, Threshold, Tracker};

pub const REASON: &str = "Evicted";

/// As often as upstream.
const ROUND: Duration = Duration::from_secs(10);
/// What a pod is given that must go at once.
const IMMEDIATELY: i64 = 1;

/// A shortage, as the node's conditions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    Disk,
    Memory,
    Pids,
}

impl Pressure {
    pub fn condition(self) -> &'static str {
        match self {
            Self::Disk => "DiskPressure",
            Self::Memory => "MemoryPressure",
            Self::Pids => "PIDPressure",
        }
    }
}

/// The shortages of this moment, for whoever reports and admits.
#[derive(Debug, Default)]
pub struct Pressures {
    present: RwLock<BTreeSet<Pressure>>,
}

impl Pressures {
    pub fn has(&self, pressure: Pressure) -> bool {
        self.present.read().contains(&pressure)
    }

    pub fn all(&self) -> BTreeSet<Pressure> {
        self.present.read().clone()
    }

    /// Whether that is news.
    fn set(&self, now: BTreeSet<Pressure>) -> bool {
        let mut present = self.present.write();
        let news = *present != now;
        *present = now;
        news
    }
}

/// Runs for ever. `changed` hears of new and past shortages.
pub async fn keep(node: Arc<NodeContext>, workers: Arc<Workers>, changed: Arc<Notify>) {
    let mut tracker = Tracker::default();
    loop {
        round(&node, &workers, &mut tracker, &changed).await;
        tokio::time::sleep(ROUND).await;
    }
}

async fn round(node: &Arc<NodeContext>, workers: &Workers, tracker: &mut Tracker, changed: &Notify) {
    if local_storage::enforce(node, workers).await {
        return;
    }
    let policy = &node.settings.eviction;
    let observed = signals::observe(node).await;
    let due = tracker.observe(policy, &observed, node.clock.now());
    if node
        .pressures
        .set(tracker.pressures(policy, &observed, node.clock.now()))
    {
        changed.notify_one();
    }
    let Some(threshold) = due.first().copied() else {
        return;
    };
    let about = node.events.node();
    let resource = threshold.signal.resource();
    about.warning(
        "EvictionThresholdMet",
        format!("Attempting to reclaim {resource}"),
    );
    if threshold.signal.pressure() == Pressure::Disk {
        if let Err(error) = housekeeping::free_disk(node, workers).await {
            tracing::warn!(error = error.full(), "cannot free disk space");
        }
        let after = signals::observe(node).await;
        if !tracker.still_met(policy, threshold, &after) {
            return;
        }
    }
    evict_one(node, workers, policy, threshold, &observed).await;
}

async fn evict_one(
    node: &Arc<NodeContext>,
    workers: &Workers,
    policy: &Policy,
    threshold: Threshold,
    observed: &signals::Observations,
) {
    let pods: Vec<_> = workers
        .pods()
        .into_iter()
        .filter(|p| !is_terminal(p.phase()) && !is_terminal(&phase_now(node, p.uid())))
        .collect();
    let usage = signals::usage_of_pods(node, &pods, threshold.signal).await;
    let ranked = rank::ranked(threshold.signal, &pods, &usage);
    for pod in ranked {
        if is_critical(&pod) {
            continue;
        }
        let message = rank::message(&threshold, observed, &pod, usage.get(pod.uid()));
        let grace = match threshold.is_hard() {
            true => IMMEDIATELY,
            false => policy.max_pod_grace,
        };
        tracing::warn!(
            pod = pod.describe(),
            message,
            "evicting a pod to relieve the node"
        );
        evict(node, workers, &pod, message, grace);
        return;
    }
}

fn phase_now(node: &NodeContext, uid: &str) -> String {
    node.status.get(uid).and_then(|s| s.phase).unwrap_or_default()
}

/// Ends a pod for the node's sake.
pub(crate) fn evict(
    node: &NodeContext,
    workers: &Workers,
    pod: &k8s_openapi::api::core::v1::Pod,
    message: String,
    grace: i64,
) {
    node.events.pod(pod).warning(REASON, message.clone());
    workers.tell(
        pod.uid(),
        Command::End(End {
            reason: REASON.to_owned(),
            message,
            grace: Some(grace),
            disruption: true,
        }),
    );
}

/// Pods the node cannot be without.
pub fn is_critical(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    pod.is_static() || pod.spec().priority.is_some_and(|p| p >= SYSTEM_CRITICAL)
}
