//! All workers by UID: started once, told things, supervised.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::TaskTracker;

use super::worker::{Command, PodWorker};
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::probes::worker::{ProbeContext, Prober};
use crate::runtime::status::PodStatus;

/// How long a pod rests whose worker panicked.
const AFTER_PANIC: Duration = Duration::from_secs(10);

pub struct Workers {
    node: OnceLock<Arc<NodeContext>>,
    tasks: TaskTracker,
    workers: Mutex<HashMap<String, Handle>>,
    /// A worker has ended, and with it the last trace of its pod.
    pub ended: Notify,
}

#[derive(Clone)]
struct Handle {
    pod: Arc<Pod>,
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<Arc<PodStatus>>,
}

/// How a pod begins here.
pub enum Begin {
    Run,
    /// It does not fit: reason and message.
    Refuse(String, String),
}

impl Workers {
    pub fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            node: OnceLock::new(),
            tasks,
            workers: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// The context refers to the workers and they to it; this ties the knot.
    pub fn attach(&self, node: Arc<NodeContext>) {
        if self.node.set(node).is_err() {
            tracing::error!("the workers have a node already");
        }
    }

    pub fn knows(&self, uid: &str) -> bool {
        self.workers.lock().contains_key(uid)
    }

    pub fn uids(&self) -> HashSet<String> {
        self.workers.lock().keys().cloned().collect()
    }

    /// The pods that have workers, as they last were.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.workers.lock().values().map(|h| h.pod.clone()).collect()
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let workers = self.workers.lock();
        let mut found: Vec<&Arc<Pod>> = workers
            .values()
            .map(|h| &h.pod)
            .filter(|p| p.namespace() == namespace && p.name() == name)
            .collect();
        // A namesake that is going away comes second.
        found.sort_by_key(|p| p.is_deleting());
        found.first().map(|p| Arc::clone(p))
    }

    /// What the runtime last said about a pod, now and from now on.
    pub fn runtime_status(&self, uid: &str) -> Option<watch::Receiver<Arc<PodStatus>>> {
        self.workers.lock().get(uid).map(|h| h.status.clone())
    }

    pub fn begin(self: &Arc<Self>, pod: Arc<Pod>, begin: Begin) {
        let Some(node) = self.node.get().cloned() else {
            return;
        };
        let uid = pod.uid().to_owned();
        let (commands, receiver) = mpsc::unbounded_channel();
        let first = PodStatus::new(&uid, pod.name(), pod.namespace());
        let (seen, status) = watch::channel(Arc::new(first));
        let handle = Handle {
            pod: pod.clone(),
            commands: commands.clone(),
            status,
        };
        if self.workers.lock().insert(uid.clone(), handle).is_some() {
            tracing::error!(pod = pod.describe(), "a pod has two workers");
        }
        let workers = self.clone();
        // Only the map keeps a worker: once it lets go, the worker ends.
        let commands = commands.downgrade();
        self.tasks.spawn(async move {
            workers
                .supervise(node, pod, begin, commands, receiver, seen)
                .await;
            workers.workers.lock().remove(&uid);
            workers.ended.notify_one();
        });
    }

    pub fn tell(&self, uid: &str, command: Command) {
        let mut workers = self.workers.lock();
        let Some(handle) = workers.get_mut(uid) else {
            return;
        };
        if let Command::Pod(pod) = &command {
            handle.pod = pod.clone();
        }
        // A worker that just ended hears nothing; it is being removed from the map.
        drop(handle.commands.send(command));
    }

    pub fn tell_all(&self, command: &Command) {
        for handle in self.workers.lock().values() {
            drop(handle.commands.send(command.clone()));
        }
    }

    /// Lets all workers end where they stand; the pods live on.
    pub fn abandon(&self) {
        self.workers.lock().clear();
    }

    /// A panic costs a pod a pause, and nobody else anything.
    async fn supervise(
        self: &Arc<Self>,
        node: Arc<NodeContext>,
        mut pod: Arc<Pod>,
        mut begin: Begin,
        commands: mpsc::WeakUnboundedSender<Command>,
        mut receiver: mpsc::UnboundedReceiver<Command>,
        seen: watch::Sender<Arc<PodStatus>>,
    ) {
        let context = ProbeContext {
            runtime: node.runtime.clone(),
            events: node.events.clone(),
            clock: node.clock.clone(),
            kubelet_started: node.started,
        };
        loop {
            let sender = commands.clone();
            let wake = Arc::new(move || {
                if let Some(sender) = sender.upgrade() {
                    drop(sender.send(Command::Look));
                }
            });
            let prober = Prober::new(context.clone(), wake);
            let mut worker = PodWorker::new(node.clone(), pod.clone(), prober, seen.clone());
            if let Begin::Refuse(reason, message) = &begin {
                worker.refuse(reason, message);
            }
            if AssertUnwindSafe(worker.run(&mut receiver))
                .catch_unwind()
                .await
                .is_ok()
            {
                return;
            }
            tracing::error!(pod = pod.describe(), "the worker of a pod panicked");
            tokio::time::sleep(AFTER_PANIC).await;
            begin = Begin::Run;
            match self.workers.lock().get(pod.uid()) {
                Some(handle) => pod = handle.pod.clone(),
                None => return,
            }
        }
    }
}
