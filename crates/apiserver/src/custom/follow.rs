//! Follows the definitions in the watch cache: settles names, serves what is established, starts cleaning.
//!
//! Level-triggered: every event only says which definition to look at again. The state between events is what is
//! served, and the names that are held.

use super::kind::{Kind, keeps_resources};
use super::{GROUP, RESOURCE, clean};
use crate::boot::Maker;
use crate::cache::{Change, Entry, Filter, WatchReceiver, WatchStart};
use crate::registry::read::Reader;
use crate::registry::{Resource, stored_error};
use crate::routes::{GroupTable, VersionTable};
use crate::server::Core;
use access::Objects;
use bytes::Bytes;
use compact_str::CompactString;
use hashbrown::{HashMap, HashSet};
use machinery::status::{ApiError, Reason};
use machinery::{Value, meta};
use resources::apiextensions::Definition;
use resources::apiextensions::custom_resource_definition::CLEANUP_FINALIZER;
use resources::apiextensions::custom_resource_definition::conditions::{
    Taken, names_are_settled, settle_approval, settle_names,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a watch that broke off, or a write that failed, is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves what is there, and then what comes, until the server ends.
pub(crate) async fn start(core: &Arc<Core>) -> Result<(), ApiError> {
    let Some(crds) = core.routes.resource(GROUP, RESOURCE) else {
        return Ok(());
    };
    let mut follower = Follower {
        core: Arc::clone(core),
        crds,
        objects: Arc::new(Reader {
            registry: Arc::clone(&core.registry),
            routes: Arc::clone(&core.routes),
        }),
        known: HashMap::new(),
        kinds: BTreeMap::new(),
        cleaning: HashSet::new(),
    };
    let receiver = follower.begin().await?;
    let shutdown = core.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = follower.run(receiver) => {}
        }
    });
    Ok(())
}

struct Follower {
    core: Arc<Core>,
    crds: Arc<Resource>,
    objects: Arc<dyn Objects>,
    known: HashMap<Bytes, Known>,
    kinds: BTreeMap<Bytes, Kind>,
    /// Definitions (by their UID) somebody cleans up after.
    cleaning: HashSet<CompactString>,
}

/// A definition, as far as others' names depend on it.
struct Known {
    entry: Arc<Entry>,
    group: CompactString,
    /// Its accepted names.
    names: Value,
    settled: bool,
}

impl Follower {
    async fn run(&mut self, mut receiver: WatchReceiver) {
        loop {
            while let Some(events) = receiver.next().await {
                let events = events.into_iter().map(|event| {
                    let gone = event.change == Change::Deleted;
                    (Arc::clone(&event.entry), gone)
                });
                self.look_at(events.collect()).await;
            }
            receiver = loop {
                tokio::time::sleep(PAUSE).await;
                match self.begin().await {
                    Ok(receiver) => break receiver,
                    Err(error) => {
                        tracing::warn!(error = %error.message, "watching CustomResourceDefinitions");
                    }
                }
            };
        }
    }

    /// Takes in the whole present state.
    async fn begin(&mut self) -> Result<WatchReceiver, ApiError> {
        let started = self
            .crds
            .watch(&self.core.registry.reflector, &Filter::all(""), WatchStart::State)
            .await?;
        let present: HashSet<Bytes> = started.initial.iter().map(|entry| entry.key.clone()).collect();
        let gone: Vec<(Arc<Entry>, bool)> = self
            .known
            .iter()
            .filter(|(key, _)| !present.contains(*key))
            .map(|(_, known)| (Arc::clone(&known.entry), true))
            .collect();
        let all = started.initial.into_iter().map(|entry| (entry, false));
        self.look_at(gone.into_iter().chain(all).collect()).await;
        Ok(started.receiver)
    }

    /// Looks at definitions that changed (or are gone), then at those that waited for their names.
    async fn look_at(&mut self, changed: Vec<(Arc<Entry>, bool)>) {
        let (mut serve, mut released) = (false, HashSet::new());
        for (entry, gone) in &changed {
            if *gone {
                if let Some(known) = self.known.remove(&entry.key) {
                    released.insert(known.group);
                }
                if let Some(kind) = self.kinds.remove(&entry.key) {
                    kind.unregister(&self.core.registry.reflector);
                    self.cleaning.remove(&kind.definition.uid);
                    serve = true;
                }
                continue;
            }
            match entry.value(&self.crds).map_err(stored_error) {
                Ok(crd) => {
                    let before = self.learn(entry, &crd);
                    if before.is_some_and(|before| before != self.known[&entry.key].names) {
                        released.insert(self.known[&entry.key].group.clone());
                    }
                    serve |= self.serve(entry, &crd);
                    self.settle(entry, &crd).await;
                    self.clean(&crd);
                }
                Err(error) => tracing::error!(error = %error.message, "a definition cannot be read"),
            }
        }
        if serve {
            self.publish();
        }
        let waiting: Vec<Arc<Entry>> = self
            .known
            .values()
            .filter(|known| !known.settled && released.contains(&known.group))
            .map(|known| Arc::clone(&known.entry))
            .collect();
        for entry in waiting {
            if let Ok(crd) = entry.value(&self.crds) {
                self.settle(&entry, &crd).await;
            }
        }
    }

    /// The names the definition held before.
    fn learn(&mut self, entry: &Arc<Entry>, crd: &Value) -> Option<Value> {
        let text = |path: &[&str]| crd.get_str_path(path).unwrap_or_default();
        let known = Known {
            entry: Arc::clone(entry),
            group: text(&["spec", "group"]).into(),
            names: crd
                .get_path(&["status", "acceptedNames"])
                .cloned()
                .unwrap_or_default(),
            settled: names_are_settled(crd),
        };
        self.known
            .insert(entry.key.clone(), known)
            .map(|known| known.names)
    }

    /// Brings the kind of a definition up to date; whether anything changed that is served.
    fn serve(&mut self, entry: &Arc<Entry>, crd: &Value) -> bool {
        let reflector = &self.core.registry.reflector;
        let definition = Definition::parse(crd);
        if !definition.established || definition.versions.is_empty() {
            return match self.kinds.remove(&entry.key) {
                Some(kind) => {
                    kind.unregister(reflector);
                    true
                }
                None => false,
            };
        }
        if let Some(kind) = self.kinds.get_mut(&entry.key) {
            if *kind.definition == definition {
                return false;
            }
            if keeps_resources(&kind.definition, &definition) {
                kind.retell(definition);
                return true;
            }
            kind.unregister(reflector);
        }
        let kind = Kind::new(definition, entry, &self.crds, &self.objects);
        kind.register(reflector);
        self.kinds.insert(entry.key.clone(), kind);
        true
    }

    /// Writes names and conditions, if they are not as they should be.
    async fn settle(&self, entry: &Arc<Entry>, crd: &Value) {
        let group = crd.get_str_path(&["spec", "group"]).unwrap_or_default();
        let mut taken = Taken::default();
        for (key, known) in &self.known {
            if known.group == group && *key != entry.key {
                taken.add(&known.names);
            }
        }
        let now = self.core.registry.clock.now();
        let settled = |crd: &Value| {
            let mut settled = crd.clone();
            if !names_are_settled(crd) {
                settle_names(&mut settled, &taken, now);
            }
            settle_approval(&mut settled, now);
            settled
        };
        if settled(crd) == *crd {
            return;
        }
        let change = Settle(&settled);
        if let Err(error) = write_raw(&self.core, &self.crds, meta::name(crd), &change).await {
            tracing::warn!(error = %error.message, definition = meta::name(crd), "settling names");
        }
    }

    /// Starts cleaning up after a definition that is being deleted.
    fn clean(&mut self, crd: &Value) {
        let waits = meta::deletion_timestamp(crd).is_some()
            && meta::finalizers(crd).any(|finalizer| finalizer == CLEANUP_FINALIZER);
        if !waits || !self.cleaning.insert(meta::uid(crd).into()) {
            return;
        }
        let key = self.crds.key("", meta::name(crd));
        let stored = self.kinds.get(&key).map(|kind| Arc::clone(kind.stored()));
        let (core, crds) = (Arc::clone(&self.core), Arc::clone(&self.crds));
        let name = meta::name(crd).to_owned();
        tokio::spawn(async move {
            let shutdown = core.shutdown.clone();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = clean::run(&core, &crds, &name, stored) => {}
            }
        });
    }

    /// Makes the routes of all kinds.
    fn publish(&self) {
        let mut groups: BTreeMap<CompactString, Vec<VersionTable>> = BTreeMap::new();
        for kind in self.kinds.values() {
            for (version, endpoint) in &kind.endpoints {
                let versions = groups.entry(kind.definition.group.clone()).or_default();
                match versions.iter_mut().find(|known| known.name == *version) {
                    Some(known) => known.endpoints.push(Arc::clone(endpoint)),
                    None => versions.push(VersionTable {
                        name: version.clone(),
                        endpoints: vec![Arc::clone(endpoint)],
                    }),
                }
            }
        }
        let groups = groups
            .into_iter()
            .map(|(name, versions)| GroupTable { name, versions });
        self.core.routes.replace_custom(groups.collect());
        self.core.documents.forget();
    }
}

struct Settle<'a, F: Fn(&Value) -> Value + Send + Sync>(&'a F);

impl<F: Fn(&Value) -> Value + Send + Sync> crate::registry::update::Change for Settle<'_, F> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        live.map(self.0).ok_or_else(gone)
    }
}

pub(super) fn gone() -> ApiError {
    ApiError::not_found(&machinery::gvk::GroupResource::new(GROUP, RESOURCE), "")
}

/// Writes into a definition as the server itself; one that is gone meanwhile needs nothing more.
pub(super) async fn write_raw(
    core: &Core,
    crds: &Arc<Resource>,
    name: &str,
    change: &dyn crate::registry::update::Change,
) -> Result<(), ApiError> {
    let maker = Maker::new(core);
    let options = Value::object();
    let write = maker.write(crds, "", name, &options);
    match core.registry.update_raw(&write, change).await {
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}
