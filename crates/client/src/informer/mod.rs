//! Shared informers: one list-and-watch per (type, selection) and process, decoded once, kept in an indexed
//! store of immutable objects, announced to any number of subscribers.
//!
//! ```text
//! Informers ──get::<K>()──► Informer<K> = Arc<Store<K>>  ◄── reflector task (untyped, feeds a `dyn Sink`)
//! ```
//!
//! * Lazy: the reflector starts when somebody first asks for the type.
//! * Thrifty: `managedFields` are dropped before storing.
//! * **Invariant:** a subscriber is called in store order, after the store shows the change; it must not block
//!   and must not write to the same informer. Typically it only adds a key to a queue.
//! * **Invariant:** an object of the store is never older than one it has shown before.
//! * Read your writes: [`Informer::written`] and [`Informer::deleting`] put a server's answer into the store
//!   before the watch brings it, which takes the place of upstream's expectations.
//! * One object that cannot be decoded is logged and passed over; it never stops a list.

mod index;
pub mod metadata;
mod reflector;
mod store;

pub use index::{Index, IndexFn, by_controller, by_namespace, by_node, by_owner};
pub use reflector::{Reflection, Sink};
pub use store::Informer;

use crate::resource::Resource;
use compact_str::{CompactString, ToCompactString as _};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ObjectKey {
    pub namespace: CompactString,
    pub name: CompactString,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_compact_string(),
            name: name.to_compact_string(),
        }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: &str) -> Self {
        Self::new("", name)
    }

    /// The key of an object.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.as_deref().unwrap_or(""),
            meta.name.as_deref().unwrap_or(""),
        )
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Event<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Event<K> {
    /// The object's newest known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(o) | Self::Deleted(o) | Self::Updated { new: o, .. } => o,
        }
    }
}

/// Which objects of a type an informer holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    pub namespace: Option<String>,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    pub fn in_namespace(namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..Self::default()
        }
    }

    pub fn with_labels(mut self, selector: &str) -> Self {
        self.labels = Some(selector.to_owned());
        self
    }

    pub fn with_fields(mut self, selector: &str) -> Self {
        self.fields = Some(selector.to_owned());
        self
    }
}

/// How long the server is asked to keep one watch open. Short enough for a dead network peer to be noticed.
const REMOTE_WATCH: Duration = Duration::from_secs(270);
/// In one process no peer can die silently, and idle should mean idle.
const IN_PROCESS_WATCH: Duration = Duration::from_secs(50 * 60);

/// What a type must be to be informed about.
pub trait Object:
    kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static
{
}

/// The process's informers. Cheap to clone; the reflectors stop when the last clone is dropped.
#[derive(Clone)]
pub struct Informers(Arc<Shared>);

struct Shared {
    client: kube::Client,
    watch_for: Duration,
    stop: CancellationToken,
    _guard: DropGuard,
    stores: Mutex<HashMap<(TypeId, Selection), Arc<dyn Any + Send + Sync>>>,
}

impl Informers {
    /// Informers over an in-process client.
    pub fn new(client: kube::Client) -> Self {
        Self::with_watch_time(client, IN_PROCESS_WATCH)
    }

    /// Informers over a network client.
    pub fn remote(client: kube::Client) -> Self {
        Self::with_watch_time(client, REMOTE_WATCH)
    }

    fn with_watch_time(client: kube::Client, watch_for: Duration) -> Self {
        let stop = CancellationToken::new();
        Self(Arc::new(Shared {
            client,
            watch_for,
            _guard: stop.clone().drop_guard(),
            stop,
            stores: Mutex::new(HashMap::new()),
        }))
    }

    /// The informer of all objects of a type.
    pub fn get<K: Object>(&self) -> Informer<K> {
        self.select(Selection::all())
    }

    /// The informer of some objects of a type, shared by all who ask for the same selection.
    pub fn select<K: Object>(&self, selection: Selection) -> Informer<K> {
        let mut stores = self.0.stores.lock();
        let key = (TypeId::of::<K>(), selection);
        if let Some(known) = stores.get(&key)
            && let Some(informer) = known.downcast_ref::<Informer<K>>()
        {
            return informer.clone();
        }
        let informer = Informer::<K>::empty();
        self.reflect(
            Resource::of::<K>(true),
            key.1.clone(),
            Representation::Whole,
            informer.sink(),
        );
        stores.insert(key, Arc::new(informer.clone()));
        informer
    }

    /// Starts a reflector that feeds `sink` with the objects of a resource known at run time. It ends when the
    /// returned token is cancelled, or with the informers.
    pub fn reflect(
        &self,
        resource: Resource,
        selection: Selection,
        representation: Representation,
        sink: Arc<dyn Sink>,
    ) -> CancellationToken {
        let stop = self.0.stop.child_token();
        let reflection = Reflection {
            client: self.0.client.clone(),
            path: resource.collection_path(selection.namespace.as_deref()),
            selection,
            representation,
            watch_for: self.0.watch_for,
        };
        tokio::spawn(reflection.run(sink, stop.clone()));
        stop
    }

    /// The client the informers use.
    pub fn client(&self) -> &kube::Client {
        &self.0.client
    }

    /// Ends all reflectors.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }
}

/// Whole objects or only their metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Representation {
    Whole,
    Metadata,
}
