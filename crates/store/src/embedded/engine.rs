//! The [`Store`] that callers hold: reads answered here, changes handed to the writer.

use super::disk::{DataDir, Disk, LOGS, TABLES};
use super::draft::Draft;
use super::feed;
use super::hub::Hub;
use super::inbox::{Inbox, Request};
use super::index::{Hits, Index};
use super::keeper::{Desk, Keeper, died};
use super::log::Log;
use super::record::{Position, Version};
use super::storage::{Changes, Fault, Snapshot, State, Storage, unavailable};
use super::writer::{Lazy, Writer, decode};
use crate::lease::{Lessor, Revoke};
use crate::{
    Error, GetResponse, Lease, LeaseId, RangeRequest, RangeResponse, Result, Select, Status, Store, Txn,
    TxnResponse, Watch, WatchRequest, validate,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How much the engine may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pages of the file held in memory.
    pub cache_bytes: usize,
    /// The newest changes held in memory, for watches that catch up and for reads.
    pub recent_bytes: usize,
    /// Each of the two files of the log. What they hold is in memory too, until the tables have it.
    pub log_bytes: usize,
    /// A transaction of more bytes is refused.
    pub txn_bytes: usize,
    /// What may wait for one watch before it has to read history.
    pub watch_records: usize,
    pub watch_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            recent_bytes: 2 << 20,
            log_bytes: 2 << 20,
            txn_bytes: 8 << 20,
            watch_records: 4096,
            watch_bytes: 4 << 20,
        }
    }
}

/// The embedded engine. Dropping it closes it.
///
/// It answers from threads of its own, which a paused tokio clock does not wait for: a test on a virtual clock
/// takes [`Memory`](crate::Memory).
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    /// The writer, and then the keeper, which ends after it.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the engine, its writer and its watches share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) storage: Storage,
    pub(crate) index: RwLock<Index>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) lessor: Lessor,
    pub(crate) inbox: Inbox,
    pub(crate) desk: Desk,
}

/// A range of at most this many keys is answered on the caller's thread.
const INLINE_KEYS: usize = 64;

impl Embedded {
    /// Opens or makes the store in a data directory. Must be called inside a tokio runtime.
    pub async fn open(dir: &Path, options: Options) -> Result<Self> {
        let dir = dir.to_owned();
        Self::start(move || Ok(Arc::new(DataDir::lock(&dir)?)), options).await
    }

    /// The same on any disk.
    pub async fn on_disk(disk: Arc<dyn Disk>, options: Options) -> Result<Self> {
        Self::start(move || Ok(disk), options).await
    }

    async fn start(
        disk: impl FnOnce() -> Result<Arc<dyn Disk>> + Send + 'static,
        options: Options,
    ) -> Result<Self> {
        let load = move || load(disk()?, options);
        let (shared, state, log) = tokio::task::spawn_blocking(load)
            .await
            .map_err(|error| unavailable("opening was interrupted", Some(Arc::new(error))))??;
        let shared = Arc::new(shared);
        let store = Self {
            shared: shared.clone(),
            threads: Mutex::new(Vec::new()),
        };
        store.restore_leases(&state);
        let keeper = Keeper::new(shared.clone(), state.purged_to);
        let writer = Writer::new(shared, log);
        store.spawn("store-writer", move || writer.run())?;
        store.spawn("store-keeper", move || keeper.run())?;
        Ok(store)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|error| unavailable("cannot start a thread", Some(Arc::new(error))))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn restore_leases(&self, state: &State) {
        for (id, ttl) in &state.leases {
            self.shared
                .lessor
                .grant(*id, Duration::from_secs(*ttl), &self.revoke());
        }
        if !state.leases.is_empty() {
            let index = self.shared.index.read();
            for (key, version) in index.versions(&crate::KeyRange::all()) {
                self.shared.lessor.attach(key, 0, version.lease);
            }
        }
    }

    /// How the lessor ends a lease.
    fn revoke(&self) -> Revoke {
        let weak = Arc::downgrade(&self.shared);
        Arc::new(move |id| {
            let shared = weak.upgrade();
            Box::pin(async move {
                let Some(shared) = shared else { return true };
                match shared.inbox.ask(|reply| Request::Revoke(id, reply)).await {
                    Ok(()) | Err(Error::LeaseNotFound(_) | Error::Closed) => true,
                    Err(error) => {
                        tracing::warn!(lease = id, %error, "cannot end an expired lease, trying again");
                        false
                    }
                }
            })
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.inbox.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Ends both threads. Blocks until what is under way is done.
    fn stop(&self) -> impl FnOnce() -> Result<()> + Send + 'static {
        self.shared.inbox.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        move || {
            let joined: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
            if joined.iter().all(|joined| joined.is_ok()) {
                Ok(())
            } else {
                Err(died())
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.stop()() {
            tracing::error!(%error, "closing the store");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &[u8]) -> Result<GetResponse> {
        self.check_open()?;
        self.shared.read(|| {
            let index = self.shared.index.read();
            let revision = index.revision;
            let Some((key, version)) = index.live(key) else {
                return Ok(GetResponse { kv: None, revision });
            };
            if let Some(record) = index.recent(version.position) {
                return Ok(GetResponse {
                    kv: Some(record.kv()),
                    revision,
                });
            }
            let snapshot = self.shared.storage.snapshot()?;
            drop(index);
            let value = snapshot.required(version.position)?;
            Ok(GetResponse {
                kv: Some(version.with(key, value)),
                revision,
            })
        })
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.check_open()?;
        let few = request.range.single().is_some() || (1..=INLINE_KEYS).contains(&request.limit);
        if request.revision == 0 && (few || request.select == Select::CountOnly) {
            return self.shared.read(|| self.shared.range(&request));
        }
        let shared = self.shared.clone();
        self.shared
            .blocking(move || shared.read(|| shared.range(&request)))
            .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let (size, limit) = (txn.size(), self.shared.options.txn_bytes);
        if size > limit {
            return Err(Error::TooLarge { size, limit });
        }
        validate::txn(&txn)?;
        if txn.is_read_only() {
            self.check_open()?;
            return self.shared.read(|| decide(&self.shared, &txn));
        }
        self.shared.inbox.ask(|reply| Request::Txn(txn, reply)).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        self.check_open()?;
        feed::watch(&self.shared, request)
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        self.shared
            .inbox
            .ask(|reply| Request::Compact(revision, reply))
            .await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let ttl = Lessor::round(ttl);
        let id = self
            .shared
            .inbox
            .ask(|reply| Request::Grant(ttl.as_secs(), reply))
            .await?;
        self.shared.lessor.grant(id, ttl, &self.revoke());
        Ok(Lease { id, ttl })
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.check_open()?;
        self.shared.lessor.keep_alive(id)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.shared.inbox.ask(|reply| Request::Revoke(id, reply)).await
    }

    async fn current_revision(&self) -> Result<i64> {
        self.check_open()?;
        Ok(self.shared.index.read().revision)
    }

    async fn status(&self) -> Result<Status> {
        self.check_open()?;
        let disk = self.shared.storage.disk();
        let files = [TABLES, LOGS[0], LOGS[1]].map(|name| disk.open(name).and_then(|file| file.size()));
        // Only a metric: a file that cannot be looked at shows by its other errors.
        let size = files.into_iter().filter_map(|size| size.ok()).sum();
        let index = self.shared.index.read();
        Ok(Status {
            revision: index.revision,
            compact_revision: index.compact_revision,
            size,
            size_in_use: index.stored,
            keys: index.live_keys(),
        })
    }

    async fn close(&self) -> Result<()> {
        self.shared.blocking(self.stop()).await
    }
}

impl Shared {
    /// Does a read, opening the file anew if an earlier error has shut it.
    pub(crate) fn read<T>(&self, access: impl Fn() -> Result<T, Fault>) -> Result<T> {
        let generation = self.storage.generation();
        match access() {
            Ok(found) => return Ok(found),
            Err(Fault::Failed(error)) => return Err(error),
            Err(Fault::Shut) => self.storage.reopen(generation)?,
        }
        match access() {
            Ok(found) => Ok(found),
            Err(Fault::Failed(error)) => Err(error),
            Err(Fault::Shut) => Err(unavailable("the file was shut by an input/output error", None)),
        }
    }

    /// Runs what may take long off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| unavailable("reading was interrupted", Some(Arc::new(error))))?
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Fault> {
        let index = self.index.read();
        let revision = index.revision;
        validate::readable(request.revision, revision, index.compact_revision)?;
        let wants_values = request.select == Select::Full;
        let (hits, snapshot) = if wants_values || request.revision > 0 {
            let snapshot = self.storage.snapshot()?;
            (index.scan(request, &snapshot)?, Some(snapshot))
        } else {
            (index.scan_newest(request), None)
        };
        let Hits { keys, count, more } = hits;
        let kvs = match snapshot.filter(|_| wants_values) {
            None => keys
                .into_iter()
                .map(|(key, version)| version.with(key, Bytes::new()))
                .collect(),
            Some(snapshot) => {
                let recent: Vec<Option<Bytes>> = keys
                    .iter()
                    .map(|(_, at)| index.recent(at.position).map(|found| found.value.clone()))
                    .collect();
                drop(index);
                fetch(keys, recent, &snapshot)?
            }
        };
        Ok(RangeResponse {
            kvs,
            more,
            count,
            revision,
        })
    }
}

/// A transaction that changes nothing, without the writer.
fn decide(shared: &Shared, txn: &Txn) -> Result<TxnResponse, Fault> {
    let index = shared.index.read();
    Draft::new(&index, &Lazy::new(shared), &|id| shared.lessor.exists(id)).txn(txn)
}

/// Fills in the values. Those on disk are read in the order they lie there.
fn fetch(
    keys: Vec<(Bytes, Version)>,
    recent: Vec<Option<Bytes>>,
    snapshot: &Snapshot,
) -> Result<Vec<crate::KeyValue>, Fault> {
    let mut missing: Vec<(Position, usize)> = keys
        .iter()
        .zip(&recent)
        .enumerate()
        .filter(|(_, (_, recent))| recent.is_none())
        .map(|(place, ((_, version), _))| (version.position, place))
        .collect();
    missing.sort_unstable();
    let mut values: Vec<Bytes> = recent.into_iter().map(Option::unwrap_or_default).collect();
    snapshot.values(&missing, |place, value| values[place] = value)?;
    Ok(keys
        .into_iter()
        .zip(values)
        .map(|((key, version), value)| version.with(key, value))
        .collect())
}

/// Everything that is done before the store can serve: the tables, then what the log has beyond them.
fn load(disk: Arc<dyn Disk>, options: Options) -> Result<(Shared, State, Log)> {
    Log::create(&*disk, options.log_bytes as u64)?;
    let storage = Storage::open(disk.clone(), options.cache_bytes)?;
    let mut index = Index::new(options.recent_bytes);
    let mut read = || -> Result<State, Fault> {
        let snapshot = storage.snapshot()?;
        snapshot.walk(Position::default(), |entry| {
            index.load(&entry);
            ControlFlow::Continue(())
        })?;
        snapshot.state()
    };
    let loaded = |fault| match fault {
        Fault::Failed(error) => error,
        Fault::Shut => unavailable("an input/output error while loading", None),
    };
    let mut state = read().map_err(loaded)?;
    let saved = state.sequence;
    index.apply(&Changes {
        compact_revision: Some(state.compact_revision),
        next_lease: Some(state.next_lease),
        sequence: Some(saved),
        ..Changes::default()
    });
    index.saved_sequence = saved;
    let mut sequence = saved;
    let log = Log::open(disk, state.secret, options.log_bytes as u64, saved, |payload| {
        sequence += 1;
        let changes = Changes {
            sequence: Some(sequence),
            ..decode(payload)?
        };
        for (id, ttl) in &changes.leases {
            state.leases.retain(|(known, _)| known != id);
            state.leases.extend(ttl.map(|ttl| (*id, ttl)));
        }
        index.apply(&changes);
        Some(())
    })?;
    if sequence > saved {
        let changes = index.unsaved();
        storage.commit(storage.generation(), &changes).map_err(loaded)?;
        index.saved(&changes);
    }
    let hub = Arc::new(Hub::new(
        index.revision,
        options.watch_records,
        options.watch_bytes,
    ));
    let (index, lessor, inbox, desk) = (
        RwLock::new(index),
        Lessor::default(),
        Inbox::default(),
        Desk::default(),
    );
    Ok((
        Shared {
            options,
            storage,
            index,
            hub,
            lessor,
            inbox,
            desk,
        },
        state,
        log,
    ))
}
