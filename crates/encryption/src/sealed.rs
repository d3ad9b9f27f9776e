//! A store that encrypts what passes through it, by rules on keys.
//!
//! Operations no rule touches return the inner store's own future: they cost a comparison of prefixes.

use crate::config::{Configuration, Provider};
use crate::kms::Kms;
use crate::providers::{OpenError, Providers};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt as _;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{
    DeleteResponse, Error, GetResponse, KeyRange, KeyValue, Lease, LeaseId, Op, OpResponse, RangeRequest,
    RangeResponse, Result, Select, Status, Store, Txn, TxnResponse, Watch, WatchRequest,
};

const ROOT: &[u8] = b"/registry/";

/// Where a resource's objects stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResource {
    /// `/registry/secrets/`
    pub prefix: String,
    pub group: String,
    pub resource: String,
}

/// The store, encrypted by a configuration that can be replaced.
pub struct Sealed {
    shared: Arc<Shared>,
    built_in: Vec<StoredResource>,
}

struct Shared {
    inner: Arc<dyn Store>,
    rules: ArcSwap<Rules>,
    /// Moves when what was unreadable may be readable now.
    generation: Arc<AtomicU64>,
}

/// Which providers are for which keys.
#[derive(Default)]
struct Rules {
    /// Of built-in resources: the most exact rule for each.
    prefixes: Vec<(Vec<u8>, Arc<Providers>)>,
    /// Of custom resources, by group and resource; `*` stands for all.
    custom: HashMap<(String, String), Arc<Providers>>,
    built_in: Vec<Vec<u8>>,
    kms: HashMap<String, Arc<Kms>>,
}

impl Sealed {
    /// `built_in` says where the resources a configuration may name stand.
    pub async fn new(
        inner: Arc<dyn Store>,
        built_in: Vec<StoredResource>,
        configuration: &Configuration,
    ) -> Self {
        let sealed = Self {
            shared: Arc::new(Shared {
                inner,
                rules: ArcSwap::default(),
                generation: Arc::default(),
            }),
            built_in,
        };
        sealed.replace(configuration).await;
        sealed
    }

    /// Writes and reads by another configuration from now on.
    pub async fn replace(&self, configuration: &Configuration) {
        let old = self.shared.rules.load_full();
        let mut kms = HashMap::new();
        for provider in configuration.rules.iter().flat_map(|rule| &rule.providers) {
            let Provider::Kms { name, path, timeout } = provider else {
                continue;
            };
            let known = old.kms.get(name).filter(|known| known.is_at(path, *timeout));
            let plugin = match known {
                Some(known) => Arc::clone(known),
                None => Kms::start(name, path, *timeout, Arc::clone(&self.shared.generation)).await,
            };
            kms.insert(name.clone(), plugin);
        }
        let mut by_pattern: HashMap<(String, String), Vec<&crate::config::Rule>> = HashMap::new();
        for rule in &configuration.rules {
            for pattern in &rule.resources {
                let key = (pattern.group.clone(), pattern.resource.clone());
                by_pattern.entry(key).or_default().push(rule);
            }
        }
        let custom: HashMap<(String, String), Arc<Providers>> = by_pattern
            .into_iter()
            .map(|(key, rules)| {
                // A resource named by several rules has all their providers.
                let joined = crate::config::Rule {
                    resources: Vec::new(),
                    providers: rules.iter().flat_map(|rule| rule.providers.clone()).collect(),
                };
                (
                    key,
                    Arc::new(Providers::new(&joined, |name| kms.get(name).cloned())),
                )
            })
            .collect();
        let prefixes = self.built_in.iter().filter_map(|known| {
            let providers = most_exact(&custom, &known.group, &known.resource)?;
            Some((known.prefix.clone().into_bytes(), providers))
        });
        let rules = Rules {
            prefixes: prefixes.collect(),
            built_in: self
                .built_in
                .iter()
                .map(|known| known.prefix.clone().into_bytes())
                .collect(),
            custom: custom
                .into_iter()
                .filter(|((group, _), _)| group.contains('.') || group == "*")
                .collect(),
            kms,
        };
        self.shared.rules.store(Arc::new(rules));
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Moves when what was unreadable may be readable now.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Whether the value at a key would be written in another way now: with another key, or encrypted at all.
    pub async fn is_stale(&self, key: &[u8]) -> Result<bool> {
        let Some(providers) = self.shared.rules.load().of(key) else {
            return Ok(false);
        };
        let Some(kv) = self.shared.inner.get(key).await?.kv else {
            return Ok(false);
        };
        Ok(providers
            .open(&kv.value, key)
            .await
            .is_ok_and(|opened| opened.stale))
    }

    /// What is wrong with the KMS plugins, by their names.
    pub fn health(&self) -> std::result::Result<(), String> {
        let rules = self.shared.rules.load();
        let mut wrong: Vec<String> = rules
            .kms
            .iter()
            .filter_map(|(name, kms)| Some(format!("kms-provider {name}: {}", kms.failure()?)))
            .collect();
        wrong.sort();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join(", "))
        }
    }

    /// Whether a KMS plugin is used.
    pub fn uses_kms(&self) -> bool {
        !self.shared.rules.load().kms.is_empty()
    }
}

fn most_exact(
    rules: &HashMap<(String, String), Arc<Providers>>,
    group: &str,
    resource: &str,
) -> Option<Arc<Providers>> {
    [(group, resource), (group, "*"), ("*", "*")]
        .iter()
        .find_map(|(group, resource)| rules.get(&((*group).to_owned(), (*resource).to_owned())))
        .cloned()
}

impl Rules {
    /// The providers of what stands at a key.
    fn of(&self, key: &[u8]) -> Option<Arc<Providers>> {
        if let Some((_, providers)) = self.prefixes.iter().find(|(prefix, _)| key.starts_with(prefix)) {
            return Some(Arc::clone(providers));
        }
        if self.custom.is_empty() || self.built_in.iter().any(|prefix| key.starts_with(prefix)) {
            return None;
        }
        // Custom resources: /registry/<group>/<resource>/…
        let rest = key.strip_prefix(ROOT)?;
        let mut parts = rest.splitn(3, |byte| *byte == b'/');
        let group = std::str::from_utf8(parts.next()?).ok()?;
        let resource = std::str::from_utf8(parts.next()?).ok()?;
        parts.next()?;
        // What is not a group's is not an object of the API.
        group
            .contains('.')
            .then(|| most_exact(&self.custom, group, resource))?
    }

    /// Whether a key of the range may be somebody's.
    fn touches(&self, range: &KeyRange) -> bool {
        if let Some(key) = range.single() {
            return self.of(key).is_some();
        }
        if !self.custom.is_empty() {
            return true;
        }
        let overlaps = |prefix: &[u8]| {
            range.start.starts_with(prefix)
                || range.start <= prefix && range.end.as_ref().is_none_or(|end| &end[..] > prefix)
        };
        self.prefixes.iter().any(|(prefix, _)| overlaps(prefix))
    }

    fn touches_op(&self, op: &Op) -> bool {
        match op {
            Op::Put { key, .. } => self.of(key).is_some(),
            Op::Delete(range) => self.touches(range),
            Op::Range(request) => self.touches(&request.range),
        }
    }
}

impl Shared {
    /// Makes a value readable, or tells in its place why it is not.
    async fn open(&self, kv: &mut KeyValue) -> Result<()> {
        let providers = self.rules.load().of(&kv.key);
        let Some(providers) = providers else { return Ok(()) };
        match providers.open(&kv.value, &kv.key).await {
            Ok(opened) => kv.value = opened.plain,
            Err(OpenError::Unreadable(why)) => kv.value = not_readable(&why),
            Err(OpenError::Unavailable(why)) => {
                return Err(Error::Unavailable {
                    reason: format!("unable to decrypt {}: {why}", kv.key.escape_ascii()),
                    source: None,
                });
            }
        }
        Ok(())
    }

    async fn open_all(&self, kvs: &mut [KeyValue]) -> Result<()> {
        for kv in kvs {
            self.open(kv).await?;
        }
        Ok(())
    }

    fn seal(&self, op: Op) -> Result<Op> {
        let Op::Put { key, value, lease } = op else {
            return Ok(op);
        };
        let value = match self.rules.load().of(&key) {
            None => value,
            Some(providers) => providers.seal(value, &key).map_err(|why| Error::Unavailable {
                reason: format!("unable to encrypt {}: {why}", key.escape_ascii()),
                source: None,
            })?,
        };
        Ok(Op::Put { key, value, lease })
    }

    /// What a watch delivers. An event cannot be refused: what cannot be read now says so in its place.
    async fn open_batch(self: Arc<Self>, mut batch: store::Batch) -> store::Batch {
        for event in &mut batch.events {
            for kv in std::iter::once(&mut event.kv).chain(&mut event.prev) {
                if kv.value.is_empty() {
                    continue;
                }
                if let Err(error) = self.open(kv).await {
                    kv.value = not_readable(&error.to_string());
                }
            }
        }
        batch
    }
}

fn not_readable(why: &str) -> Bytes {
    [crate::UNREADABLE, why.as_bytes()].concat().into()
}

type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl Sealed {
    fn open_get<'a>(&'a self, key: &'a [u8]) -> Pending<'a, GetResponse> {
        Box::pin(async move {
            let mut answer = self.shared.inner.get(key).await?;
            if let Some(kv) = &mut answer.kv {
                self.shared.open(kv).await?;
            }
            Ok(answer)
        })
    }

    fn open_range(&self, request: RangeRequest) -> Pending<'_, RangeResponse> {
        Box::pin(async move {
            let mut answer = self.shared.inner.range(request).await?;
            self.shared.open_all(&mut answer.kvs).await?;
            Ok(answer)
        })
    }

    fn sealed_txn(&self, txn: Txn) -> Pending<'_, TxnResponse> {
        Box::pin(async move {
            let seal = |ops: Vec<Op>| {
                ops.into_iter()
                    .map(|op| self.shared.seal(op))
                    .collect::<Result<Vec<Op>>>()
            };
            let txn = Txn {
                compare: txn.compare,
                then: seal(txn.then)?,
                otherwise: seal(txn.otherwise)?,
            };
            let mut answer = self.shared.inner.txn(txn).await?;
            for response in &mut answer.responses {
                match response {
                    OpResponse::Put => {}
                    OpResponse::Delete(DeleteResponse { deleted }) => {
                        // It is gone, whether it can be read or not.
                        for kv in deleted {
                            if let Err(error) = self.shared.open(kv).await {
                                kv.value = not_readable(&error.to_string());
                            }
                        }
                    }
                    OpResponse::Range(range) => self.shared.open_all(&mut range.kvs).await?,
                }
            }
            Ok(answer)
        })
    }
}

// Written out rather than by the attribute, so that what is not encrypted gets the inner store's own future.
impl Store for Sealed {
    fn get<'a, 'b, 'c>(&'a self, key: &'b [u8]) -> Pending<'c, GetResponse>
    where
        'a: 'c,
        'b: 'c,
    {
        match self.shared.rules.load().of(key) {
            None => self.shared.inner.get(key),
            Some(_) => self.open_get(key),
        }
    }

    fn range<'a, 'c>(&'a self, request: RangeRequest) -> Pending<'c, RangeResponse>
    where
        'a: 'c,
    {
        if request.select == Select::Full && self.shared.rules.load().touches(&request.range) {
            self.open_range(request)
        } else {
            self.shared.inner.range(request)
        }
    }

    fn txn<'a, 'c>(&'a self, txn: Txn) -> Pending<'c, TxnResponse>
    where
        'a: 'c,
    {
        let rules = self.shared.rules.load();
        if txn
            .then
            .iter()
            .chain(&txn.otherwise)
            .any(|op| rules.touches_op(op))
        {
            self.sealed_txn(txn)
        } else {
            self.shared.inner.txn(txn)
        }
    }

    fn watch<'a, 'c>(&'a self, request: WatchRequest) -> Pending<'c, Watch>
    where
        'a: 'c,
    {
        Box::pin(async move {
            let watch = self.shared.inner.watch(request).await?;
            let progress = watch.progress_handle();
            let shared = Arc::clone(&self.shared);
            let opened = watch.then(move |batch| {
                let rules = shared.rules.load();
                let touched = batch
                    .as_ref()
                    .is_ok_and(|batch| batch.events.iter().any(|event| rules.of(&event.kv.key).is_some()));
                drop(rules);
                let shared = Arc::clone(&shared);
                match batch {
                    Ok(batch) if touched => {
                        futures::future::Either::Left(async move { Ok(shared.open_batch(batch).await) })
                    }
                    other => futures::future::Either::Right(std::future::ready(other)),
                }
            });
            Ok(Watch::new(opened.boxed(), progress))
        })
    }

    fn compact<'a, 'c>(&'a self, revision: i64) -> Pending<'c, ()>
    where
        'a: 'c,
    {
        self.shared.inner.compact(revision)
    }

    fn lease_grant<'a, 'c>(&'a self, ttl: Duration) -> Pending<'c, Lease>
    where
        'a: 'c,
    {
        self.shared.inner.lease_grant(ttl)
    }

    fn lease_keep_alive<'a, 'c>(&'a self, id: LeaseId) -> Pending<'c, Lease>
    where
        'a: 'c,
    {
        self.shared.inner.lease_keep_alive(id)
    }

    fn lease_revoke<'a, 'c>(&'a self, id: LeaseId) -> Pending<'c, ()>
    where
        'a: 'c,
    {
        self.shared.inner.lease_revoke(id)
    }

    fn current_revision<'a, 'c>(&'a self) -> Pending<'c, i64>
    where
        'a: 'c,
    {
        self.shared.inner.current_revision()
    }

    fn status<'a, 'c>(&'a self) -> Pending<'c, Status>
    where
        'a: 'c,
    {
        self.shared.inner.status()
    }

    fn close<'a, 'c>(&'a self) -> Pending<'c, ()>
    where
        'a: 'c,
    {
        self.shared.inner.close()
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed")
            .field("inner", &self.shared.inner)
            .finish_non_exhaustive()
    }
}
