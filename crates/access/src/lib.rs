//! Who may do what: authentication, authorization and admission, one file a plugin.
//!
//! The API server asks in upstream's order: authenticators, authorizers, mutating admission, validating
//! admission. Each list is built by whoever starts the server; nothing here knows a route.
//!
//! **Invariant:** plugins read stored objects only through [`Objects`], which the server hands them when it
//! starts (`bind`); they never open the store.

pub mod admission;
pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod fairness;
mod pod_references;
pub mod remote;

use async_trait::async_trait;
use jiff::Timestamp;
use machinery::Value;
use machinery::status::ApiError;
use std::sync::Arc;

/// Stored objects, read from the server's own cache: consistent with every write acknowledged before.
///
/// Objects come in the version their group stores.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// One object; `namespace` is empty for kinds that have none.
    async fn get(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError>;

    /// All objects of a resource; of one namespace unless it is empty.
    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Arc<Value>>, ApiError>;

    /// The objects of a resource, of one namespace unless it is empty, that have this text at a dotted path of fields.
    async fn select(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        (field, value): (&str, &str),
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let path: Vec<&str> = field.split('.').collect();
        let mut list = self.list(group, resource, namespace).await?;
        list.retain(|object| object.get_str_path(&path) == Some(value));
        Ok(list)
    }

    /// The resource of a kind, and whether its objects are in namespaces.
    fn resource_of(&self, group: &str, kind: &str) -> Option<(String, bool)>;

    /// Stores a changed object, unless somebody changed it after the resource version it carries (a conflict).
    ///
    /// Neither the kind's strategy nor admission is asked: this is the server writing what it keeps book of.
    async fn replace(&self, group: &str, resource: &str, object: Value) -> Result<Arc<Value>, ApiError>;

    /// What time it is for the server.
    fn now(&self) -> Timestamp;

    /// A number that moves whenever an object of the resource changes. Cheap: made to be asked per request.
    fn version(&self, group: &str, resource: &str) -> u64;
}
