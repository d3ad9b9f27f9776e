//! The store behind an informer: slots of `Arc<K>`, found by key and by index, and the subscribers.
//!
//! Locks, always in this order: `subscribers` (held while a change is announced, so announcements keep the
//! store's order), then `state` (held only while it is read or changed).

use super::index::{Index, IndexFn};
use super::reflector::Sink;
use super::{Event, Object, ObjectKey};
use compact_str::CompactString;
use hashbrown::HashMap;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use machinery::level::Level;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A shared, indexed view of all objects of a type (or a selection of them).
pub struct Informer<K>(Arc<Store<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

type Subscriber<K> = Box<dyn Fn(&Event<K>) + Send + Sync>;

struct Store<K> {
    state: RwLock<State<K>>,
    subscribers: Mutex<Vec<Subscriber<K>>>,
    /// 1 when the first list is in the store and announced.
    synced: Level,
}

struct State<K> {
    slots: Vec<Option<Slot<K>>>,
    free: Vec<u32>,
    by_key: HashMap<ObjectKey, u32>,
    indexes: Vec<IndexState<K>>,
    /// Which list is being received; a slot not put since then is stale when the list ends.
    generation: u32,
    /// Everything up to this resource version has come through the watch.
    seen: u64,
    /// Uids whose deletion the server has accepted although the watch does not say so yet, and since when.
    deleting: HashMap<CompactString, Timestamp>,
}

struct Slot<K> {
    object: Arc<K>,
    resource_version: u64,
    generation: u32,
}

struct IndexState<K> {
    name: &'static str,
    values: IndexFn<K>,
    slots: HashMap<CompactString, BTreeSet<u32>>,
}

impl<K: Object> Informer<K> {
    pub(super) fn empty() -> Self {
        Self(Arc::new(Store {
            state: RwLock::new(State {
                slots: Vec::new(),
                free: Vec::new(),
                by_key: HashMap::new(),
                indexes: Vec::new(),
                generation: 0,
                seen: 0,
                deleting: HashMap::new(),
            }),
            subscribers: Mutex::new(Vec::new()),
            synced: Level::default(),
        }))
    }

    /// An informer that is fed by hand, for tests of what uses one. It counts as synced.
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self {
        let informer = Self::empty();
        for object in objects {
            informer.0.put(object, Origin::Watch);
        }
        informer.0.synced.set(1);
        informer
    }

    pub(super) fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.0) as Arc<dyn Sink>
    }

    /// The object of this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let state = self.0.state.read();
        let slot = *state.by_key.get(key)?;
        state.slots[slot as usize].as_ref().map(|s| Arc::clone(&s.object))
    }

    /// The object of this namespace and name; the namespace of cluster-scoped ones is empty.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&ObjectKey::new(namespace, name))
    }

    /// All objects, in an order that depends on nothing but what happened.
    pub fn list(&self) -> Vec<Arc<K>> {
        let state = self.0.state.read();
        state
            .slots
            .iter()
            .flatten()
            .map(|s| Arc::clone(&s.object))
            .collect()
    }

    pub fn len(&self) -> usize {
        self.0.state.read().by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object now in the store and for every change from now on.
    pub fn subscribe(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        let mut subscribers = self.0.subscribers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        subscribers.push(Box::new(handler));
    }

    /// An index by `values`, shared by all who ask for the same name and the same values. Components that know nothing of
    /// each other may choose one name for different things, and then have an index each.
    pub fn index(&self, name: &'static str, values: IndexFn<K>) -> Index<K> {
        let mut state = self.0.state.write();
        let position = match state
            .indexes
            .iter()
            .position(|i| i.name == name && std::ptr::fn_addr_eq(i.values, values))
        {
            Some(position) => position,
            None => {
                let mut index = IndexState {
                    name,
                    values,
                    slots: HashMap::new(),
                };
                for (id, slot) in (0u32..).zip(&state.slots) {
                    if let Some(slot) = slot {
                        index.insert(&slot.object, id);
                    }
                }
                state.indexes.push(index);
                state.indexes.len() - 1
            }
        };
        Index {
            informer: self.clone(),
            position,
        }
    }

    pub(super) fn indexed(&self, position: usize, value: &str) -> Vec<Arc<K>> {
        let state = self.0.state.read();
        let Some(slots) = state.indexes[position].slots.get(value) else {
            return Vec::new();
        };
        slots
            .iter()
            .filter_map(|id| state.slots[*id as usize].as_ref())
            .map(|slot| Arc::clone(&slot.object))
            .collect()
    }

    pub(super) fn count_indexed(&self, position: usize, value: &str) -> usize {
        self.0.state.read().indexes[position]
            .slots
            .get(value)
            .map_or(0, BTreeSet::len)
    }

    /// Whether the first list is in the store and announced.
    pub fn has_synced(&self) -> bool {
        self.0.synced.get() > 0
    }

    /// Waits until [`Self::has_synced`].
    pub async fn synced(&self) {
        self.0.synced.reaches(1).await;
    }

    /// Everything up to this resource version has come through the watch.
    pub fn seen(&self) -> u64 {
        self.0.state.read().seen
    }

    /// Puts the server's answer to a write into the store, unless the watch has gone past it already.
    /// Only for informers of everything: a selection might not hold the object.
    pub fn written(&self, object: K) {
        self.0.put(object, Origin::Write);
    }

    /// Shows an object as being deleted from now on: the server has accepted its deletion.
    pub fn deleting(&self, key: &ObjectKey, uid: &str, now: Timestamp) {
        let marked = {
            let mut state = self.0.state.write();
            let Some(object) = state
                .current(key)
                .filter(|o| o.meta().uid.as_deref() == Some(uid))
            else {
                return;
            };
            if object.meta().deletion_timestamp.is_some() {
                return;
            }
            state.deleting.insert(CompactString::from(uid), now);
            (*object).clone()
        };
        self.0.put(marked, Origin::Again);
    }

    /// Takes an object out of the store: the server says it is gone.
    pub fn gone(&self, key: &ObjectKey, uid: &str) {
        let subscribers = self.0.subscribers.lock();
        let removed = {
            let mut state = self.0.state.write();
            match state.current(key) {
                Some(object) if object.meta().uid.as_deref() == Some(uid) => state.remove(key),
                _ => None,
            }
        };
        announce(&subscribers, removed.map(Event::Deleted));
    }
}

/// Where an object comes from, which decides when it is too old to matter.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// The list or watch.
    Watch,
    /// The answer to one of our writes.
    Write,
    /// The store itself: only marks changed.
    Again,
}

fn announce<K>(subscribers: &[Subscriber<K>], events: impl IntoIterator<Item = Event<K>>) {
    for event in events {
        for subscriber in subscribers {
            subscriber(&event);
        }
    }
}

impl<K: Object> Store<K> {
    fn put(&self, mut object: K, origin: Origin) -> u64 {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        let version = meta
            .resource_version
            .as_deref()
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let key = ObjectKey::of(&object);
        let subscribers = self.subscribers.lock();
        let events = self
            .state
            .write()
            .put(key, object, version, origin, self.synced.get() > 0);
        announce(&subscribers, events.into_iter().flatten());
        version
    }
}

impl<K: Object> State<K> {
    fn current(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let slot = *self.by_key.get(key)?;
        self.slots[slot as usize].as_ref().map(|s| Arc::clone(&s.object))
    }

    fn put(
        &mut self,
        key: ObjectKey,
        mut object: K,
        version: u64,
        origin: Origin,
        synced: bool,
    ) -> [Option<Event<K>>; 2] {
        if origin == Origin::Write && (!synced || version <= self.seen) {
            return [None, None];
        }
        if let Some(uid) = object.meta().uid.as_deref()
            && let Some(since) = self.deleting.get(uid)
        {
            if object.meta().deletion_timestamp.is_none() {
                object.meta_mut().deletion_timestamp = Some(Time(*since));
            } else {
                self.deleting.remove(uid);
            }
        }
        let generation = self.generation;
        let Some(&id) = self.by_key.get(&key) else {
            return if origin == Origin::Again {
                [None, None]
            } else {
                [Some(self.add(key, object, version)), None]
            };
        };
        let Some(slot) = self.slots[id as usize].as_mut() else {
            return [None, None];
        };
        slot.generation = generation;
        let same = slot.object.meta().uid == object.meta().uid;
        if origin != Origin::Again && version != 0 && slot.resource_version >= version {
            return [None, None];
        }
        if !same {
            let gone = self.remove(&key).map(Event::Deleted);
            return [gone, Some(self.add(key, object, version))];
        }
        let new = Arc::new(object);
        let old = std::mem::replace(&mut slot.object, Arc::clone(&new));
        slot.resource_version = version.max(slot.resource_version);
        for index in &mut self.indexes {
            index.replace(&old, &new, id);
        }
        [Some(Event::Updated { old, new }), None]
    }

    fn add(&mut self, key: ObjectKey, object: K, resource_version: u64) -> Event<K> {
        let object = Arc::new(object);
        let slot = Some(Slot {
            object: Arc::clone(&object),
            resource_version,
            generation: self.generation,
        });
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                // More than four billion objects of one type do not fit into memory.
                u32::try_from(self.slots.len() - 1).expect("slots are numbered with 32 bits")
            }
        };
        self.by_key.insert(key, id);
        for index in &mut self.indexes {
            index.insert(&object, id);
        }
        Event::Added(object)
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let id = self.by_key.remove(key)?;
        let slot = self.slots[id as usize].take()?;
        for index in &mut self.indexes {
            index.remove(&slot.object, id);
        }
        self.free.push(id);
        Some(slot.object)
    }
}

impl<K: Object> IndexState<K> {
    fn values_of(&self, object: &K) -> Vec<CompactString> {
        let mut values = Vec::with_capacity(1);
        (self.values)(object, &mut values);
        values
    }

    fn insert(&mut self, object: &K, id: u32) {
        for value in self.values_of(object) {
            self.slots.entry(value).or_default().insert(id);
        }
    }

    fn remove(&mut self, object: &K, id: u32) {
        for value in self.values_of(object) {
            if let Some(slots) = self.slots.get_mut(&value) {
                slots.remove(&id);
                if slots.is_empty() {
                    self.slots.remove(&value);
                }
            }
        }
    }

    fn replace(&mut self, old: &K, new: &K, id: u32) {
        if self.values_of(old) != self.values_of(new) {
            self.remove(old, id);
            self.insert(new, id);
        }
    }
}

impl<K: Object> Sink for Store<K> {
    fn begin_replace(&self) {
        let mut state = self.state.write();
        state.generation = state.generation.wrapping_add(1);
    }

    fn put(&self, object: &str) -> Result<u64, serde_json::Error> {
        Ok(self.put(crate::decode::from_str(object)?, Origin::Watch))
    }

    fn delete(&self, object: &str) -> Result<u64, serde_json::Error> {
        let object: K = crate::decode::from_str(object)?;
        let meta = object.meta();
        let version = meta
            .resource_version
            .as_deref()
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let subscribers = self.subscribers.lock();
        let removed = {
            let mut state = self.state.write();
            if let Some(uid) = meta.uid.as_deref() {
                state.deleting.remove(uid);
            }
            let key = ObjectKey::of(&object);
            match state.current(&key) {
                // Its successor of the same name may be here already, by `written`.
                Some(current) if current.meta().uid == meta.uid => state.remove(&key),
                _ => None,
            }
        };
        announce(&subscribers, removed.map(Event::Deleted));
        Ok(version)
    }

    fn end_replace(&self, resource_version: u64) {
        let subscribers = self.subscribers.lock();
        let gone = {
            let mut state = self.state.write();
            let generation = state.generation;
            let stale: Vec<ObjectKey> = state
                .slots
                .iter()
                .flatten()
                .filter(|s| s.generation != generation && s.resource_version <= resource_version)
                .map(|s| ObjectKey::of(&*s.object))
                .collect();
            state.deleting.clear();
            state.seen = resource_version;
            stale
                .iter()
                .filter_map(|key| state.remove(key))
                .collect::<Vec<_>>()
        };
        announce(&subscribers, gone.into_iter().map(Event::Deleted));
        drop(subscribers);
        self.synced.set(1);
    }

    fn progress(&self, resource_version: u64) {
        let mut state = self.state.write();
        state.seen = state.seen.max(resource_version);
    }

    fn keep(&self, namespace: &str, name: &str) {
        let mut state = self.state.write();
        let generation = state.generation;
        if let Some(&id) = state.by_key.get(&ObjectKey::new(namespace, name))
            && let Some(slot) = state.slots[id as usize].as_mut()
        {
            slot.generation = generation;
        }
    }
}
