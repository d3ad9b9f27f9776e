//! The one watch on the store, and how caches are filled and kept.
//!
//! **Invariant:** `revision` is published only after every event up to it is applied to its cache, so whoever
//! has seen revision R there finds R's changes in the caches.

use super::{Entry, Feed, read_entry};
use crate::registry::Resource;
use bytes::Bytes;
use futures::StreamExt as _;
use hashbrown::HashMap;
use machinery::level::Level;
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;
use store::{KeyRange, ProgressHandle, RangeRequest, Store, WatchRequest};
use tokio_util::sync::CancellationToken;

/// Everything is stored below this.
pub(super) const ROOT: &str = "/registry/";

/// How long a reader waits for the watch to deliver by itself before it asks for progress.
const PATIENCE: Duration = Duration::from_millis(10);
/// Keys read at once when a cache is filled.
const FILL_PAGE: usize = 5_000;

/// Reads the store's changes and hands them to the caches.
pub struct Reflector {
    store: Arc<dyn Store>,
    encryption: Option<Arc<encryption::Sealed>>,
    /// Caches by key prefix, without [`ROOT`] and the slash at the end.
    resources: RwLock<HashMap<Box<[u8]>, Arc<Resource>>>,
    revision: Level,
    progress: RwLock<Option<ProgressHandle>>,
}

impl Reflector {
    /// Begins to watch; the task ends with `shutdown`.
    pub async fn start(
        store: Arc<dyn Store>,
        encryption: Option<Arc<encryption::Sealed>>,
        shutdown: CancellationToken,
    ) -> store::Result<Arc<Self>> {
        let reflector = Arc::new(Self {
            store,
            encryption,
            resources: RwLock::default(),
            revision: Level::default(),
            progress: RwLock::default(),
        });
        let (watch, revision) = reflector.begin().await?;
        reflector.revision.set(revision);
        let task = Arc::clone(&reflector);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = task.run(watch) => {}
            }
            task.reset_all();
        });
        Ok(reflector)
    }

    pub fn register(&self, resource: &Arc<Resource>) {
        let key = resource.prefix[ROOT.len()..]
            .trim_end_matches('/')
            .as_bytes()
            .into();
        self.resources.write().insert(key, Arc::clone(resource));
    }

    pub fn unregister(&self, resource: &Resource) {
        let key = resource.prefix[ROOT.len()..].trim_end_matches('/').as_bytes();
        if let Some(resource) = self.resources.write().remove(key) {
            resource.cache.reset();
        }
    }

    /// Ends every watch, in the order of the keys.
    fn reset_all(&self) {
        let mut all: Vec<Arc<Resource>> = self.resources.read().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
        all.iter().for_each(|resource| resource.cache.reset());
    }

    /// Everything up to this revision is in the caches.
    pub fn revision(&self) -> u64 {
        self.revision.get()
    }

    /// Waits until the caches hold what the store holds now; returns a revision at least as new.
    pub async fn fresh(&self) -> store::Result<u64> {
        let newest = self.store.current_revision().await? as u64;
        self.wait_for(newest).await?;
        Ok(newest.max(self.revision()))
    }

    /// Waits until the caches hold `revision`.
    pub async fn wait_for(&self, revision: u64) -> store::Result<()> {
        if self.revision() >= revision {
            return Ok(());
        }
        loop {
            let arrived = tokio::time::timeout(PATIENCE, self.revision.reaches(revision)).await;
            match arrived {
                Ok(()) => return Ok(()),
                // Changes outside our keys move the store's revision without an event.
                Err(_) => {
                    if let Some(progress) = self.progress.read().clone() {
                        progress.request();
                    }
                }
            }
        }
    }

    /// Fills a resource's cache unless that is done already.
    pub async fn ensure(&self, resource: &Resource) -> store::Result<()> {
        if resource.cache.is_ready() {
            // What could not be read may be readable since keys came or a plugin answers again.
            let keys = self.keys();
            if keys == 0
                || resource
                    .cache
                    .unreadable_since()
                    .is_none_or(|since| since == keys)
            {
                return Ok(());
            }
            resource.cache.reset();
        }
        let _filling = resource.cache.filling.lock().await;
        while !resource.cache.is_ready() {
            resource.cache.begin_filling();
            let keys = self.keys();
            match self.read_all(resource).await {
                Ok((read, revision)) => resource.cache.fill(resource, read, keys, revision),
                Err(error) => {
                    resource.cache.reset();
                    return Err(error);
                }
            };
        }
        Ok(())
    }

    /// Counts changes of the keys values are encrypted with; 0 if nothing is.
    fn keys(&self) -> u64 {
        self.encryption
            .as_ref()
            .map_or(0, |encryption| encryption.generation())
    }

    /// The entries, the keys of those that cannot be read, and the revision.
    async fn read_all(&self, resource: &Resource) -> store::Result<((Vec<Entry>, Vec<Bytes>), u64)> {
        let prefix = resource.prefix.as_bytes();
        let mut range = KeyRange::prefix(prefix.to_vec());
        let (mut entries, mut unreadable, mut revision) = (Vec::new(), Vec::new(), 0);
        loop {
            let page = self
                .store
                .range(RangeRequest::new(range).at(revision).limit(FILL_PAGE))
                .await?;
            if revision == 0 {
                revision = page.revision;
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            for kv in page.kvs {
                match read_entry(resource, kv) {
                    Ok(entry) => entries.push(entry),
                    Err(key) => unreadable.push(key),
                }
            }
            match last.filter(|_| page.more) {
                Some(last) => range = KeyRange::prefix_from(prefix, [&last[..], b"\0"].concat()),
                None => return Ok(((entries, unreadable), revision as u64)),
            }
        }
    }

    /// A watch, and the revision it starts after.
    async fn begin(&self) -> store::Result<(store::Watch, u64)> {
        let revision = self.store.current_revision().await?;
        let request = WatchRequest::new(KeyRange::prefix(ROOT), revision + 1).progress();
        let watch = self.store.watch(request).await?;
        *self.progress.write() = Some(watch.progress_handle());
        Ok((watch, revision as u64))
    }

    async fn run(&self, mut watch: store::Watch) {
        loop {
            while let Some(batch) = watch.next().await {
                match batch {
                    Ok(batch) => self.deliver(batch),
                    Err(error) => {
                        tracing::warn!(%error, "the watch on the store ended; starting over");
                        break;
                    }
                }
            }
            let mut wait = Duration::from_millis(100);
            watch = loop {
                match self.begin().await {
                    Ok((watch, revision)) => {
                        // Nothing cached can be trusted over the gap: every watcher lists again. Not before the new
                        // watch stands, or what is cached anew would miss what happens until then.
                        self.reset_all();
                        self.revision.set(revision);
                        break watch;
                    }
                    Err(store::Error::Closed) => return,
                    Err(error) => {
                        tracing::warn!(%error, "watching the store");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_secs(5));
                    }
                }
            };
        }
    }

    fn deliver(&self, batch: store::Batch) {
        let mut touched: Vec<Arc<Feed>> = Vec::new();
        let mut events = batch.events.into_iter().peekable();
        while let Some(event) = events.next() {
            let Some(resource) = self.resource_of(&event.kv.key) else {
                continue;
            };
            let mut run = vec![event];
            while let Some(next) = events.next_if(|next| next.kv.key.starts_with(resource.prefix.as_bytes()))
            {
                run.push(next);
            }
            touched.extend(resource.cache.apply(&resource, run));
        }
        if batch.revision as u64 > self.revision() {
            self.revision.set(batch.revision as u64);
        }
        // Watchers come after the revision, so that a woken watcher's bookmark is as new as its events.
        for feed in touched {
            feed.wake();
        }
    }

    /// Prefixes have one segment (`pods`) or two (`services/specs`, `apiregistration.k8s.io/apiservices`).
    fn resource_of(&self, key: &[u8]) -> Option<Arc<Resource>> {
        let rest = key.strip_prefix(ROOT.as_bytes())?;
        let mut slashes = memchr::memchr_iter(b'/', rest);
        let first = slashes.next()?;
        let resources = self.resources.read();
        slashes
            .next()
            .and_then(|second| resources.get(&rest[..second]))
            .or_else(|| resources.get(&rest[..first]))
            .cloned()
    }
}

impl std::fmt::Debug for Reflector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reflector")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}
