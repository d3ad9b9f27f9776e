//! One engine for every kind: objects in and out of the store by upstream's rules.
//!
//! What a kind does differently is its strategy's; what a request wants is told by [`Write`]. Nothing here
//! knows a kind, a route, or HTTP.

pub mod create;
pub mod delete;
pub mod hooks;
pub mod meta;
pub mod read;
mod resource;
pub mod service_allocator;
pub mod update;

pub use hooks::Hooks;
pub use resource::{
    Behaviour, Resource, Tables, Version, built_in_prefix, built_in_storage_version, built_in_stored,
};
pub use service_allocator::ServiceAllocator;

use crate::cache::{Draft, Entry, Meta, Reflector};
use crate::features::Features;
use crate::object;
use crate::request::Encoding;
use access::admission::{Attributes, Chain, Notes, Operation, Target};
use hashbrown::HashMap;
use machinery::clock::Clock;
use machinery::gvk::GroupResource;
use machinery::status::{ApiError, Reason};
use machinery::user::UserInfo;
use machinery::{Value, apply};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use store::{LeaseId, Store, Txn};

/// The engine.
pub struct Registry {
    pub store: Arc<dyn Store>,
    pub reflector: Arc<Reflector>,
    pub clock: Arc<dyn Clock>,
    pub admission: Chain,
    pub hooks: HashMap<GroupResource, Arc<dyn Hooks>>,
    /// What custom objects are stored in; all that was ever stored is read.
    custom_storage: Encoding,
    /// The store again, if it encrypts.
    pub(crate) encryption: Option<Arc<encryption::Sealed>>,
    /// History before this revision is forgotten; what the cache still knows of it is not told.
    pub(crate) compacted: AtomicU64,
    leases: Mutex<HashMap<u64, SharedLease>>,
}

/// One write: to what, by whom, how.
pub struct Write<'a> {
    pub resource: &'a Arc<Resource>,
    /// The version the request speaks.
    pub version: usize,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty when the object's own name is to be used.
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    pub manager: &'a str,
    /// `CreateOptions`, `UpdateOptions` … for admission.
    pub options: &'a Value,
    pub notes: &'a Notes,
}

/// Keys that share a time to live share a lease for a while.
struct SharedLease {
    id: LeaseId,
    until: tokio::time::Instant,
    used: u32,
}

/// A lease is shared for this long, and lives as much longer than asked.
const LEASE_REUSE: Duration = Duration::from_secs(60);
const LEASE_SHARED_BY: u32 = 1000;

impl Registry {
    pub fn new(
        store: Arc<dyn Store>,
        reflector: Arc<Reflector>,
        clock: Arc<dyn Clock>,
        admission: Chain,
        hooks: Vec<(GroupResource, Arc<dyn Hooks>)>,
        features: Features,
        encryption: Option<Arc<encryption::Sealed>>,
    ) -> Self {
        Self {
            store,
            reflector,
            clock,
            admission,
            hooks: hooks.into_iter().collect(),
            custom_storage: if features.cbor {
                Encoding::Cbor
            } else {
                Encoding::Json
            },
            encryption,
            compacted: AtomicU64::new(0),
            leases: Mutex::default(),
        }
    }

    /// The bytes the store is to hold of an object.
    pub(crate) fn encode_stored(
        &self,
        resource: &Resource,
        object: &mut Value,
    ) -> Result<bytes::Bytes, ApiError> {
        object::encode_stored(resource, object, self.custom_storage).map_err(stored_error)
    }

    /// Puts an object that must stand at `expected` (0: must not exist).
    ///
    /// `Err(Conflicted)` holds what stands there instead.
    pub(crate) async fn put(
        &self,
        resource: &Arc<Resource>,
        key: bytes::Bytes,
        object: Value,
        encoded: bytes::Bytes,
        expected: i64,
        create_revision: u64,
    ) -> Result<Arc<Entry>, PutError> {
        let lease = match resource.strategy.time_to_live(&object) {
            Some(seconds) => self.lease(seconds).await.map_err(PutError::Store)?,
            None => 0,
        };
        let meta = Meta::of(resource, &object);
        let draft = Arc::new(Draft::new(
            key.clone(),
            encoded.clone(),
            expected as u64,
            meta,
            // What is cached is in the stored version.
            Some(object).filter(|_| resource.storage == resource.stored),
        ));
        resource.cache.announce(&draft);
        match self.store.txn(Txn::update(key, expected, encoded, lease)).await {
            Ok(done) if done.succeeded => {
                let revision = done.revision as u64;
                let created = if expected == 0 { revision } else { create_revision };
                Ok(draft.entry(revision, created))
            }
            Ok(refused) => {
                resource.cache.withdraw(&draft);
                Err(PutError::Conflict(refused.found()))
            }
            Err(error) => {
                // The write may have happened after all; then its event finds no draft and is decoded.
                resource.cache.withdraw(&draft);
                Err(PutError::Store(error))
            }
        }
    }

    /// Whether a write that changes nothing is to happen all the same: the value is encrypted with an old key.
    pub(crate) async fn is_stale(&self, key: &[u8]) -> Result<bool, ApiError> {
        match &self.encryption {
            Some(encryption) => encryption.is_stale(key).await.map_err(store_error),
            None => Ok(false),
        }
    }

    async fn lease(&self, seconds: u64) -> store::Result<LeaseId> {
        let now = tokio::time::Instant::now();
        if let Some(lease) = self.leases.lock().get_mut(&seconds)
            && lease.until > now
            && lease.used < LEASE_SHARED_BY
        {
            lease.used += 1;
            return Ok(lease.id);
        }
        let lease = self
            .store
            .lease_grant(Duration::from_secs(seconds) + LEASE_REUSE)
            .await?;
        self.leases.lock().insert(
            seconds,
            SharedLease {
                id: lease.id,
                until: now + LEASE_REUSE,
                used: 1,
            },
        );
        Ok(lease.id)
    }

    /// An entry for an object that was not stored: the answer to a dry run.
    pub(crate) fn unstored(
        &self,
        resource: &Resource,
        key: bytes::Bytes,
        object: &Value,
        encoded: bytes::Bytes,
        revision: u64,
    ) -> Arc<Entry> {
        let entry = Entry::new(key, Meta::of(resource, object), revision, 0, encoded);
        Arc::new(entry)
    }

    pub(crate) fn context<'a>(&self, write: &Write<'a>) -> resources::Context<'a> {
        resources::Context {
            user: write.user,
            now: self.clock.now(),
            namespace: write.namespace,
            dry_run: write.dry_run,
            api_version: &write.resource.versions[write.version].api_version,
            kind: &write.resource.info,
        }
    }

    /// Credits the write's manager with what it changes, in the names of the version the request speaks.
    pub(crate) fn track_fields(&self, write: &Write<'_>, live: Option<&Value>, new: &mut Value) {
        let reset = write.reset_fields();
        let versions = write.other_versions();
        let manager = write.field_manager(&reset, &versions);
        let now = self.clock.now();
        if write.speaks_storage_fields(new) {
            manager.update(live, new, write.manager, now);
            return;
        }
        let view = |object: &Value| object::convert(write.resource, object.clone(), write.version);
        let live = live.map(view);
        let mut shown = view(new);
        manager.update(live.as_ref(), &mut shown, write.manager, now);
        let list = machinery::meta::metadata(&shown)
            .and_then(|m| m.get("managedFields"))
            .cloned();
        machinery::meta::set(new, "managedFields", list.unwrap_or_default());
    }
}

impl<'a> Write<'a> {
    /// What admission is told of this write.
    pub fn attributes(&self, operation: Operation, name: &'a str, old: Option<&'a Value>) -> Attributes<'a> {
        let version = &self.resource.versions[self.version];
        Attributes {
            operation,
            target: Target {
                group: &self.resource.info.group,
                version: &version.version,
                resource: &self.resource.info.resource,
                subresource: self.subresource,
                kind: &version.kind,
                kind_group: &self.resource.info.group,
                kind_version: &version.version,
                namespace: self.namespace,
                name,
            },
            user: self.user,
            old,
            options: self.options,
            dry_run: self.dry_run,
            notes: self.notes,
            versions: Some(&**self.resource),
            reinvocation: None,
        }
    }

    /// Admits what is created under an object and is of another kind: a binding, an eviction, a token request.
    pub async fn admit_other(
        &self,
        subresource: &str,
        (group, version, kind): (&str, &str, &str),
        name: &str,
        admission: &Chain,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let shown = self.attributes(Operation::Create, name, None);
        let attributes = Attributes {
            target: Target {
                subresource,
                kind,
                kind_group: group,
                kind_version: version,
                ..shown.target
            },
            versions: None,
            ..shown
        };
        if !admission.handles(Operation::Create, &attributes.target) {
            return Ok(());
        }
        admission.admit(&attributes, Some(object)).await?;
        admission.validate(&attributes, Some(object)).await
    }

    /// The fields this endpoint resets.
    pub(crate) fn reset_fields(&self) -> std::borrow::Cow<'a, apply::ResetFields> {
        if self.subresource.is_empty() {
            return std::borrow::Cow::Borrowed(&self.resource.reset_fields);
        }
        let fields = self
            .resource
            .strategy
            .subresource(self.subresource)
            .map_or(&[][..], |s| s.reset_fields());
        std::borrow::Cow::Owned(apply::ResetFields::new(fields.iter().copied()))
    }

    pub(crate) fn field_manager<'m>(
        &'m self,
        reset: &'m apply::ResetFields,
        versions: &'m OtherVersions<'m>,
    ) -> apply::FieldManager<'m> {
        let version = &self.resource.versions[self.version];
        apply::FieldManager {
            types: &self.resource.types,
            id: version.ty,
            version: &version.api_version,
            kind: &version.kind,
            subresource: self.subresource,
            built_in: self.resource.built_in,
            reset,
            versions,
        }
    }

    pub(crate) fn other_versions(&self) -> OtherVersions<'a> {
        OtherVersions {
            resource: self.resource,
            own: self.version,
        }
    }

    /// Whether the request's version has the fields of the storage version.
    fn speaks_storage_fields(&self, object: &Value) -> bool {
        self.version == self.resource.storage || !object::converts(self.resource, object, self.version)
    }

    pub(crate) fn invalid(&self, name: &str, errors: machinery::field::ErrorList) -> ApiError {
        ApiError::invalid(&self.resource.info.group, &self.resource.info.kind, name, errors)
    }
}

/// A resource in the versions its managers used.
pub(crate) struct OtherVersions<'a> {
    resource: &'a Resource,
    /// The version of the request.
    own: usize,
}

impl apply::Versions for OtherVersions<'_> {
    fn view(&self, object: &Value, version: &str) -> Result<apply::VersionView, String> {
        let Some(at) = self
            .resource
            .versions
            .iter()
            .position(|v| v.api_version == version)
        else {
            return Ok(apply::VersionView::Gone);
        };
        if at == self.own || !object::converts(self.resource, object, at) {
            return Ok(apply::VersionView::Same);
        }
        let converted = object::convert(self.resource, object.clone(), at);
        Ok(apply::VersionView::Converted(
            self.resource.versions[at].ty,
            converted,
        ))
    }

    fn back(&self, object: Value, _version: &str) -> Result<Value, String> {
        Ok(object::convert(self.resource, object, self.own))
    }
}

/// Why a put did not happen.
pub(crate) enum PutError {
    /// Something else stands there, or nothing any more.
    Conflict(Option<store::KeyValue>),
    Store(store::Error),
}

/// What a store's failure is to a client.
pub fn store_error(error: store::Error) -> ApiError {
    match error {
        store::Error::Compacted { .. } => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        store::Error::TooLarge { .. } => ApiError::too_large("etcdserver: request is too large"),
        store::Error::NoSpace { .. } => ApiError::new(
            507,
            Reason::InternalError,
            format!("{error}; free some space, reads go on"),
        ),
        store::Error::Closed => ApiError::service_unavailable("the server is shutting down"),
        other => ApiError::internal(other),
    }
}

/// What an unreadable stored object is to a client.
pub fn stored_error(error: object::StoredError) -> ApiError {
    ApiError::internal(error)
}
