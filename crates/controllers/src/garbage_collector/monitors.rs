//! The watches that fill the graph: one, of metadata only, for every resource whose objects can be deleted.
//!
//! What is served is discovered at the start and whenever a definition or an API service changes.

use super::graph::{Graph, Uid};
use client::informer::metadata::{Discovered, PartialObject};
use client::informer::{Representation, Sink};
use client::{Informers, Queue, Resource, Selection};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the collector's queue holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Look {
    At(Uid),
    /// Discover again.
    Around,
}

/// Resources whose objects own nothing, are owned by nobody and are many.
fn is_ignored(resource: &Resource) -> bool {
    resource.plural == "events" && (resource.group.is_empty() || resource.group == "events.k8s.io")
}

pub(super) struct Monitors {
    informers: Informers,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Look>,
    running: Mutex<BTreeMap<Resource, Monitor>>,
    /// By API version and kind: what an owner reference names.
    kinds: Mutex<HashMap<(String, String), Resource>>,
}

struct Monitor {
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
}

impl Monitors {
    pub(super) fn new(informers: Informers, graph: Arc<Mutex<Graph>>, queue: Queue<Look>) -> Self {
        Self {
            informers,
            graph,
            queue,
            running: Mutex::default(),
            kinds: Mutex::default(),
        }
    }

    /// The resource of a kind.
    pub(super) fn resource(&self, api_version: &str, kind: &str) -> Option<Resource> {
        let key = (api_version.to_owned(), kind.to_owned());
        self.kinds.lock().get(&key).cloned()
    }

    /// Starts and stops watches so that they are of what is served.
    pub(super) fn follow(&self, found: &Discovered) {
        let mut kinds = HashMap::new();
        let mut wanted: BTreeSet<Resource> = BTreeSet::new();
        for served in &found.resources {
            let resource = &served.resource;
            kinds.insert(
                (resource.api_version(), resource.kind.to_string()),
                resource.clone(),
            );
            let watched = ["delete", "list", "watch"].iter().all(|v| served.can(v));
            if served.preferred && watched && !is_ignored(resource) {
                wanted.insert(resource.clone());
            }
        }
        let mut running = self.running.lock();
        let stale = |r: &Resource| found.stale.contains(&format!("{}/{}", r.group, r.version));
        let gone: Vec<Resource> = running
            .keys()
            .filter(|r| !wanted.contains(*r) && !stale(r))
            .cloned()
            .collect();
        for resource in gone {
            if let Some(monitor) = running.remove(&resource) {
                monitor.stop.cancel();
            }
            let look = self.graph.lock().drop_resource(&resource);
            look.into_iter().for_each(|uid| self.queue.add(Look::At(uid)));
        }
        for resource in wanted
            .into_iter()
            .filter(|r| !running.contains_key(r))
            .collect::<Vec<_>>()
        {
            let (synced, is_synced) = watch::channel(false);
            let feed = Feed {
                resource: Arc::new(resource.clone()),
                graph: Arc::clone(&self.graph),
                queue: self.queue.clone(),
                generation: AtomicU32::new(0),
                announces: matches!(
                    (resource.group.as_str(), resource.plural.as_str()),
                    ("apiextensions.k8s.io", "customresourcedefinitions")
                        | ("apiregistration.k8s.io", "apiservices")
                ),
                synced,
            };
            let stop = self.informers.reflect(
                resource.clone(),
                Selection::all(),
                Representation::Metadata,
                Arc::new(feed),
            );
            running.insert(
                resource,
                Monitor {
                    stop,
                    synced: is_synced,
                },
            );
        }
        drop(running);
        let mut known = self.kinds.lock();
        if found.stale.is_empty() {
            *known = kinds;
        } else {
            known.extend(kinds);
        }
    }

    /// Waits until every watch has brought its first list.
    pub(super) async fn synced(&self) {
        let waits: Vec<watch::Receiver<bool>> =
            self.running.lock().values().map(|m| m.synced.clone()).collect();
        for mut wait in waits {
            // The sender goes with its monitor; a resource that is no more needs no waiting for.
            let _ = wait.wait_for(|synced| *synced).await;
        }
    }
}

struct Feed {
    resource: Arc<Resource>,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Look>,
    generation: AtomicU32,
    /// Whether a change of such an object may change what is served.
    announces: bool,
    synced: watch::Sender<bool>,
}

impl Feed {
    fn look(&self, uids: Vec<Uid>) {
        uids.into_iter().for_each(|uid| self.queue.add(Look::At(uid)));
        if self.announces && *self.synced.borrow() {
            // Serving begins and ends a little after the definition says so.
            self.queue
                .add_after(Look::Around, std::time::Duration::from_millis(250));
        }
    }
}

impl Sink for Feed {
    fn begin_replace(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn put(&self, object: &str) -> Result<u64, serde_json::Error> {
        let object: PartialObject = serde_json::from_str(object)?;
        let generation = self.generation.load(Ordering::Relaxed);
        let look = self
            .graph
            .lock()
            .put(&self.resource, &object.metadata, generation);
        self.look(look);
        Ok(version(&object))
    }

    fn delete(&self, object: &str) -> Result<u64, serde_json::Error> {
        let object: PartialObject = serde_json::from_str(object)?;
        let look = self
            .graph
            .lock()
            .remove(object.metadata.uid.as_deref().unwrap_or(""));
        self.look(look);
        Ok(version(&object))
    }

    fn end_replace(&self, resource_version: u64) {
        let generation = self.generation.load(Ordering::Relaxed);
        let look = self
            .graph
            .lock()
            .sweep(&self.resource, generation, resource_version);
        self.look(look);
        self.synced.send_replace(true);
    }

    fn progress(&self, _: u64) {}

    fn keep(&self, _: &str, _: &str) {}
}

fn version(object: &PartialObject) -> u64 {
    let version = object.metadata.resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}
