//! A stored resource: what it is, where its objects stand in the store, and its cache.

use super::store_error;
use crate::cache::{Cache, Entry, Filter, Reflector, Refused, Started, WatchStart};
use crate::custom::conversion::Conversion;
use crate::object;
use access::admission::{Equivalent, Versions};
use bytes::Bytes;
use compact_str::CompactString;
use machinery::apply::ResetFields;
use machinery::gvk::GroupResource;
use machinery::schema::{TypeId, Types};
use machinery::status::ApiError;
use machinery::{Value, codec, defaults};
use resources::apiextensions::CustomSchema;
use resources::{KindInfo, Strategy};
use std::sync::Arc;

/// One resource, however many versions serve it.
pub struct Resource {
    pub info: KindInfo,
    pub group_resource: GroupResource,
    pub singular: CompactString,
    pub short_names: Vec<CompactString>,
    pub categories: Vec<CompactString>,
    /// Where its keys begin: `/registry/pods/`.
    pub prefix: String,
    pub strategy: Behaviour,
    pub types: Tables,
    pub versions: Vec<Version>,
    /// The version the engine works in: an index of `versions`. Of a built-in kind the one that is stored; a custom
    /// kind has one `Resource` a version, for each has its own rules.
    pub storage: usize,
    /// The version the store holds new objects in: an index of `versions`.
    pub stored: usize,
    /// Stored in the protobuf envelope; otherwise as JSON.
    pub built_in: bool,
    /// What the object's own endpoint never lets a manager own.
    pub reset_fields: ResetFields,
    /// Shared by all versions of a custom kind.
    pub cache: Arc<Cache>,
    /// Who converts between a custom kind's versions, if they differ in more than the name.
    pub(crate) conversion: Option<Arc<Conversion>>,
}

/// How a resource differs from others.
#[derive(Clone)]
pub enum Behaviour {
    BuiltIn(&'static dyn Strategy),
    Own(Arc<dyn Strategy>),
}

impl std::ops::Deref for Behaviour {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(strategy) => *strategy,
            Self::Own(strategy) => &**strategy,
        }
    }
}

/// The arena a resource's types are in.
#[derive(Debug, Clone)]
pub enum Tables {
    BuiltIn,
    /// A custom kind's, made when first used.
    Custom(Arc<CustomSchema>),
}

impl std::ops::Deref for Tables {
    type Target = Types;

    fn deref(&self) -> &Types {
        match self {
            Self::BuiltIn => api::types(),
            Self::Custom(schema) => schema.types(),
        }
    }
}

/// A served (or only stored) version of a resource.
#[derive(Debug, Clone)]
pub struct Version {
    pub version: CompactString,
    pub api_version: CompactString,
    pub kind: CompactString,
    pub ty: TypeId,
}

impl Resource {
    /// Where the objects of a namespace stand, or all if it is empty.
    pub fn key_prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() || !self.info.namespaced {
            self.prefix.clone()
        } else {
            format!("{}{namespace}/", self.prefix)
        }
    }

    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        let mut key = String::with_capacity(self.prefix.len() + namespace.len() + name.len() + 1);
        key.push_str(&self.prefix);
        if self.info.namespaced {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key.into()
    }

    /// Upstream names the kind where it means the resource in some conflicts.
    pub fn kind_as_resource(&self) -> GroupResource {
        GroupResource::new(&self.info.group, &self.info.kind)
    }

    /// The version the engine works in.
    pub fn storage_version(&self) -> &Version {
        &self.versions[self.storage]
    }

    /// The version the store holds.
    pub fn stored_version(&self) -> &Version {
        &self.versions[self.stored]
    }

    /// The index of a version by its name.
    pub fn version_index(&self, version: &str) -> Option<usize> {
        self.versions.iter().position(|v| v.version == version)
    }

    /// Has what is stored in other versions converted, all at once, before it is read.
    pub(crate) async fn prepare(&self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        let Some(conversion) = &self.conversion else {
            return Ok(());
        };
        let to = &self.storage_version().api_version;
        let raw = entries.iter().filter_map(|entry| {
            let mut object = object::as_written(&entry.stored).ok()?;
            object::set_resource_version(&mut object, entry.revision);
            Some((object, entry.revision))
        });
        conversion
            .prepare(raw.collect(), to)
            .await
            .map_err(ApiError::internal)
    }

    /// The cache, filled.
    pub async fn ready<'a>(&'a self, reflector: &Reflector) -> store::Result<&'a Cache> {
        reflector.ensure(self).await?;
        Ok(&self.cache)
    }

    /// Starts a watch on the filled cache; 410 if its start is forgotten.
    pub(crate) async fn watch(
        &self,
        reflector: &Reflector,
        filter: &Filter,
        start: WatchStart,
    ) -> Result<Started, ApiError> {
        loop {
            let cache = self.ready(reflector).await.map_err(store_error)?;
            match cache.watch(self, filter, start) {
                Ok(started) => return Ok(started),
                Err(Refused::TooOld(old)) => return Err(super::read::too_old(&old)),
                Err(Refused::Cold) => {}
            }
        }
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({})", self.group_resource)
    }
}

/// Resources whose keys do not begin with their own name: upstream's historical exceptions.
const SPECIAL_PREFIXES: [(&str, &str, &str); 7] = [
    ("", "endpoints", "services/endpoints"),
    ("", "nodes", "minions"),
    ("", "replicationcontrollers", "controllers"),
    ("", "services", "services/specs"),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "apiextensions.k8s.io/customresourcedefinitions",
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        "apiregistration.k8s.io/apiservices",
    ),
    ("networking.k8s.io", "ingresses", "ingress"),
];

/// Built-in resources not stored in the first version that serves them.
const SPECIAL_STORAGE_VERSIONS: [(&str, &str, &str); 6] = [
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        "v1beta1",
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
        "v1beta1",
    ),
    ("certificates.k8s.io", "clustertrustbundles", "v1beta1"),
    ("certificates.k8s.io", "podcertificaterequests", "v1beta1"),
    ("coordination.k8s.io", "leasecandidates", "v1beta1"),
    ("resource.k8s.io", "devicetaintrules", "v1alpha3"),
];

/// Where a built-in resource's keys begin.
pub fn built_in_prefix(group: &str, resource: &str) -> String {
    let special = SPECIAL_PREFIXES
        .iter()
        .find(|(g, r, _)| *g == group && *r == resource);
    format!("/registry/{}/", special.map_or(resource, |(_, _, prefix)| prefix))
}

/// Where the objects of every built-in resource stand, for who treats keys by resource.
pub fn built_in_stored() -> Vec<encryption::StoredResource> {
    let mut stored: Vec<encryption::StoredResource> = Vec::new();
    for group in api::groups() {
        for resource in group.versions.iter().flat_map(|version| &version.resources) {
            let prefix = built_in_prefix(group.name, resource.name);
            let known = stored.iter().any(|known| known.prefix == prefix);
            if !known && resource.has_verb("get") {
                stored.push(encryption::StoredResource {
                    prefix,
                    group: group.name.to_owned(),
                    resource: resource.name.to_owned(),
                });
            }
        }
    }
    stored
}

/// The version a built-in resource is stored in, of those that serve it, the preferred first.
pub fn built_in_storage_version(group: &str, resource: &str, versions: &[Version]) -> usize {
    let special = SPECIAL_STORAGE_VERSIONS
        .iter()
        .find(|(g, r, _)| *g == group && *r == resource);
    special
        .and_then(|(_, _, version)| versions.iter().position(|v| v.version == *version))
        .unwrap_or(0)
}

impl Versions for Resource {
    fn equivalents(&self) -> Vec<Equivalent> {
        if self.versions.len() < 2 {
            return Vec::new();
        }
        let equivalents = self.versions.iter().map(|version| {
            let (group, _) = version.api_version.split_once('/').unwrap_or_default();
            Equivalent {
                group: group.to_owned(),
                version: version.version.to_string(),
                resource: self.info.resource.to_string(),
                kind: version.kind.to_string(),
            }
        });
        equivalents.collect()
    }

    fn view(&self, object: &Value, group: &str, version: &str) -> Result<Value, ApiError> {
        let version = self.version_at(group, version)?;
        object::try_convert(self, object.clone(), version).map_err(ApiError::internal)
    }

    fn merge(&self, object: &Value, config: &Value, group: &str, version: &str) -> Result<Value, ApiError> {
        let version = &self.versions[self.version_at(group, version)?];
        machinery::apply::merge_onto(&self.types, version.ty, object, config).map_err(ApiError::internal)
    }

    fn accept(&self, object: Value, group: &str, version: &str) -> Result<Value, ApiError> {
        let at = self.version_at(group, version)?;
        let version = &self.versions[at];
        let decoded = codec::json::conform(&object, &self.types, version.ty).map_err(ApiError::internal)?;
        let mut object = decoded.value;
        object::set_kind(&mut object, &version.api_version, &version.kind);
        defaults::apply(&self.types, version.ty, &mut object);
        let mut object = object::try_convert(self, object, self.storage).map_err(ApiError::internal)?;
        self.strategy.default(&mut object);
        Ok(object)
    }
}

impl Resource {
    fn version_at(&self, group: &str, version: &str) -> Result<usize, ApiError> {
        let is = |known: &Version| {
            let (of, _) = known.api_version.split_once('/').unwrap_or_default();
            of == group && known.version == version
        };
        self.versions.iter().position(is).ok_or_else(|| {
            ApiError::internal(format!(
                "{} is not served in {group}/{version}",
                self.group_resource
            ))
        })
    }
}
