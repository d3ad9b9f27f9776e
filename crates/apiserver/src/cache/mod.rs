//! The watch cache: what the store holds, decoded enough to select and encoded at most once.
//!
//! ```text
//!  store ──one watch──► Reflector ──by key prefix──► Cache of a resource ──► Feed of a group ──► watchers
//! ```
//!
//! A cache is filled when its resource is first listed or watched. A list or get waits until the reflector has
//! delivered the store's newest revision, so what it says is as new as what the store would say.
//!
//! **Invariant:** `entries` is the state at the reflector's revision; `recent` holds every change after
//! `recent_floor`, so that the state at any revision in between can be told from the two.

mod event;
mod feed;
mod filter;
mod reflector;
mod stream;

pub use event::{Change, Entry, Event, Meta};
pub use filter::Filter;
pub use reflector::Reflector;
pub use stream::{Start, WatchStream, error_frame};

use crate::object;
use crate::registry::Resource;
use bytes::Bytes;
use feed::{Feed, Receiver};
use filter::Group;
use hashbrown::HashMap;
use machinery::Value;
use parking_lot::{Mutex, RwLock};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Recent events kept however old they are, and at most.
const RECENT_LEAST: usize = 100;
const RECENT_MOST: usize = 4096;
/// Recent events younger than this are kept, as long as there are not too many.
const RECENT_AGE: Duration = Duration::from_secs(75);
/// Events a watcher inside the server takes at once.
const CHUNK: usize = 256;

/// An entry, ordered by its key.
#[derive(Debug, Clone)]
struct ByKey(Arc<Entry>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

/// The cache of one resource.
#[derive(Debug, Default)]
pub struct Cache {
    state: RwLock<State>,
    /// Moves with every change.
    version: AtomicU64,
    /// Writes whose event is still to come, so that the event need not be decoded.
    drafts: Mutex<HashMap<Bytes, Vec<Arc<Draft>>>>,
    /// Held while the cache is filled.
    filling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    entries: BTreeSet<ByKey>,
    /// Keys whose values cannot be read: they are in no list, and the store is asked for them.
    unreadable: BTreeSet<Bytes>,
    /// Which state of the encryption's keys that was with.
    keys: u64,
    recent: VecDeque<Arc<Event>>,
    recent_floor: u64,
    /// The revision the entries were read at; events up to it are in them already.
    filled_at: u64,
    feeds: HashMap<Group, Arc<Feed>>,
}

#[derive(Debug, Default)]
enum Phase {
    /// Not asked for yet, or started over.
    #[default]
    Cold,
    /// Being filled; what happens meanwhile is kept.
    Filling(Vec<store::Event>),
    Ready,
}

/// An object on its way into the store, with all that its entry needs but the revision.
#[derive(Debug)]
pub struct Draft {
    pub key: Bytes,
    pub stored: Bytes,
    /// The revision of what it replaces; 0 if there is nothing.
    replaces: u64,
    meta: Mutex<Option<(Meta, Option<Value>)>>,
    entry: OnceLock<Arc<Entry>>,
}

impl Draft {
    /// `object` is what the bytes decode to, if that is at hand.
    pub fn new(key: Bytes, stored: Bytes, replaces: u64, meta: Meta, object: Option<Value>) -> Self {
        Self {
            key,
            stored,
            replaces,
            meta: Mutex::new(Some((meta, object))),
            entry: OnceLock::new(),
        }
    }

    /// The entry, made by whoever comes first: the writer, or the event of the write.
    pub fn entry(&self, revision: u64, create_revision: u64) -> Arc<Entry> {
        let make = || {
            let (meta, object) = self.meta.lock().take().unwrap_or_default();
            let entry = Entry::new(
                self.key.clone(),
                meta,
                revision,
                create_revision,
                self.stored.clone(),
            );
            if let Some(mut object) = object {
                object::set_resource_version(&mut object, revision);
                entry.prime_json(&object);
            }
            Arc::new(entry)
        };
        Arc::clone(self.entry.get_or_init(make))
    }
}

/// One page of a list.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<Arc<Entry>>,
    /// The revision of the list.
    pub revision: u64,
    /// The key the next page starts after, if there is one.
    pub next: Option<Bytes>,
    /// How many are left after this page; known only for lists without selectors.
    pub remaining: Option<u64>,
}

/// What of a list is asked for.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// The state at this revision; `None` for the newest.
    pub revision: Option<u64>,
    /// Start after this key.
    pub after: Option<Bytes>,
    /// 0: all.
    pub limit: usize,
}

/// Why a cache does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It was started over, and has to be filled again.
    Cold,
    TooOld(TooOld),
}

/// The cache no longer (or does not yet) knows what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    pub requested: u64,
    pub oldest: u64,
}

impl Cache {
    pub fn is_ready(&self) -> bool {
        matches!(self.state.read().phase, Phase::Ready)
    }

    /// How many objects there are, if that is known.
    pub fn count(&self) -> Option<usize> {
        let state = self.state.read();
        matches!(state.phase, Phase::Ready).then(|| state.entries.len())
    }

    /// A number that moves with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Atomic::Acquire)
    }

    /// The entry of a key; of what is not cached there is none.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.state.read().entries.get(key).map(|e| Arc::clone(&e.0))
    }

    /// The entry of a key, or that there is none; `Err` if that is not known here.
    pub fn look_up(&self, key: &[u8]) -> Result<Option<Arc<Entry>>, Refused> {
        let state = self.state.read();
        if !matches!(state.phase, Phase::Ready) {
            return Err(Refused::Cold);
        }
        // The store says why it cannot be read, or that it can by now.
        if state.unreadable.contains(key) {
            return Err(Refused::Cold);
        }
        Ok(state.entries.get(key).map(|e| Arc::clone(&e.0)))
    }

    /// The state of the encryption's keys with which something could not be read.
    pub(crate) fn unreadable_since(&self) -> Option<u64> {
        let state = self.state.read();
        (!state.unreadable.is_empty()).then_some(state.keys)
    }

    /// The names of what is left out of a list of keys that begin so, because it cannot be read.
    pub(crate) fn left_out(&self, prefix: &str) -> Vec<String> {
        let state = self.state.read();
        let from = (Bound::Included(prefix.as_bytes()), Bound::Unbounded);
        state
            .unreadable
            .range::<[u8], _>(from)
            .map_while(|key| key.strip_prefix(prefix.as_bytes()))
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// Announces a write, so that its event finds the entry made here.
    pub fn announce(&self, draft: &Arc<Draft>) {
        if self.is_ready() {
            self.drafts
                .lock()
                .entry(draft.key.clone())
                .or_default()
                .push(Arc::clone(draft));
        }
    }

    /// The write did not happen.
    pub fn withdraw(&self, draft: &Arc<Draft>) {
        let mut drafts = self.drafts.lock();
        if let Some(list) = drafts.get_mut(&draft.key) {
            list.retain(|d| !Arc::ptr_eq(d, draft));
            if list.is_empty() {
                drafts.remove(&draft.key);
            }
        }
    }

    /// Lists from what is cached; `current` is the reflector's revision, read before.
    pub fn list(
        &self,
        resource: &Resource,
        filter: &Filter,
        request: &PageRequest,
        current: u64,
    ) -> Result<Page, Refused> {
        let prefix = resource.key_prefix(&filter.namespace);
        let state = self.state.read();
        if !matches!(state.phase, Phase::Ready) {
            return Err(Refused::Cold);
        }
        let revision = match request.revision {
            None => current.max(state.newest()),
            Some(asked) if asked < state.recent_floor => {
                return Err(Refused::TooOld(TooOld {
                    requested: asked,
                    oldest: state.recent_floor,
                }));
            }
            Some(asked) => asked,
        };
        let mut page = Page {
            revision,
            ..Page::default()
        };
        let mut take = Taking {
            resource,
            filter,
            limit: request.limit,
            page: &mut page,
            seen: 0,
        };
        let past = request.revision.filter(|asked| *asked < state.newest());
        state.walk(prefix.as_bytes(), request.after.as_deref(), past, |entry| {
            take.entry(entry)
        });
        let seen = take.seen;
        if let Some(last) = page.next.take() {
            if filter.is_everything() {
                page.remaining = Some(seen - page.entries.len() as u64);
            }
            page.next = Some(last);
        }
        Ok(page)
    }

    /// Starts a watch: what happened since (or what is there), and a receiver of what comes.
    pub(crate) fn watch(
        &self,
        resource: &Resource,
        filter: &Filter,
        start: WatchStart,
    ) -> Result<Started, Refused> {
        let mut state = self.state.write();
        if !matches!(state.phase, Phase::Ready) {
            return Err(Refused::Cold);
        }
        let (mut backlog, mut initial) = (Vec::new(), Vec::new());
        match start {
            WatchStart::State => {
                let prefix = resource.key_prefix(&filter.namespace);
                state.walk(prefix.as_bytes(), None, None, |entry| {
                    if filter.matches_entry(resource, entry) {
                        initial.push(Arc::clone(entry));
                    }
                    true
                });
            }
            WatchStart::After(revision) => {
                if revision < state.recent_floor {
                    return Err(Refused::TooOld(TooOld {
                        requested: revision,
                        oldest: state.recent_floor,
                    }));
                }
                let first = state.recent.partition_point(|e| e.revision() <= revision);
                backlog.extend(state.recent.range(first..).cloned());
            }
        }
        let group = filter.group(resource);
        let receiver = state.feeds.entry(group).or_default().subscribe();
        Ok(Started {
            backlog,
            initial,
            receiver: WatchReceiver(receiver),
            revision: state.newest(),
        })
    }

    /// Closes every watch and forgets everything; the next use fills anew.
    fn reset(&self) {
        let mut state = self.state.write();
        // In an order that does not depend on the hash, so that what follows does not either.
        let mut feeds: Vec<_> = state.feeds.iter().collect();
        feeds.sort_unstable_by_key(|(group, _)| *group);
        feeds.into_iter().for_each(|(_, feed)| feed.close());
        *state = State::default();
        drop(state);
        self.drafts.lock().clear();
        self.version.fetch_add(1, Atomic::AcqRel);
    }

    fn begin_filling(&self) {
        self.state.write().phase = Phase::Filling(Vec::new());
    }

    /// Takes the state at `revision` and applies what happened meanwhile, unless the cache was started over meanwhile:
    /// then something may have happened that it was not told.
    fn fill(
        &self,
        resource: &Resource,
        (entries, unreadable): (Vec<Entry>, Vec<Bytes>),
        keys: u64,
        revision: u64,
    ) -> bool {
        let mut touched = Vec::new();
        let mut state = self.state.write();
        if !matches!(state.phase, Phase::Filling(_)) {
            return false;
        }
        state.entries = entries.into_iter().map(|e| ByKey(Arc::new(e))).collect();
        state.unreadable = unreadable.into_iter().collect();
        state.keys = keys;
        state.recent_floor = revision;
        state.filled_at = revision;
        if let Phase::Filling(events) = std::mem::replace(&mut state.phase, Phase::Ready) {
            for event in events {
                self.apply_one(resource, &mut state, event, &mut touched);
            }
        }
        drop(state);
        self.version.fetch_add(1, Atomic::AcqRel);
        true
    }

    /// Applies events of the store in order; returns the feeds whose watchers are to be woken.
    fn apply(&self, resource: &Resource, events: Vec<store::Event>) -> Vec<Arc<Feed>> {
        let mut touched: Vec<Arc<Feed>> = Vec::new();
        let mut state = self.state.write();
        match &mut state.phase {
            Phase::Cold => return touched,
            Phase::Filling(pending) => {
                pending.extend(events);
                return touched;
            }
            Phase::Ready => {}
        }
        for event in events {
            self.apply_one(resource, &mut state, event, &mut touched);
        }
        state.trim();
        drop(state);
        self.version.fetch_add(1, Atomic::AcqRel);
        touched
    }

    fn apply_one(
        &self,
        resource: &Resource,
        state: &mut State,
        event: store::Event,
        touched: &mut Vec<Arc<Feed>>,
    ) {
        let kv = event.kv;
        let revision = kv.mod_revision as u64;
        if revision <= state.filled_at {
            return;
        }
        if !state.unreadable.is_empty() {
            state.unreadable.remove(&kv.key);
        }
        let previous = state.entries.get(&kv.key[..]).map(|e| Arc::clone(&e.0));
        let event = if event.kind == store::EventKind::Delete {
            let Some(previous) = previous else { return };
            state.entries.remove(&kv.key[..]);
            Event::new(
                Change::Deleted,
                Arc::new(previous.restamped(revision)),
                Some(previous),
            )
        } else {
            let replaced = previous.as_ref().map_or(0, |previous| previous.revision);
            let entry = match self.entry_of(resource, kv, replaced) {
                Ok(entry) => entry,
                Err(key) => {
                    state.unreadable.insert(key);
                    return;
                }
            };
            state.entries.replace(ByKey(Arc::clone(&entry)));
            let change = if previous.is_some() {
                Change::Modified
            } else {
                Change::Added
            };
            Event::new(change, entry, previous)
        };
        let event = Arc::new(event);
        state.publish(resource, &event, touched);
        state.recent.push_back(event);
    }

    /// The entry of a put: the writer's, if it was announced here. Many may have announced the same bytes for one
    /// state, of whom one wrote; whoever would have replaced an older state writes no more.
    fn entry_of(&self, resource: &Resource, kv: store::KeyValue, replaced: u64) -> Result<Arc<Entry>, Bytes> {
        let mut drafts = self.drafts.lock();
        let mut draft = None;
        if let Some(list) = drafts.get_mut(&kv.key) {
            let written = |d: &&Arc<Draft>| d.replaces == replaced && d.stored == kv.value;
            draft = list.iter().find(written).cloned();
            list.retain(|d| d.replaces > replaced);
            if list.is_empty() {
                drafts.remove(&kv.key);
            }
        }
        drop(drafts);
        match draft {
            Some(draft) => Ok(draft.entry(kv.mod_revision as u64, kv.create_revision as u64)),
            None => read_entry(resource, kv).map(Arc::new),
        }
    }
}

/// A stored key as an entry; of one that cannot be read, which is logged and must not hide the rest, the key.
fn read_entry(resource: &Resource, kv: store::KeyValue) -> Result<Entry, Bytes> {
    let revision = kv.mod_revision as u64;
    match object::decode_unconverted(resource, &kv.value, revision) {
        Ok(object) => {
            let meta = Meta::of(resource, &object);
            Ok(Entry::new(
                kv.key,
                meta,
                revision,
                kv.create_revision as u64,
                kv.value,
            ))
        }
        Err(error) => {
            tracing::error!(key = %kv.key.escape_ascii(), %error, "a stored object cannot be read");
            Err(kv.key)
        }
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// With the present state.
    State,
    /// With what happened after a revision.
    After(u64),
}

/// The receiving end of a started watch.
#[derive(Debug)]
pub(crate) struct WatchReceiver(Receiver);

impl WatchReceiver {
    /// What happens next; `None` when the watcher must start over. Dropped while waiting, it loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        let mut taken = Vec::new();
        let ended = std::future::poll_fn(|cx| self.0.poll_take(cx, CHUNK, &mut taken)).await;
        ended.ok().map(|()| taken)
    }
}

/// A started watch.
#[derive(Debug)]
pub(crate) struct Started {
    /// What happened since the revision asked for.
    pub backlog: Vec<Arc<Event>>,
    /// What is there, if that was asked for.
    pub initial: Vec<Arc<Entry>>,
    pub receiver: WatchReceiver,
    /// The newest change the start includes.
    pub revision: u64,
}

struct Taking<'a> {
    resource: &'a Resource,
    filter: &'a Filter,
    limit: usize,
    page: &'a mut Page,
    seen: u64,
}

impl Taking<'_> {
    /// Whether to go on.
    fn entry(&mut self, entry: &Arc<Entry>) -> bool {
        if !self.filter.matches_entry(self.resource, entry) {
            return true;
        }
        self.seen += 1;
        if self.limit == 0 || self.page.entries.len() < self.limit {
            self.page.entries.push(Arc::clone(entry));
            return true;
        }
        self.page.next = self.page.entries.last().map(|e| e.key.clone());
        // Counting on is cheap, and only useful, when nothing is filtered.
        self.filter.is_everything()
    }
}

impl State {
    fn newest(&self) -> u64 {
        self.recent.back().map_or(self.recent_floor, |e| e.revision())
    }

    /// Calls `visit` for each entry under `prefix` after `after`, in order of keys, until it says no. With
    /// `past`, entries are as they were at that revision.
    fn walk(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        past: Option<u64>,
        mut visit: impl FnMut(&Arc<Entry>) -> bool,
    ) {
        let start = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let now = self
            .entries
            .range::<[u8], _>((start, Bound::Unbounded))
            .map(|e| &e.0);
        let now = now.take_while(|e| e.key.starts_with(prefix));
        let Some(past) = past else {
            for entry in now {
                if !visit(entry) {
                    return;
                }
            }
            return;
        };
        // What stood at a key is what the first change after that moment replaced.
        let mut before: BTreeMap<&[u8], Option<&Arc<Entry>>> = BTreeMap::new();
        let first = self.recent.partition_point(|e| e.revision() <= past);
        for event in self.recent.range(first..) {
            let key: &[u8] = &event.entry.key;
            if key.starts_with(prefix) && after.is_none_or(|a| key > a) {
                before.entry(key).or_insert(event.previous.as_ref());
            }
        }
        let unchanged = now.filter(|e| !before.contains_key(&e.key[..]));
        let mut unchanged = unchanged.peekable();
        let mut changed = before.values().filter_map(|e| *e).peekable();
        loop {
            let next = match (unchanged.peek(), changed.peek()) {
                (Some(a), Some(b)) if a.key < b.key => unchanged.next(),
                (_, Some(_)) => changed.next(),
                (Some(_), None) => unchanged.next(),
                (None, None) => return,
            };
            if next.is_none_or(|entry| !visit(entry)) {
                return;
            }
        }
    }

    /// Queues an event for every group it may concern.
    fn publish(&mut self, resource: &Resource, event: &Arc<Event>, touched: &mut Vec<Arc<Feed>>) {
        if self.feeds.is_empty() {
            return;
        }
        let meta = &event.entry.meta;
        let mut groups = vec![
            Group::All,
            Group::Namespace(meta.namespace.clone()),
            Group::Object(meta.namespace.clone(), meta.name.clone()),
        ];
        if let Some(at) = filter::indexed_field(resource) {
            let value = |e: &Entry| e.meta.fields.get(at).cloned().unwrap_or_default();
            let now = value(&event.entry);
            if let Some(before) = event.previous.as_deref().map(value).filter(|b| *b != now) {
                groups.push(Group::Indexed(before));
            }
            groups.push(Group::Indexed(now));
        }
        for group in groups {
            let Some(feed) = self.feeds.get(&group) else {
                continue;
            };
            if feed.is_unused() {
                self.feeds.remove(&group);
                continue;
            }
            feed.push(event);
            if !touched.iter().any(|f| Arc::ptr_eq(f, feed)) {
                touched.push(Arc::clone(feed));
            }
        }
    }

    fn trim(&mut self) {
        while self.recent.len() > RECENT_LEAST {
            let old = self.recent.len() > RECENT_MOST
                || self.recent.front().is_some_and(|e| e.at.elapsed() > RECENT_AGE);
            if !old {
                break;
            }
            if let Some(event) = self.recent.pop_front() {
                self.recent_floor = event.revision();
            }
        }
    }
}
