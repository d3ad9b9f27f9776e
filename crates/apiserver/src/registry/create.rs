//! Making objects.

use super::{PutError, Registry, Write, meta, store_error, stored_error};
use crate::cache::Entry;
use crate::object;
use access::admission::Operation;
use machinery::field::{Error, Path};
use machinery::meta as m;
use machinery::status::ApiError;
use machinery::{Value, codec};
use std::sync::Arc;

/// How often a generated name is tried.
const NAME_ATTEMPTS: usize = 8;
/// A generated name is at most as long as a label.
const MAX_GENERATED: usize = 63 - 5;

impl Registry {
    /// Makes an object, in the storage version, decoded and defaulted.
    pub async fn create(&self, write: &Write<'_>, mut object: Value) -> Result<Arc<Entry>, ApiError> {
        meta::wipe_system_fields(&mut object);
        ensure_namespace(write, &mut object)?;
        if !write.name.is_empty() && m::name(&object).is_empty() {
            m::set_text(&mut object, "name", write.name);
        }
        warn_of_repeated_owners(write, &mut object, false);
        self.track_fields(write, None, &mut object);
        // Admission knows the name only if the client gave one.
        let name = m::name(&object).to_owned();
        let attributes = write.attributes(Operation::Create, &name, None);
        if self.admission.handles(Operation::Create, &attributes.target) {
            self.admission.admit(&attributes, Some(&mut object)).await?;
            warn_of_repeated_owners(write, &mut object, true);
        }
        if m::name(&object).is_empty() && !m::generate_name(&object).is_empty() {
            let mut last = None;
            for _ in 0..NAME_ATTEMPTS {
                let mut attempt = object.clone();
                let name = generate_name(m::generate_name(&attempt));
                m::set_text(&mut attempt, "name", name);
                match self.create_named(write, attempt).await {
                    Err(error) if error.reason == machinery::status::Reason::AlreadyExists => {
                        last = Some(error)
                    }
                    decided => return decided,
                }
            }
            let name = last.and_then(|e| e.details).map(|d| d.name).unwrap_or_default();
            return Err(ApiError::generate_name_conflict(
                &write.resource.group_resource,
                &name,
                1,
            ));
        }
        self.create_named(write, object).await
    }

    /// Everything after the name is known.
    pub(super) async fn create_named(
        &self,
        write: &Write<'_>,
        mut object: Value,
    ) -> Result<Arc<Entry>, ApiError> {
        let resource = write.resource;
        let undo = self.prepare_new(write, &mut object).await?;
        let name = m::name(&object).to_owned();
        let attributes = write.attributes(Operation::Create, &name, None);
        self.admission.validate(&attributes, Some(&object)).await?;

        let key = resource.key(write.namespace, &name);
        let encoded = self.encode_stored(resource, &mut object)?;
        if write.dry_run {
            if self.stored(&key).await?.is_some() {
                return Err(ApiError::already_exists(&resource.group_resource, &name));
            }
            return Ok(self.unstored(resource, key, &object, encoded, 0));
        }
        let hooks = self.hooks.get(&resource.group_resource);
        let kept = hooks.map(|_| object.clone());
        match self.put(resource, key, object, encoded, 0, 0).await {
            Ok(entry) => {
                if let Some(undo) = undo {
                    undo.commit();
                }
                if let (Some(hooks), Some(object)) = (hooks, kept) {
                    hooks.after_write(write, &object, None).await;
                }
                Ok(entry)
            }
            Err(PutError::Conflict(found)) => Err(already_exists(resource, &name, found)),
            Err(PutError::Store(error)) => Err(store_error(error)),
        }
    }

    /// Completes and judges a new object whose name is known.
    pub(super) async fn prepare_new(
        &self,
        write: &Write<'_>,
        object: &mut Value,
    ) -> Result<Option<super::hooks::Undo>, ApiError> {
        let resource = write.resource;
        let context = self.context(write);
        m::set_text(object, "uid", machinery::chance::uuid());
        m::set_text(
            object,
            "creationTimestamp",
            codec::scalar::format_time(context.now),
        );
        let undo = match self.hooks.get(&resource.group_resource) {
            Some(hooks) => hooks.begin_create(write, object).await?,
            None => None,
        };
        let strategy = &*resource.strategy;
        strategy.prepare_for_create(&context, object);
        let name = m::name(object).to_owned();
        let errors = strategy.validate(&context, object);
        if !errors.is_empty() {
            return Err(write.invalid(&name, errors));
        }
        let errors = meta::validate(object, resource.info.namespaced, &|n, p| {
            strategy.check_name(n, p)
        });
        if !errors.is_empty() {
            return Err(write.invalid(&name, errors));
        }
        for warning in strategy.warnings_on_create(&context, object) {
            write.notes.warn(warning);
        }
        strategy.canonicalize(object);
        Ok(undo)
    }

    /// What the store holds at a key.
    pub(crate) async fn stored(&self, key: &[u8]) -> Result<Option<store::KeyValue>, ApiError> {
        Ok(self.store.get(key).await.map_err(store_error)?.kv)
    }
}

/// Sets the object's namespace to the request's, or refuses another one.
pub(crate) fn ensure_namespace(write: &Write<'_>, object: &mut Value) -> Result<(), ApiError> {
    let given = m::namespace(object);
    if !write.resource.info.namespaced {
        if !given.is_empty() {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        return Ok(());
    }
    if given.is_empty() {
        m::set_text(object, "namespace", write.namespace);
        return Ok(());
    }
    if given != write.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

pub(super) fn warn_of_repeated_owners(write: &Write<'_>, object: &mut Value, after_admission: bool) {
    let repeated = meta::dedup_owners(object);
    if repeated.is_empty() {
        return;
    }
    let uids = repeated.join(", ");
    write.notes.warn(if after_admission {
        format!(
            ".metadata.ownerReferences contains duplicate entries after mutating admission happens; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
        )
    } else {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
        )
    });
}

fn already_exists(resource: &super::Resource, name: &str, found: Option<store::KeyValue>) -> ApiError {
    let mut error = ApiError::already_exists(&resource.group_resource, name);
    let found = found.and_then(|kv| object::decode_stored(resource, &kv.value, kv.mod_revision as u64).ok());
    if found.is_some_and(|object| m::deletion_timestamp(&object).is_some()) {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}

/// `base` and five characters.
fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.push_str(&machinery::chance::suffix());
    name
}

/// The error of a PUT or PATCH whose object names something else.
pub(crate) fn check_name(write: &Write<'_>, object: &mut Value) -> Result<(), ApiError> {
    let given = m::name(object);
    if given.is_empty() {
        m::set_text(object, "name", write.name);
        return Ok(());
    }
    if given != write.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            write.name
        )));
    }
    Ok(())
}

/// A field that must be given for an update.
pub(crate) fn version_required(write: &Write<'_>, name: &str) -> ApiError {
    let errors = vec![Error::invalid(
        &Path::new("metadata").child("resourceVersion"),
        0,
        "must be specified for an update",
    )];
    ApiError::invalid(
        &write.resource.info.group,
        &write.resource.info.resource,
        name,
        errors,
    )
}

/// Reads a stored key.
pub(crate) fn decode(resource: &super::Resource, kv: &store::KeyValue) -> Result<Value, ApiError> {
    object::decode_stored(resource, &kv.value, kv.mod_revision as u64).map_err(stored_error)
}
