//! How many objects of a resource each namespace has: one watch, of metadata only, for each resource that some quota
//! counts.

use super::decide::speaks_of;
use client::informer::metadata::PartialObject;
use client::informer::{Index, Representation, Sink};
use client::{Informers, ObjectKey, Queue, Resource, Selection};
use hashbrown::{HashMap, HashSet};
use k8s_openapi::api::core::v1::ResourceQuota;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) struct Monitors {
    informers: Informers,
    quotas: Index<ResourceQuota>,
    queue: Queue<ObjectKey>,
    running: Mutex<HashMap<(String, String), Arc<Feed>>>,
}

impl Monitors {
    pub(super) fn new(informers: Informers, quotas: Index<ResourceQuota>, queue: Queue<ObjectKey>) -> Self {
        Self {
            informers,
            quotas,
            queue,
            running: Mutex::default(),
        }
    }

    /// The number of a resource's objects in a namespace; `None` while nobody watches it.
    pub(super) async fn count(&self, group: &str, resource: &str, namespace: &str) -> Option<usize> {
        let key = (group.to_owned(), resource.to_owned());
        let feed = self.running.lock().get(&key).cloned()?;
        // The sender lives in the feed this handle keeps alive, so the wait cannot fail.
        let _ = feed.synced.subscribe().wait_for(|synced| *synced).await;
        Some(feed.objects.lock().of(namespace))
    }

    /// Watches a resource from now on.
    pub(super) fn start(&self, resource: Resource) {
        let key = (resource.group.to_string(), resource.plural.to_string());
        let mut running = self.running.lock();
        if running.contains_key(&key) {
            return;
        }
        let feed = Arc::new(Feed {
            resource: resource.clone(),
            quotas: self.quotas.clone(),
            queue: self.queue.clone(),
            objects: Mutex::default(),
            synced: watch::Sender::new(false),
        });
        let sink = Arc::clone(&feed) as Arc<dyn Sink>;
        self.informers
            .reflect(resource, Selection::all(), Representation::Metadata, sink);
        running.insert(key, feed);
    }
}

#[derive(Default)]
struct Objects {
    by_namespace: BTreeMap<String, HashSet<String>>,
    /// What a list that is being received has brought.
    listed: Option<BTreeMap<String, HashSet<String>>>,
}

impl Objects {
    fn of(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).map_or(0, HashSet::len)
    }
}

struct Feed {
    resource: Resource,
    quotas: Index<ResourceQuota>,
    queue: Queue<ObjectKey>,
    objects: Mutex<Objects>,
    synced: watch::Sender<bool>,
}

impl Feed {
    fn recount(&self, namespace: &str) {
        for quota in self.quotas.get(namespace) {
            if speaks_of(&quota, &self.resource.group, &self.resource.plural) {
                self.queue.add_after(ObjectKey::of(&*quota), super::GATHER);
            }
        }
    }
}

fn names(object: PartialObject) -> (String, String, u64) {
    let meta = object.metadata;
    let version = meta.resource_version.as_deref().and_then(|v| v.parse().ok());
    (
        meta.namespace.unwrap_or_default(),
        meta.name.unwrap_or_default(),
        version.unwrap_or(0),
    )
}

impl Sink for Feed {
    fn begin_replace(&self) {
        self.objects.lock().listed = Some(BTreeMap::new());
    }

    fn put(&self, object: &str) -> Result<u64, serde_json::Error> {
        let (namespace, name, version) = names(serde_json::from_str(object)?);
        let comes = {
            let mut objects = self.objects.lock();
            let listing = match &mut objects.listed {
                Some(listed) => {
                    listed.entry(namespace.clone()).or_default().insert(name.clone());
                    true
                }
                None => false,
            };
            let known = objects.by_namespace.entry(namespace.clone()).or_default();
            known.insert(name) && !listing
        };
        // Admission has counted it, but a count made before it was seen here has undone that.
        if comes {
            self.recount(&namespace);
        }
        Ok(version)
    }

    fn delete(&self, object: &str) -> Result<u64, serde_json::Error> {
        let (namespace, name, version) = names(serde_json::from_str(object)?);
        if let Some(known) = self.objects.lock().by_namespace.get_mut(&namespace) {
            known.remove(&name);
        }
        self.recount(&namespace);
        Ok(version)
    }

    fn end_replace(&self, _: u64) {
        let former = {
            let mut objects = self.objects.lock();
            let listed = objects.listed.take().unwrap_or_default();
            std::mem::replace(&mut objects.by_namespace, listed)
        };
        self.synced.send_replace(true);
        let mut namespaces: HashSet<String> = former.into_keys().collect();
        namespaces.extend(self.objects.lock().by_namespace.keys().cloned());
        namespaces.iter().for_each(|namespace| self.recount(namespace));
    }

    fn progress(&self, _: u64) {}

    fn keep(&self, namespace: &str, name: &str) {
        if let Some(listed) = &mut self.objects.lock().listed {
            listed
                .entry(namespace.to_owned())
                .or_default()
                .insert(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Informer;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn what_comes_and_what_goes_is_counted_again() {
        let quota = json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": {"hard": {"secrets": "2"}}});
        let quotas = Informer::<ResourceQuota>::fixed([serde_json::from_value(quota).expect("quota")]);
        let queue = Queue::new("test");
        let feed = Feed {
            resource: Resource::of::<Secret>(true),
            quotas: quotas.index("namespace", client::informer::by_namespace),
            queue: queue.clone(),
            objects: Mutex::default(),
            synced: watch::Sender::new(false),
        };
        let secret = |name: &str, version: u32| {
            json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string()}})
                .to_string()
        };
        let recounted = async || {
            let next = tokio::time::timeout(super::super::GATHER * 2, queue.next()).await;
            next.map(|key| queue.done(&key)).is_ok()
        };
        feed.begin_replace();
        feed.put(&secret("a", 1)).expect("put");
        assert!(!recounted().await, "a list is counted when it is complete");
        feed.end_replace(1);
        assert!(recounted().await);
        feed.put(&secret("b", 2)).expect("put");
        assert!(recounted().await, "came");
        feed.put(&secret("b", 3)).expect("put");
        assert!(!recounted().await, "only changed");
        feed.delete(&secret("b", 4)).expect("delete");
        assert!(recounted().await, "went");
        assert_eq!(feed.objects.lock().of("ns"), 1);
    }
}
