//! Changing objects: read, transform, judge, put if nobody else did, or start over.

use super::create::{self, ensure_namespace, warn_of_repeated_owners};
use super::{PutError, Registry, Resource, Write, meta, store_error, stored_error};
use crate::cache::Entry;
use access::admission::Operation;
use machinery::Value;
use machinery::meta as m;
use machinery::status::ApiError;
use std::sync::Arc;

/// How a change comes about: the new object from the one that stands there (`None`: nothing does).
pub trait Change: Send + Sync {
    /// The new object in the storage version, decoded and defaulted.
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError>;

    /// Whether it may make the object when there is none, beside kinds that always allow it (server-side apply).
    fn may_create(&self) -> bool {
        false
    }

    /// Whether managed fields were dealt with by [`Self::apply`].
    fn tracks_itself(&self) -> bool {
        false
    }
}

/// The new object is what the client sent.
pub struct Replace(pub Value);

impl Change for Replace {
    fn apply(&self, _live: Option<&Value>) -> Result<Value, ApiError> {
        Ok(self.0.clone())
    }
}

/// Asked before an update makes an object: creating may be forbidden where updating is not.
#[async_trait::async_trait]
pub trait MayCreate: Send + Sync {
    async fn may_create(&self) -> Result<(), ApiError>;
}

/// The outcome of an update.
#[derive(Debug)]
pub struct Updated {
    pub entry: Arc<Entry>,
    pub created: bool,
}

/// What stands at the key.
struct Live {
    object: Value,
    revision: u64,
    create_revision: u64,
    stored: bytes::Bytes,
    /// Known to be the newest state.
    certain: bool,
}

/// One attempt's outcome.
enum Attempt {
    Done(Updated),
    /// Somebody else was faster; this is what stands there now.
    Again(Option<Live>),
}

impl Registry {
    /// Changes an object.
    pub async fn update(
        &self,
        write: &Write<'_>,
        change: &dyn Change,
        may_create: &dyn MayCreate,
    ) -> Result<Updated, ApiError> {
        let resource = write.resource;
        let key = resource.key(write.namespace, write.name);
        let mut live = self.live_to_change(write, &key).await?;
        loop {
            let certain = live.as_ref().is_none_or(|l| l.certain);
            let judged = live.as_ref().map(|live| live.revision);
            match self.attempt(write, &key, live, change, may_create).await {
                Ok(Attempt::Done(updated)) => return Ok(updated),
                Ok(Attempt::Again(now)) => live = now,
                // What was judged may have been an old state: judge the newest before saying no, if it is another.
                Err(error) if !certain => {
                    tracing::trace!(%error, "update of a cached state failed");
                    live = self.read_live(resource, &key).await?;
                    if live.as_ref().map(|live| live.revision) == judged {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Changes an object past its strategy: what the server itself writes into it (a binding, a budget).
    pub async fn update_raw(&self, write: &Write<'_>, change: &dyn Change) -> Result<Arc<Entry>, ApiError> {
        let resource = write.resource;
        let key = resource.key(write.namespace, write.name);
        let mut live = self.live_to_change(write, &key).await?;
        loop {
            let certain = live.as_ref().is_none_or(|l| l.certain);
            let mut new = match change.apply(live.as_ref().map(|l| &l.object)) {
                Ok(new) => new,
                Err(_) if !certain => {
                    live = self.read_live(resource, &key).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(standing) = live else {
                return Err(ApiError::not_found(&resource.group_resource, write.name));
            };
            let encoded = self.encode_stored(resource, &mut new)?;
            if write.dry_run {
                return Ok(self.unstored(resource, key, &new, encoded, standing.revision));
            }
            let expected = standing.revision as i64;
            match self
                .put(
                    resource,
                    key.clone(),
                    new,
                    encoded,
                    expected,
                    standing.create_revision,
                )
                .await
            {
                Ok(entry) => return Ok(entry),
                Err(PutError::Conflict(now)) => {
                    live = now.map(|kv| Live::stored(resource, kv)).transpose()?
                }
                Err(PutError::Store(error)) => return Err(store_error(error)),
            }
        }
    }

    async fn attempt(
        &self,
        write: &Write<'_>,
        key: &bytes::Bytes,
        live: Option<Live>,
        change: &dyn Change,
        may_create: &dyn MayCreate,
    ) -> Result<Attempt, ApiError> {
        let Some(live) = live else {
            return self.attempt_create(write, change, may_create).await;
        };
        let resource = write.resource;
        let old = &live.object;
        let mut new = change.apply(Some(old))?;
        ensure_namespace(write, &mut new)?;
        create::check_name(write, &mut new)?;
        check_uid(write, &new, old)?;
        warn_of_repeated_owners(write, &mut new, false);
        if !change.tracks_itself() {
            self.track_fields(write, Some(old), &mut new);
        }
        let attributes = write.attributes(Operation::Update, write.name, Some(old));
        if self.admission.handles(Operation::Update, &attributes.target) {
            self.admission.admit(&attributes, Some(&mut new)).await?;
            warn_of_repeated_owners(write, &mut new, true);
        }
        check_version(write, &mut new, old)?;
        let undo = self.prepare_update(write, &mut new, old).await?;
        self.admission.validate(&attributes, Some(&new)).await?;

        if deletes(resource, &new, old) {
            // An object that somebody else has removed meanwhile is not found; only a race after this is passed over.
            if let Some(now) = self.superseded(resource, key, &live).await? {
                return Ok(Attempt::Again(now));
            }
            self.finish_deletion(write, key, old, &live_version(&live))
                .await?;
            let encoded = self.encode_stored(resource, &mut new)?;
            let entry = self.unstored(resource, key.clone(), &new, encoded, live.revision);
            return Ok(Attempt::Done(Updated {
                entry,
                created: false,
            }));
        }
        let encoded = self.encode_stored(resource, &mut new)?;
        if encoded == live.stored && !self.is_stale(key).await? {
            // Nothing changes, so nothing is written, if this is what really stands there.
            if let Some(now) = self.superseded(resource, key, &live).await? {
                return Ok(Attempt::Again(now));
            }
            let entry = match resource.cache.get(key).filter(|e| e.revision == live.revision) {
                Some(entry) => entry,
                None => self.unstored(resource, key.clone(), &new, encoded, live.revision),
            };
            return Ok(Attempt::Done(Updated {
                entry,
                created: false,
            }));
        }
        if write.dry_run {
            let entry = self.unstored(resource, key.clone(), &new, encoded, live.revision);
            return Ok(Attempt::Done(Updated {
                entry,
                created: false,
            }));
        }
        let hooks = self.hooks.get(&resource.group_resource);
        let kept = hooks.map(|_| new.clone());
        let expected = live.revision as i64;
        match self
            .put(
                resource,
                key.clone(),
                new,
                encoded,
                expected,
                live.create_revision,
            )
            .await
        {
            Ok(entry) => {
                if let Some(undo) = undo {
                    undo.commit();
                }
                if let (Some(hooks), Some(new)) = (hooks, kept) {
                    hooks.after_write(write, &new, Some(old)).await;
                }
                Ok(Attempt::Done(Updated {
                    entry,
                    created: false,
                }))
            }
            Err(PutError::Conflict(now)) => Ok(Attempt::Again(
                now.map(|kv| Live::stored(resource, kv)).transpose()?,
            )),
            Err(PutError::Store(error)) => Err(store_error(error)),
        }
    }

    async fn attempt_create(
        &self,
        write: &Write<'_>,
        change: &dyn Change,
        may_create: &dyn MayCreate,
    ) -> Result<Attempt, ApiError> {
        let resource = write.resource;
        let allowed = resource.strategy.allow_create_on_update() || change.may_create();
        if !allowed || !write.subresource.is_empty() {
            return Err(ApiError::not_found(&resource.group_resource, write.name));
        }
        let mut new = change.apply(None)?;
        if !m::uid(&new).is_empty() {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: ",
                m::uid(&new)
            );
            return Err(ApiError::conflict(&resource.group_resource, write.name, why));
        }
        let version = m::resource_version(&new);
        if !version.is_empty() && version != "0" && !resource.strategy.allow_unconditional_update() {
            return Err(ApiError::modified(&resource.group_resource, write.name));
        }
        may_create.may_create().await?;
        m::set_text(&mut new, "resourceVersion", "");
        ensure_namespace(write, &mut new)?;
        create::check_name(write, &mut new)?;
        if !change.tracks_itself() {
            self.track_fields(write, None, &mut new);
        }
        let attributes = write.attributes(Operation::Create, write.name, None);
        if self.admission.handles(Operation::Create, &attributes.target) {
            self.admission.admit(&attributes, Some(&mut new)).await?;
        }
        match self.create_named(write, new).await {
            Ok(entry) => Ok(Attempt::Done(Updated { entry, created: true })),
            // Somebody made it meanwhile: then this is an update.
            Err(error) if error.reason == machinery::status::Reason::AlreadyExists => {
                let key = resource.key(write.namespace, write.name);
                Ok(Attempt::Again(self.read_live(resource, &key).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// Completes and judges a changed object.
    async fn prepare_update(
        &self,
        write: &Write<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<Option<super::hooks::Undo>, ApiError> {
        let resource = write.resource;
        let strategy = &*resource.strategy;
        let context = self.context(write);
        let undo = match self
            .hooks
            .get(&resource.group_resource)
            .filter(|_| write.subresource.is_empty())
        {
            Some(hooks) => hooks.begin_update(write, new, old).await?,
            None => None,
        };
        m::set(new, "generation", Value::Null);
        let generation = m::generation(old);
        if generation != 0 {
            m::set(new, "generation", generation);
        }
        let subresource = strategy
            .subresource(write.subresource)
            .filter(|_| !write.subresource.is_empty());
        match subresource {
            Some(subresource) => subresource.prepare(&context, new, old),
            None => strategy.prepare_for_update(&context, new, old),
        }
        keep_system_fields(new, old);
        let mut errors = meta::validate(new, resource.info.namespaced, &machinery::names::path_segment);
        errors.extend(meta::validate_update(new, old));
        errors.extend(match subresource {
            Some(subresource) => subresource.validate(&context, new, old),
            None => strategy.validate_update(&context, new, old),
        });
        if !errors.is_empty() {
            return Err(write.invalid(m::name(new), errors));
        }
        let warnings = match subresource {
            Some(subresource) => subresource.warnings(&context, new, old),
            None => strategy.warnings_on_update(&context, new, old),
        };
        for warning in warnings {
            write.notes.warn(warning);
        }
        strategy.canonicalize(new);
        ignore_managed_fields_times(new, old);
        Ok(undo)
    }

    /// What a change is first tried on: the cached state, which writing it compares with the store.
    async fn live_to_change(&self, write: &Write<'_>, key: &[u8]) -> Result<Option<Live>, ApiError> {
        // A dry run writes nothing that would tell an old state.
        let cached = write.resource.cache.get(key).filter(|_| !write.dry_run);
        match cached {
            Some(entry) => Live::cached(write.resource, &entry).map(Some),
            None => self.read_live(write.resource, key).await,
        }
    }

    /// What stands there instead of a state that may be old; `None` if that is the newest.
    async fn superseded(
        &self,
        resource: &Resource,
        key: &[u8],
        live: &Live,
    ) -> Result<Option<Option<Live>>, ApiError> {
        if live.certain {
            return Ok(None);
        }
        let now = self.read_live(resource, key).await?;
        let same = now.as_ref().map(|now| now.revision) == Some(live.revision);
        Ok((!same).then_some(now))
    }

    async fn read_live(&self, resource: &Resource, key: &[u8]) -> Result<Option<Live>, ApiError> {
        self.stored(key)
            .await?
            .map(|kv| Live::stored(resource, kv))
            .transpose()
    }
}

impl Live {
    fn cached(resource: &Resource, entry: &Entry) -> Result<Self, ApiError> {
        Ok(Self {
            object: entry.value(resource).map_err(stored_error)?,
            revision: entry.revision,
            create_revision: entry.create_revision,
            stored: entry.stored.clone(),
            certain: false,
        })
    }

    fn stored(resource: &Resource, kv: store::KeyValue) -> Result<Self, ApiError> {
        Ok(Self {
            object: create::decode(resource, &kv)?,
            revision: kv.mod_revision as u64,
            create_revision: kv.create_revision as u64,
            stored: kv.value,
            certain: true,
        })
    }
}

fn live_version(live: &Live) -> super::delete::Standing {
    super::delete::Standing {
        revision: live.revision,
    }
}

/// A UID in the new object is a precondition.
fn check_uid(write: &Write<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
    let (given, stands) = (m::uid(new), m::uid(old));
    if given.is_empty() || given == stands {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {stands}");
    Err(ApiError::conflict(
        &write.resource.group_resource,
        write.name,
        why,
    ))
}

/// A resource version in the new object must be the one that stands; without one, the kind decides.
fn check_version(write: &Write<'_>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let given = m::resource_version(new);
    let stands = m::resource_version(old);
    if given.is_empty() || given == "0" {
        if !write.resource.strategy.allow_unconditional_update() {
            return Err(create::version_required(write, write.name));
        }
        let stands = stands.to_owned();
        m::set_text(new, "resourceVersion", stands);
        return Ok(());
    }
    if given != stands {
        if given.parse::<u64>().is_err() {
            return Err(ApiError::bad_request(format!(
                "invalid resource version {given:?}"
            )));
        }
        return Err(ApiError::modified(&write.resource.group_resource, write.name));
    }
    Ok(())
}

/// What an update can never change, nor need say.
fn keep_system_fields(new: &mut Value, old: &Value) {
    if m::uid(new).is_empty() {
        m::set_text(new, "uid", m::uid(old));
    }
    let keep = |new: &mut Value, field: &'static str| {
        if let Some(value) = m::metadata(old).and_then(|o| o.get(field)) {
            m::set(new, field, value.clone());
        }
    };
    keep(new, "creationTimestamp");
    keep(new, "deletionTimestamp");
    if m::deletion_grace_period_seconds(new).is_none() {
        keep(new, "deletionGracePeriodSeconds");
    }
}

/// The object is being deleted, nothing holds it any more, and its grace is over.
fn deletes(resource: &Resource, new: &Value, old: &Value) -> bool {
    m::finalizers(new).next().is_none()
        && m::deletion_timestamp(old).is_some()
        && m::deletion_grace_period_seconds(old).unwrap_or(0) == 0
        && resource.strategy.may_delete_during_update(new, old)
}

/// A write that changes nothing but the times in `managedFields` changes nothing.
fn ignore_managed_fields_times(new: &mut Value, old: &Value) {
    let list = |object: &Value| m::metadata(object).and_then(|x| x.get("managedFields")).cloned();
    let (Some(mut ours), Some(mut theirs)) = (list(new), list(old)) else {
        return;
    };
    if ours == theirs {
        return;
    }
    let original = theirs.clone();
    for list in [&mut ours, &mut theirs] {
        for entry in list.as_array_mut().into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
    }
    if ours != theirs {
        return;
    }
    let mut same = new.clone();
    m::set(&mut same, "managedFields", original);
    if same.semantic_eq(old) {
        *new = same;
    }
}
