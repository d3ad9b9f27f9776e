//! Reading objects, from the cache as new as from the store.

use super::update::Change;
use super::{Registry, Resource, Write, store_error, stored_error};
use crate::cache::{Entry, Filter, Meta, Page, PageRequest, Refused, TooOld};
use crate::object;
use access::Objects;
use access::admission::Notes;
use async_trait::async_trait;
use machinery::field::{Error, Path};
use machinery::gvk::GroupResource;
use machinery::status::{ApiError, Cause, Details, Reason};
use machinery::user::UserInfo;
use machinery::{Value, meta};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{KeyRange, RangeRequest};

/// How long a reader waits for a revision that has not happened yet.
const FUTURE_PATIENCE: Duration = Duration::from_secs(3);

impl Registry {
    /// One object, newest state; `any` takes whatever is cached.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        any: bool,
    ) -> Result<Arc<Entry>, ApiError> {
        let key = resource.key(namespace, name);
        let not_found = || ApiError::not_found(&resource.group_resource, name);
        if resource.cache.is_ready() {
            if !any {
                self.reflector.fresh().await.map_err(store_error)?;
            }
            if let Ok(found) = resource.cache.look_up(&key) {
                return found.ok_or_else(not_found);
            }
        }
        let kv = self.stored(&key).await?.ok_or_else(not_found)?;
        read(resource, kv)
    }

    /// A list, newest state or at a revision.
    pub async fn list(
        &self,
        resource: &Resource,
        filter: &Filter,
        request: &PageRequest,
    ) -> Result<Page, ApiError> {
        if filter.reads_converted(resource) {
            let all = self
                .list_alike(resource, &filter.unconverted(), &all_of(request))
                .await?;
            return converted(resource, filter, request.limit, all).await;
        }
        self.list_alike(resource, filter, request).await
    }

    /// As [`Self::list`], by what can be told of every version alike.
    async fn list_alike(
        &self,
        resource: &Resource,
        filter: &Filter,
        request: &PageRequest,
    ) -> Result<Page, ApiError> {
        loop {
            let cache = resource.ready(&self.reflector).await.map_err(store_error)?;
            let current = self.reflector.fresh().await.map_err(store_error)?;
            let forgotten = self.compacted.load(Ordering::Acquire);
            if request.revision.is_some_and(|asked| asked < forgotten) {
                return self.list_past(resource, filter, request).await;
            }
            match cache.list(resource, filter, request, current) {
                Ok(page) => return Ok(page),
                Err(Refused::TooOld(_)) => return self.list_past(resource, filter, request).await,
                Err(Refused::Cold) => {}
            }
        }
    }

    /// A list of whatever is cached.
    pub async fn list_any(
        &self,
        resource: &Resource,
        filter: &Filter,
        request: &PageRequest,
    ) -> Result<Page, ApiError> {
        let reads_converted = filter.reads_converted(resource);
        let (first, asked) = if reads_converted {
            (filter.unconverted(), all_of(request))
        } else {
            (filter.clone(), request.clone())
        };
        loop {
            let cache = resource.ready(&self.reflector).await.map_err(store_error)?;
            let current = self.reflector.revision();
            match cache.list(resource, &first, &asked, current) {
                Ok(page) if reads_converted => {
                    return converted(resource, filter, request.limit, page).await;
                }
                Ok(page) => return Ok(page),
                Err(Refused::TooOld(old)) => return Err(too_old(&old)),
                Err(Refused::Cold) => {}
            }
        }
    }

    /// Waits for a revision, but not forever.
    pub async fn wait_for(&self, revision: u64) -> Result<(), ApiError> {
        match tokio::time::timeout(FUTURE_PATIENCE, self.reflector.wait_for(revision)).await {
            Ok(reached) => reached.map_err(store_error),
            Err(_) => {
                let current = self.reflector.revision();
                let message = format!("Too large resource version: {revision}, current: {current}");
                let cause = Cause {
                    reason: "ResourceVersionTooLarge".to_owned(),
                    message: "Too large resource version".to_owned(),
                    field: String::new(),
                };
                let mut error = ApiError::timeout(message, 1);
                error.details = Some(Box::new(Details {
                    causes: vec![cause],
                    retry_after_seconds: 1,
                    ..Details::default()
                }));
                Err(error)
            }
        }
    }

    /// A list the cache no longer knows, from the store's history.
    async fn list_past(
        &self,
        resource: &Resource,
        filter: &Filter,
        request: &PageRequest,
    ) -> Result<Page, ApiError> {
        let revision = request.revision.unwrap_or(0);
        let prefix = resource.key_prefix(&filter.namespace);
        let mut page = Page {
            revision,
            ..Page::default()
        };
        let mut after = request.after.clone();
        loop {
            let range = match &after {
                Some(after) => KeyRange::prefix_from(prefix.as_bytes(), [&after[..], b"\0"].concat()),
                None => KeyRange::prefix(prefix.clone().into_bytes()),
            };
            let limit = if request.limit == 0 { 0 } else { request.limit + 1 };
            let answer = self
                .store
                .range(RangeRequest::new(range).at(revision as i64).limit(limit))
                .await;
            let answer = answer.map_err(|error| match error {
                store::Error::FutureRevision { requested, current } => ApiError::timeout(
                    format!("Too large resource version: {requested}, current: {current}"),
                    1,
                ),
                other => store_error(other),
            })?;
            after = answer.kvs.last().map(|kv| kv.key.clone());
            for kv in answer.kvs {
                let entry = read(resource, kv)?;
                if !filter.matches_entry(resource, &entry) {
                    continue;
                }
                if request.limit > 0 && page.entries.len() == request.limit {
                    page.next = page.entries.last().map(|e| e.key.clone());
                    return Ok(page);
                }
                page.entries.push(entry);
            }
            if !answer.more || after.is_none() {
                return Ok(page);
            }
        }
    }
}

/// The same list with nothing left for another page.
fn all_of(request: &PageRequest) -> PageRequest {
    PageRequest {
        limit: 0,
        ..request.clone()
    }
}

/// What a filter leaves of a list once its objects are in the resource's own version.
async fn converted(resource: &Resource, filter: &Filter, limit: usize, all: Page) -> Result<Page, ApiError> {
    resource.prepare(&all.entries).await?;
    let mut page = Page {
        entries: filter.converted(resource, all.entries)?,
        ..all
    };
    if limit > 0 && page.entries.len() > limit {
        page.entries.truncate(limit);
        page.next = page.entries.last().map(|entry| entry.key.clone());
    }
    Ok(page)
}

/// Whom plugins ask for objects.
pub struct Reader {
    pub registry: Arc<Registry>,
    pub routes: Arc<crate::routes::Routes>,
}

#[async_trait]
impl Objects for Reader {
    async fn get(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        let Some(resource) = self.routes.resource(group, resource) else {
            return Ok(None);
        };
        resource
            .ready(&self.registry.reflector)
            .await
            .map_err(store_error)?;
        match self.registry.get(&resource, namespace, name, false).await {
            Ok(entry) => entry
                .value(&resource)
                .map(|v| Some(Arc::new(v)))
                .map_err(stored_error),
            Err(error) if error.reason == Reason::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Arc<Value>>, ApiError> {
        let Some(resource) = self.routes.resource(group, resource) else {
            return Ok(Vec::new());
        };
        let page = self
            .registry
            .list(&resource, &Filter::all(namespace), &PageRequest::default())
            .await?;
        page.entries
            .iter()
            .map(|e| e.value(&resource).map(Arc::new).map_err(stored_error))
            .collect()
    }

    async fn select(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        (field, value): (&str, &str),
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let Some(resource) = self.routes.resource(group, resource) else {
            return Ok(Vec::new());
        };
        let filter = Filter::with_field(namespace, field, value);
        let page = self
            .registry
            .list(&resource, &filter, &PageRequest::default())
            .await?;
        page.entries
            .iter()
            .map(|e| e.value(&resource).map(Arc::new).map_err(stored_error))
            .collect()
    }

    fn resource_of(&self, group: &str, kind: &str) -> Option<(String, bool)> {
        let table = self.routes.table();
        let versions = &table.group(group)?.versions;
        let mut endpoints = versions.iter().flat_map(|version| &version.endpoints);
        let found = endpoints.find(|endpoint| endpoint.kind.kind == kind && endpoint.resource.is_some())?;
        Some((found.name.to_string(), found.namespaced))
    }

    async fn replace(&self, group: &str, resource: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        let Some(resource) = self.routes.resource(group, resource) else {
            return Err(ApiError::internal(format!("no resource {resource}")));
        };
        let notes = Notes::default();
        let (user, options) = (
            UserInfo::authenticated("system:apiserver", &["system:masters"]),
            Value::object(),
        );
        let (namespace, name) = (
            meta::namespace(&object).to_owned(),
            meta::name(&object).to_owned(),
        );
        let write = Write {
            resource: &resource,
            version: resource.storage,
            subresource: "",
            namespace: &namespace,
            name: &name,
            user: &user,
            dry_run: false,
            manager: "kube-apiserver",
            options: &options,
            notes: &notes,
        };
        let change = Swap {
            object,
            group_resource: &resource.group_resource,
        };
        let entry = self.registry.update_raw(&write, &change).await?;
        entry.value(&resource).map(Arc::new).map_err(stored_error)
    }

    fn now(&self) -> jiff::Timestamp {
        self.registry.clock.now()
    }

    fn version(&self, group: &str, resource: &str) -> u64 {
        self.routes
            .resource(group, resource)
            .map_or(0, |r| r.cache.version())
    }
}

/// An object, if what it was made from still stands.
struct Swap<'a> {
    object: Value,
    group_resource: &'a GroupResource,
}

impl Change for Swap<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let name = meta::name(&self.object);
        match live {
            None => Err(ApiError::not_found(self.group_resource, name)),
            Some(live) if meta::resource_version(live) != meta::resource_version(&self.object) => {
                Err(ApiError::modified(self.group_resource, name))
            }
            Some(_) => Ok(self.object.clone()),
        }
    }
}

fn read(resource: &Resource, kv: store::KeyValue) -> Result<Arc<Entry>, ApiError> {
    let revision = kv.mod_revision as u64;
    let object = object::decode_unconverted(resource, &kv.value, revision).map_err(stored_error)?;
    let meta = Meta::of(resource, &object);
    Ok(Arc::new(Entry::new(
        kv.key,
        meta,
        revision,
        kv.create_revision as u64,
        kv.value,
    )))
}

/// 410 for a revision that is forgotten.
pub(super) fn too_old(old: &TooOld) -> ApiError {
    ApiError::expired(format!(
        "too old resource version: {} ({})",
        old.requested, old.oldest
    ))
}

/// A continue token that is none.
pub fn bad_continue(why: impl std::fmt::Display) -> ApiError {
    let error = Error::invalid(
        &Path::new("continue"),
        "",
        format!("invalid continue token: {why}"),
    );
    ApiError::invalid("", "", "", vec![error])
}
