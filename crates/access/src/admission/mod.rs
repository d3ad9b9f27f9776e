//! Judging and completing objects on their way to the store: one file a plugin.
//!
//! All mutating calls come before all validating ones, each in the order of the list.

mod matching;
pub mod plugins;
mod policy;
mod reinvocation;
mod webhook;

use crate::Objects;
use crate::authorization::Authorizer;
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use machinery::{Value, meta};
use parking_lot::Mutex;
pub use reinvocation::Reinvocation;
use std::collections::BTreeMap;
use std::sync::Arc;
pub use webhook::endpoint;

/// What is being done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The resource and kind an attribute set speaks of.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The kind in the request's body, which for some subresources is of another group.
    pub kind: &'a str,
    pub kind_group: &'a str,
    pub kind_version: &'a str,
    pub namespace: &'a str,
    /// Empty when the server is still to make a name.
    pub name: &'a str,
}

impl Target<'_> {
    /// Whether this is about the object itself, of this group and resource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource.is_empty()
    }
}

/// A version of a resource that is served beside the one a request used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equivalent {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub kind: String,
}

/// The versions of a kind, and the way between them: the server's, for those who look at objects in versions of
/// their own choice.
pub trait Versions: Send + Sync {
    /// All served versions of the resource, under every group that has it; none if there is only one.
    fn equivalents(&self) -> Vec<Equivalent>;

    /// The object as a version shows it.
    fn view(&self, object: &Value, group: &str, version: &str) -> Result<Value, ApiError>;

    /// An object some version showed, with a configuration of that version applied on top, as server-side apply
    /// would: what it mentions wins.
    fn merge(&self, object: &Value, config: &Value, group: &str, version: &str) -> Result<Value, ApiError>;

    /// An object some version showed, changed by others: checked against its kind, with defaults, as the server
    /// works on it.
    fn accept(&self, object: Value, group: &str, version: &str) -> Result<Value, ApiError>;
}

/// Everything a plugin may look at. The object itself is an argument of its own, since only mutating calls
/// may change it.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub operation: Operation,
    pub target: Target<'a>,
    pub user: &'a UserInfo,
    /// The object as stored; on update and delete.
    pub old: Option<&'a Value>,
    /// `CreateOptions`, `UpdateOptions`, `DeleteOptions` … of the request.
    pub options: &'a Value,
    pub dry_run: bool,
    pub notes: &'a Notes,
    /// Of the object's kind. Without, the object is as the request has it, and in no other version.
    pub versions: Option<&'a dyn Versions>,
    /// What mutating plugins remember between their turns; [`Chain::admit`] gives it.
    pub reinvocation: Option<&'a Reinvocation>,
}

impl Attributes<'_> {
    /// The object as a version shows it.
    pub(crate) fn view(&self, object: &Value, hit: &matching::Hit) -> Result<Value, ApiError> {
        match self.versions {
            Some(versions) => versions.view(object, &hit.kind_group, &hit.kind_version),
            None => Ok(object.clone()),
        }
    }

    /// A refusal. An object that has no name yet is called by what its name will begin with.
    pub fn forbidden(&self, object: Option<&Value>, why: impl std::fmt::Display) -> ApiError {
        let resource = GroupResource::new(self.target.group, self.target.resource);
        let candidates = [
            self.target.name,
            object.map_or("", meta::name),
            object.map_or("", meta::generate_name),
        ];
        let name = candidates.into_iter().find(|name| !name.is_empty());
        ApiError::forbidden(&resource, name.unwrap_or("Unknown"), why)
    }
}

/// What plugins and strategies say beside yes and no.
#[derive(Debug, Default)]
pub struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
}

impl Notes {
    /// A warning for the client, said once however often it is added.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// An annotation for the audit event.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.lock().insert(key.into(), value.into());
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().clone()
    }
}

/// An admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see this at all; asked before any work is done for it.
    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool;

    /// May change the object (`None` on delete and some connects).
    async fn admit(&self, _attributes: &Attributes<'_>, _object: Option<&mut Value>) -> Result<(), ApiError> {
        Ok(())
    }

    /// May refuse the object.
    async fn validate(&self, _attributes: &Attributes<'_>, _object: Option<&Value>) -> Result<(), ApiError> {
        Ok(())
    }

    /// Called once, when the server starts.
    fn bind(&self, _objects: Arc<dyn Objects>) {}

    /// Called once, when the server starts, for those that ask what users may do.
    fn bind_authorizer(&self, _authorizer: Arc<dyn Authorizer>) {}
}

/// The plugins of a server, in order.
#[derive(Clone, Default)]
pub struct Chain(Arc<[Arc<dyn Plugin>]>);

impl Chain {
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self(plugins.into())
    }

    pub fn bind(&self, objects: &Arc<dyn Objects>, authorizer: &Arc<dyn Authorizer>) {
        for plugin in self.0.iter() {
            plugin.bind(Arc::clone(objects));
            plugin.bind_authorizer(Arc::clone(authorizer));
        }
    }

    /// The names of the plugins, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|plugin| plugin.name())
    }

    /// Whether anybody wants to see this.
    pub fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        self.0.iter().any(|p| p.handles(operation, target))
    }

    /// All mutating plugins; twice, if one of them changed what another had seen and wants to see again.
    pub async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        let reinvocation = Reinvocation::default();
        let attributes = Attributes {
            reinvocation: Some(&reinvocation),
            ..*attributes
        };
        self.admit_once(&attributes, object.as_deref_mut()).await?;
        if reinvocation.begin_again() {
            self.admit_once(&attributes, object).await?;
        }
        Ok(())
    }

    async fn admit_once(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        for plugin in self.0.iter() {
            if plugin.handles(attributes.operation, &attributes.target) {
                plugin.admit(attributes, object.as_deref_mut()).await?;
            }
        }
        Ok(())
    }

    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<(), ApiError> {
        for plugin in self.0.iter() {
            if plugin.handles(attributes.operation, &attributes.target) {
                plugin.validate(attributes, object).await?;
            }
        }
        Ok(())
    }
}
