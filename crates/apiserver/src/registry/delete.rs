//! Removing objects: grace, finalizers, preconditions, propagation.

use super::create;
use super::{PutError, Registry, Resource, Write, store_error};
use crate::cache::{Entry, Filter, PageRequest};
use access::admission::Operation;
use machinery::field::{Error, ErrorList, Path};
use machinery::meta as m;
use machinery::status::{ApiError, Reason};
use machinery::{Value, codec};
use resources::Grace;
use resources::strategy::{Deletion, GarbageCollection};
use std::sync::Arc;
use store::Txn;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Objects listed at once for a deletecollection.
const COLLECTION_PAGE: usize = 10_000;

/// `DeleteOptions`, read.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace: Grace,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What a delete left behind.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone (or would be, on a dry run).
    Gone(Arc<Entry>),
    /// The object is marked and waits for its finalizers or its grace.
    Marked(Arc<Entry>),
}

/// The state a removal was decided on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) revision: u64,
}

/// What is to be done about an object.
enum Plan {
    Remove,
    /// Store this, and remove it then if nothing holds it.
    Mark {
        object: Box<Value>,
        then_remove: bool,
    },
    /// Nothing: a deletion is under way.
    Leave,
}

impl DeleteOptions {
    /// Reads and checks the options.
    pub fn from_value(options: &Value) -> Result<Self, ApiError> {
        let mut errors = ErrorList::new();
        let orphan_dependents = options.get("orphanDependents").and_then(Value::as_bool);
        let policy = options.get("propagationPolicy").and_then(Value::as_str);
        let propagation = match policy {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.push(Error::not_supported(
                    &Path::new("propagationPolicy"),
                    other,
                    &["Background", "Foreground", "Orphan"],
                ));
                None
            }
        };
        if orphan_dependents.is_some() && policy.is_some() {
            errors.push(Error::invalid(
                &Path::new("propagationPolicy"),
                policy.unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let dry_run = options
            .get("dryRun")
            .and_then(Value::as_array)
            .unwrap_or_default();
        let dry_run =
            crate::request::query::parse_dry_run(dry_run.iter().filter_map(Value::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        }
        let text = |path: &[&str]| options.get_str_path(path).map(str::to_owned);
        Ok(Self {
            grace: Grace {
                // A negative grace is taken as one second.
                seconds: options
                    .get("gracePeriodSeconds")
                    .and_then(Value::as_i64)
                    .map(|s| if s < 0 { 1 } else { s }),
            },
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            orphan_dependents,
            propagation,
            dry_run,
        })
    }
}

impl Registry {
    /// Deletes an object, or begins to.
    pub async fn delete(&self, write: &Write<'_>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let resource = write.resource;
        let key = resource.key(write.namespace, write.name);
        loop {
            let kv = self.stored(&key).await?;
            let kv = kv.ok_or_else(|| ApiError::not_found(&resource.group_resource, write.name))?;
            let old = create::decode(resource, &kv)?;
            check_preconditions(resource, &old, options)?;
            let attributes = write.attributes(Operation::Delete, write.name, Some(&old));
            if self.admission.handles(Operation::Delete, &attributes.target) {
                self.admission.admit(&attributes, None).await?;
                self.admission.validate(&attributes, None).await?;
            }
            let outcome = match self.plan(write, &old, options)? {
                Plan::Leave => return Ok(Deleted::Marked(Arc::new(entry_of(resource, kv, &old)))),
                Plan::Remove => self.remove(write, kv, &old).await?,
                Plan::Mark { object, then_remove } => {
                    self.mark(write, kv, &old, *object, then_remove).await?
                }
            };
            // `None`: somebody else changed the object first; look again.
            if let Some(deleted) = outcome {
                return Ok(deleted);
            }
        }
    }

    /// Deletes whatever the filter selects; what is gone already does not matter.
    pub async fn delete_collection(
        &self,
        write: &Write<'_>,
        options: &DeleteOptions,
        filter: &Filter,
    ) -> Result<(Vec<Arc<Entry>>, u64), ApiError> {
        let resource = write.resource;
        let mut deleted = Vec::new();
        let mut request = PageRequest {
            limit: COLLECTION_PAGE,
            ..PageRequest::default()
        };
        let mut revision = 0;
        loop {
            let page = self.list(resource, filter, &request).await?;
            if revision == 0 {
                revision = page.revision;
            }
            for entry in page.entries {
                let one = Write {
                    namespace: &entry.meta.namespace,
                    name: &entry.meta.name,
                    resource,
                    version: write.version,
                    subresource: "",
                    user: write.user,
                    dry_run: write.dry_run,
                    manager: write.manager,
                    options: write.options,
                    notes: write.notes,
                };
                match self.delete(&one, options).await {
                    Ok(_) => {}
                    Err(error) if error.reason == Reason::NotFound => {}
                    Err(error) => return Err(error),
                }
                deleted.push(entry);
            }
            match page.next {
                Some(after) => request.after = Some(after),
                None => return Ok((deleted, revision)),
            }
        }
    }

    fn plan(&self, write: &Write<'_>, old: &Value, options: &DeleteOptions) -> Result<Plan, ApiError> {
        let strategy = &*write.resource.strategy;
        let context = self.context(write);
        let mut object = old.clone();
        match strategy.mark_for_deletion(&context, &mut object) {
            Deletion::Usual => {}
            Deletion::Marked => {
                return Ok(Plan::Mark {
                    object: Box::new(object),
                    then_remove: false,
                });
            }
            Deletion::Now => return Ok(Plan::Remove),
        }
        let graceful = if m::deletion_timestamp(old).is_some() {
            if !strategy.is_graceful() || m::deletion_grace_period_seconds(old).unwrap_or(0) == 0 {
                None
            } else {
                match shorten_grace(&mut object, options, context.now) {
                    Some(seconds) => Some(seconds),
                    None => return Ok(Plan::Leave),
                }
            }
        } else {
            let seconds = strategy.graceful_deletion(&context, old, &options.grace);
            if let Some(seconds) = seconds {
                begin_deletion(&mut object, context.now, seconds);
            }
            seconds
        };
        if let Some(finalizers) = garbage_finalizers(write.resource, &object, options) {
            m::set_finalizers(&mut object, finalizers.iter().map(String::as_str));
        }
        let pending = m::finalizers(&object).next().is_some();
        match graceful {
            Some(seconds) => Ok(Plan::Mark {
                object: Box::new(object),
                then_remove: seconds == 0 && !pending,
            }),
            None if pending => {
                mark_as_deleting(&mut object, context.now);
                Ok(Plan::Mark {
                    object: Box::new(object),
                    then_remove: false,
                })
            }
            // A finalizer that is dropped with the object needs no write of its own.
            None => Ok(Plan::Remove),
        }
    }

    /// Stores a marked object. `None`: it changed meanwhile.
    async fn mark(
        &self,
        write: &Write<'_>,
        kv: store::KeyValue,
        old: &Value,
        mut object: Value,
        then_remove: bool,
    ) -> Result<Option<Deleted>, ApiError> {
        let resource = write.resource;
        if then_remove {
            // The mark and the removal are one: nobody could act on what stands there in between.
            return self.remove_as(write, kv, old, Some(object)).await;
        }
        let encoded = self.encode_stored(resource, &mut object)?;
        let created = kv.create_revision as u64;
        if write.dry_run || encoded == kv.value {
            let entry = self.unstored(resource, kv.key, &object, encoded, kv.mod_revision as u64);
            return Ok(Some(Deleted::Marked(entry)));
        }
        let hooks = self.hooks.get(&resource.group_resource);
        let kept = hooks.map(|_| object.clone());
        match self
            .put(resource, kv.key, object, encoded, kv.mod_revision, created)
            .await
        {
            Ok(entry) => {
                if let (Some(hooks), Some(new)) = (hooks, kept) {
                    hooks.after_write(write, &new, Some(old)).await;
                }
                Ok(Some(Deleted::Marked(entry)))
            }
            Err(PutError::Conflict(_)) => Ok(None),
            Err(PutError::Store(error)) => Err(store_error(error)),
        }
    }

    /// Removes the object. `None`: it changed meanwhile.
    async fn remove(
        &self,
        write: &Write<'_>,
        kv: store::KeyValue,
        old: &Value,
    ) -> Result<Option<Deleted>, ApiError> {
        self.remove_as(write, kv, old, None).await
    }

    async fn remove_as(
        &self,
        write: &Write<'_>,
        kv: store::KeyValue,
        old: &Value,
        last: Option<Value>,
    ) -> Result<Option<Deleted>, ApiError> {
        let resource = write.resource;
        let mut entry = match last {
            Some(mut last) => {
                let encoded = self.encode_stored(resource, &mut last)?;
                Entry::new(
                    kv.key.clone(),
                    crate::cache::Meta::of(resource, &last),
                    kv.mod_revision as u64,
                    0,
                    encoded,
                )
            }
            None => entry_of(resource, kv.clone(), old),
        };
        if write.dry_run {
            return Ok(Some(Deleted::Gone(Arc::new(entry))));
        }
        let done = self
            .store
            .txn(Txn::delete(kv.key, kv.mod_revision))
            .await
            .map_err(store_error)?;
        if !done.succeeded {
            return Ok(None);
        }
        entry.revision = done.revision as u64;
        if let Some(hooks) = self.hooks.get(&resource.group_resource) {
            hooks.after_delete(old).await;
        }
        Ok(Some(Deleted::Gone(Arc::new(entry))))
    }

    /// Removes an object whose last finalizer an update takes away.
    pub(super) async fn finish_deletion(
        &self,
        write: &Write<'_>,
        key: &bytes::Bytes,
        old: &Value,
        standing: &Standing,
    ) -> Result<(), ApiError> {
        if write.dry_run {
            return Ok(());
        }
        let mut revision = standing.revision as i64;
        let mut newer = None;
        loop {
            let done = self
                .store
                .txn(Txn::delete(key.clone(), revision))
                .await
                .map_err(store_error)?;
            if done.succeeded {
                break;
            }
            let Some(kv) = done.found() else { return Ok(()) };
            let object = create::decode(write.resource, &kv)?;
            if m::finalizers(&object).next().is_some() {
                return Err(ApiError::modified(&write.resource.group_resource, write.name));
            }
            revision = kv.mod_revision;
            newer = Some(object);
        }
        if let Some(hooks) = self.hooks.get(&write.resource.group_resource) {
            hooks.after_delete(newer.as_ref().unwrap_or(old)).await;
        }
        Ok(())
    }
}

fn entry_of(resource: &Resource, kv: store::KeyValue, object: &Value) -> Entry {
    let meta = crate::cache::Meta::of(resource, object);
    Entry::new(
        kv.key,
        meta,
        kv.mod_revision as u64,
        kv.create_revision as u64,
        kv.value,
    )
}

fn check_preconditions(resource: &Resource, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let name = m::name(old);
    if let Some(uid) = &options.uid
        && uid != m::uid(old)
    {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            m::uid(old)
        );
        return Err(ApiError::conflict(&resource.kind_as_resource(), name, why));
    }
    if let Some(version) = &options.resource_version
        && version != m::resource_version(old)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            m::resource_version(old)
        );
        return Err(ApiError::conflict(&resource.kind_as_resource(), name, why));
    }
    Ok(())
}

/// The first mark: the object goes away `seconds` from now.
fn begin_deletion(object: &mut Value, now: jiff::Timestamp, seconds: i64) {
    let at = now
        .saturating_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(now);
    m::set_text(object, "deletionTimestamp", codec::scalar::format_time(at));
    m::set(object, "deletionGracePeriodSeconds", seconds);
    bump_generation(object);
}

/// A kind without grace waits for finalizers only.
fn mark_as_deleting(object: &mut Value, now: jiff::Timestamp) {
    let existing = m::deletion_timestamp(object).and_then(|t| t.parse::<jiff::Timestamp>().ok());
    if existing.is_none() {
        bump_generation(object);
    }
    if existing.is_none_or(|at| at > now) {
        m::set_text(object, "deletionTimestamp", codec::scalar::format_time(now));
    }
    m::set(object, "deletionGracePeriodSeconds", 0);
}

fn bump_generation(object: &mut Value) {
    let generation = m::generation(object);
    if generation > 0 {
        m::set(object, "generation", generation + 1);
    }
}

/// A deletion under way can only be hurried; `None` when there is nothing to do.
fn shorten_grace(object: &mut Value, options: &DeleteOptions, now: jiff::Timestamp) -> Option<i64> {
    let current = m::deletion_grace_period_seconds(object).unwrap_or(0);
    let mut wanted = options.grace.seconds?;
    if wanted >= current {
        return None;
    }
    let at = m::deletion_timestamp(object)?.parse::<jiff::Timestamp>().ok()?;
    let mut at = at
        .saturating_sub(jiff::SignedDuration::from_secs(current - wanted))
        .unwrap_or(at);
    if at < now {
        at = now;
        if wanted != 0 {
            // Still graceful: somebody else sees the mark and finishes.
            wanted = 1;
        }
    }
    m::set_text(object, "deletionTimestamp", codec::scalar::format_time(at));
    m::set(object, "deletionGracePeriodSeconds", wanted);
    Some(wanted)
}

/// The finalizers the garbage collector is to find, if they differ from what is there.
fn garbage_finalizers(resource: &Resource, object: &Value, options: &DeleteOptions) -> Option<Vec<String>> {
    let policy = resource.strategy.garbage_collection(&resource.info);
    if policy == GarbageCollection::Unsupported {
        return None;
    }
    let has = |wanted: &str| m::finalizers(object).any(|f| f == wanted);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Background)) => (false, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, None) if has(ORPHAN) => (true, false),
        (None, None) if has(FOREGROUND) => (false, true),
        (None, None) => (policy == GarbageCollection::OrphanDependents, false),
    };
    let mut wanted: Vec<String> = m::finalizers(object)
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .map(str::to_owned)
        .collect();
    if orphan {
        wanted.push(ORPHAN.to_owned());
    }
    if foreground {
        wanted.push(FOREGROUND.to_owned());
    }
    (orphan != has(ORPHAN) || foreground != has(FOREGROUND)).then_some(wanted)
}
