//! Config maps and secrets that pods of this node refer to, each followed by a watch of its own while some pod
//! refers to it, as upstream's watching managers do.
//!
//! **Invariant:** nothing is followed that no pod here refers to. An object marked immutable is read once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::informer::{Object, Representation, Sink};
use client::{Informers, ObjectKey, Resource, Selection};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// How long a pod waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// What the cache needs of a kind.
pub trait Followed: Object {
    /// The kind's word in messages.
    const KIND: &'static str;
    fn is_immutable(&self) -> bool;
}

impl Followed for ConfigMap {
    const KIND: &'static str = "configmap";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl Followed for Secret {
    const KIND: &'static str = "secret";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

/// Called with the UIDs of the pods that refer to what changed.
pub type OnChange = Arc<dyn Fn(&HashSet<String>) + Send + Sync>;

pub struct ObjectCache<K> {
    informers: Informers,
    on_change: OnChange,
    followed: Arc<Mutex<HashMap<ObjectKey, Entry<K>>>>,
}

struct Entry<K> {
    pods: HashSet<String>,
    slot: watch::Sender<Slot<K>>,
    stop: CancellationToken,
}

#[derive(Debug)]
enum Slot<K> {
    Unknown,
    Absent,
    Present(Arc<K>),
}

impl<K: Followed> ObjectCache<K> {
    pub fn new(informers: Informers, on_change: OnChange) -> Self {
        Self {
            informers,
            on_change,
            followed: Arc::default(),
        }
    }

    /// Says which objects a pod refers to from now on.
    pub fn refer(&self, pod: &str, keys: &HashSet<ObjectKey>) {
        let mut followed = self.followed.lock();
        for key in keys {
            let entry = followed.entry(key.clone()).or_insert_with(|| self.follow(key));
            entry.pods.insert(pod.to_owned());
        }
        followed.retain(|key, entry| {
            if !keys.contains(key) {
                entry.pods.remove(pod);
            }
            let used = !entry.pods.is_empty();
            if !used {
                entry.stop.cancel();
            }
            used
        });
    }

    /// The object as it is now; `None` when it does not exist. The pod must have referred to it.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<K>>> {
        let mut slot = match self.followed.lock().get(key) {
            Some(entry) => entry.slot.subscribe(),
            None => return Err(Error::Pod(format!("object {key} not registered"))),
        };
        let known = slot.wait_for(|slot| !matches!(slot, Slot::Unknown));
        match tokio::time::timeout(FIRST_ANSWER, known).await {
            Ok(Ok(slot)) => Ok(match &*slot {
                Slot::Present(object) => Some(object.clone()),
                Slot::Absent | Slot::Unknown => None,
            }),
            Ok(Err(_)) | Err(_) => Err(Error::Pod(format!(
                "failed to sync {} cache: timed out waiting for the condition",
                K::KIND
            ))),
        }
    }

    fn follow(&self, key: &ObjectKey) -> Entry<K> {
        let slot = watch::Sender::new(Slot::Unknown);
        let sink = One {
            key: key.clone(),
            slot: slot.clone(),
            followed: Arc::downgrade(&self.followed),
            on_change: self.on_change.clone(),
            in_list: Mutex::new(None),
        };
        let selection =
            Selection::in_namespace(&key.namespace).with_fields(&format!("metadata.name={}", key.name));
        let stop = self.informers.reflect(
            Resource::of::<K>(true),
            selection,
            Representation::Whole,
            Arc::new(sink),
        );
        Entry {
            pods: HashSet::new(),
            slot,
            stop,
        }
    }
}

/// Receives the one object.
struct One<K> {
    key: ObjectKey,
    slot: watch::Sender<Slot<K>>,
    followed: std::sync::Weak<Mutex<HashMap<ObjectKey, Entry<K>>>>,
    on_change: OnChange,
    /// While a list is received: whether it had the object.
    in_list: Mutex<Option<bool>>,
}

impl<K: Followed> One<K> {
    fn set(&self, slot: Slot<K>) {
        let first = matches!(*self.slot.borrow(), Slot::Unknown);
        let immutable = matches!(&slot, Slot::Present(object) if object.is_immutable());
        self.slot.send_replace(slot);
        let Some(followed) = self.followed.upgrade() else {
            return;
        };
        let pods = {
            let followed = followed.lock();
            let Some(entry) = followed.get(&self.key) else {
                return;
            };
            if immutable {
                entry.stop.cancel();
            }
            entry.pods.clone()
        };
        if !first {
            (self.on_change)(&pods);
        }
    }
}

impl<K: Followed> Sink for One<K> {
    fn begin_replace(&self) {
        *self.in_list.lock() = Some(false);
    }

    fn put(&self, object: &str) -> Result<u64, serde_json::Error> {
        let object: K = serde_json::from_str(object)?;
        let version = version(&object);
        // A server that does not know the field selector sends others too.
        if object.meta().name.as_deref() != Some(&self.key.name) {
            return Ok(version);
        }
        if let Some(seen) = self.in_list.lock().as_mut() {
            *seen = true;
        }
        let unchanged = matches!(&*self.slot.borrow(), Slot::Present(known)
            if known.meta().resource_version == object.meta().resource_version);
        if !unchanged {
            self.set(Slot::Present(Arc::new(object)));
        }
        Ok(version)
    }

    fn delete(&self, object: &str) -> Result<u64, serde_json::Error> {
        let object: K = serde_json::from_str(object)?;
        if object.meta().name.as_deref() == Some(&self.key.name) {
            self.set(Slot::Absent);
        }
        Ok(version(&object))
    }

    fn end_replace(&self, _: u64) {
        if self.in_list.lock().take() == Some(false) && !matches!(*self.slot.borrow(), Slot::Absent) {
            self.set(Slot::Absent);
        }
    }

    fn progress(&self, _: u64) {}

    fn keep(&self, _: &str, _: &str) {
        if let Some(seen) = self.in_list.lock().as_mut() {
            *seen = true;
        }
    }
}

fn version<K: Object>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}
