//! What is served where: group, version and resource to the resource behind it.
//!
//! Built once from the tables; custom resources add and remove theirs while the server runs.

use crate::cache::{Cache, Reflector};
use crate::registry::{Behaviour, Resource, Tables, Version, built_in_prefix, built_in_storage_version};
use arc_swap::ArcSwap;
use compact_str::CompactString;
use hashbrown::HashMap;
use machinery::apply::ResetFields;
use machinery::gvk::{GroupResource, GroupVersionKind};
use resources::KindInfo;
use resources::apiextensions::CustomSchema;
use std::sync::Arc;

/// A resource in one version, as it is addressed.
#[derive(Debug)]
pub struct Endpoint {
    pub group: CompactString,
    pub version: CompactString,
    pub name: CompactString,
    pub kind: GroupVersionKind,
    pub namespaced: bool,
    pub verbs: Vec<CompactString>,
    /// `None` for what is answered but not stored: reviews, bindings.
    pub resource: Option<Arc<Resource>>,
    /// The index of `version` in the resource's versions.
    pub index: usize,
    pub singular: CompactString,
    pub short_names: Vec<CompactString>,
    pub categories: Vec<CompactString>,
    pub storage_version_hash: String,
    pub subresources: Vec<SubEndpoint>,
    /// What those who use it are told.
    pub warning: Option<CompactString>,
    /// What is published of a custom kind.
    pub custom: Option<Custom>,
}

/// What documents need of a custom kind.
#[derive(Debug)]
pub struct Custom {
    pub list_kind: CompactString,
    pub schema: Arc<CustomSchema>,
    /// Differs whenever the schema does.
    pub tag: CompactString,
}

#[derive(Debug)]
pub struct SubEndpoint {
    pub name: CompactString,
    pub kind: GroupVersionKind,
    pub verbs: Vec<CompactString>,
}

impl Endpoint {
    pub fn has_verb(&self, verb: &str) -> bool {
        // Objects of a kind that is going away are still changed: their finalizers have to go.
        let going = self.custom.is_some() && matches!(verb, "patch" | "update");
        going || self.verbs.iter().any(|v| v == verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&SubEndpoint> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.name)
    }
}

/// A group and its versions, the preferred first.
#[derive(Debug)]
pub struct GroupTable {
    pub name: CompactString,
    pub versions: Vec<VersionTable>,
}

#[derive(Debug, Clone)]
pub struct VersionTable {
    pub name: CompactString,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// One state of the routes.
#[derive(Debug, Default)]
pub struct Table {
    pub groups: Vec<Arc<GroupTable>>,
    by_path: HashMap<(CompactString, CompactString, CompactString), Arc<Endpoint>>,
    resources: HashMap<(CompactString, CompactString), Arc<Resource>>,
}

/// The routes, replaced as a whole when custom resources change.
#[derive(Debug, Default)]
pub struct Routes {
    built_in: Vec<Arc<GroupTable>>,
    table: ArcSwap<Table>,
    changed: tokio::sync::watch::Sender<()>,
}

impl Routes {
    /// The built-in resources of the versions `enabled` names.
    pub fn built_in(reflector: &Reflector, enabled: impl Fn(&str, &str) -> bool) -> Self {
        let mut shared: HashMap<(CompactString, CompactString), Arc<Resource>> = HashMap::new();
        let mut groups = Vec::new();
        for group in api::groups() {
            let mut versions = Vec::new();
            for version in &group.versions {
                let on = version.on_by_default() || enabled(group.name, version.name);
                if !on {
                    continue;
                }
                let endpoints = version
                    .resources
                    .iter()
                    .map(|r| {
                        let resource = stored_resource(group, r, &mut shared, reflector);
                        Arc::new(endpoint(group.name, version.name, r, resource))
                    })
                    .collect();
                versions.push(VersionTable {
                    name: version.name.into(),
                    endpoints,
                });
            }
            if !versions.is_empty() {
                groups.push(Arc::new(GroupTable {
                    name: group.name.into(),
                    versions,
                }));
            }
        }
        groups.push(Arc::new(crate::handlers::resource_metrics::group()));
        Self {
            table: ArcSwap::from_pointee(Table::new(groups.clone())),
            built_in: groups,
            changed: tokio::sync::watch::Sender::default(),
        }
    }

    /// Serves these beside the built-in resources, and no others. A version both know is served from both.
    pub fn replace_custom(&self, custom: Vec<GroupTable>) {
        let mut groups = self.built_in.clone();
        for mut group in custom {
            match groups.iter_mut().find(|known| known.name == group.name) {
                Some(known) => {
                    let mut versions = known.versions.clone();
                    for version in group.versions {
                        match versions.iter_mut().find(|known| known.name == version.name) {
                            Some(known) => known.endpoints.extend(version.endpoints),
                            None => versions.push(version),
                        }
                    }
                    *known = Arc::new(GroupTable {
                        name: group.name,
                        versions,
                    });
                }
                None => {
                    group
                        .versions
                        .sort_by(|a, b| machinery::gvk::compare_versions(&b.name, &a.name));
                    groups.push(Arc::new(group));
                }
            }
        }
        self.table.store(Arc::new(Table::new(groups)));
        self.changed.send_replace(());
    }

    /// Tells when custom resources change what is served.
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether this is served without any custom resource.
    pub(crate) fn is_built_in(&self, group: &str, version: &str) -> bool {
        self.built_in
            .iter()
            .any(|known| known.name == group && known.versions.iter().any(|v| v.name == version))
    }

    pub fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    pub fn endpoint(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Endpoint>> {
        self.table.load().endpoint(group, version, resource).cloned()
    }

    /// The resource behind a name, in whatever version.
    pub fn resource(&self, group: &str, resource: &str) -> Option<Arc<Resource>> {
        self.table
            .load()
            .resources
            .get(&(group.into(), resource.into()))
            .cloned()
    }

    /// Every stored resource.
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.table.load().resources.values().cloned().collect()
    }
}

impl Table {
    pub fn new(groups: Vec<Arc<GroupTable>>) -> Self {
        let mut table = Self {
            groups,
            ..Self::default()
        };
        for group in &table.groups {
            for version in &group.versions {
                for endpoint in &version.endpoints {
                    let path = (group.name.clone(), version.name.clone(), endpoint.name.clone());
                    table.by_path.insert(path, Arc::clone(endpoint));
                    if let Some(resource) = &endpoint.resource {
                        let name = (group.name.clone(), endpoint.name.clone());
                        // Of a custom kind's versions the stored one stands for all.
                        if resource.storage == resource.stored || !table.resources.contains_key(&name) {
                            table.resources.insert(name, Arc::clone(resource));
                        }
                    }
                }
            }
        }
        table
    }

    pub fn endpoint(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Endpoint>> {
        self.by_path.get(&(group.into(), version.into(), resource.into()))
    }

    pub fn group(&self, name: &str) -> Option<&Arc<GroupTable>> {
        self.groups.iter().find(|g| g.name == name)
    }
}

type GroupAndName = (&'static str, &'static str);

/// Resources that share another's objects: the same keys, another group's shape.
const COHABITING: [(GroupAndName, GroupAndName); 1] = [(("events.k8s.io", "events"), ("", "events"))];

fn stored_resource(
    group: &api::Group,
    r: &api::Resource,
    shared: &mut HashMap<(CompactString, CompactString), Arc<Resource>>,
    reflector: &Reflector,
) -> Option<Arc<Resource>> {
    if !r.has_verb("get") || !r.has_verb("create") && !r.has_verb("list") || r.name == "componentstatuses" {
        return None;
    }
    let own = (group.name, r.name);
    let home = COHABITING
        .iter()
        .find(|(from, _)| *from == own)
        .map_or(own, |(_, to)| *to);
    let key = (CompactString::from(home.0), CompactString::from(home.1));
    if let Some(resource) = shared.get(&key) {
        return Some(Arc::clone(resource));
    }
    let resource = Arc::new(built_in_resource(home, r)?);
    reflector.register(&resource);
    shared.insert(key, Arc::clone(&resource));
    Some(resource)
}

fn built_in_resource((group, name): (&str, &str), r: &api::Resource) -> Option<Resource> {
    let mut versions = Vec::new();
    // Cohabiting groups' versions come last: they are served, never stored.
    let guests = COHABITING
        .iter()
        .filter(|(_, home)| *home == (group, name))
        .map(|(guest, _)| guest.0);
    for g in std::iter::once(group).chain(guests) {
        for table in api::groups().iter().filter(|t| t.name == g) {
            for version in &table.versions {
                let Some(found) = version.resources.iter().find(|r| r.name == name) else {
                    continue;
                };
                versions.push(Version {
                    version: version.name.into(),
                    api_version: found.kind.api_version().into(),
                    kind: found.kind.kind.clone(),
                    ty: api::kind(&found.kind)?,
                });
            }
        }
    }
    let storage = built_in_storage_version(group, name, &versions);
    let info = KindInfo {
        group: group.into(),
        kind: r.kind.kind.clone(),
        resource: name.into(),
        namespaced: r.namespaced,
        has_status: r.subresource("status").is_some(),
    };
    let strategy = resources::strategy(group, name);
    let reset_fields = ResetFields::new(strategy.reset_fields(&info).iter().copied());
    Some(Resource {
        group_resource: GroupResource::new(group, name),
        singular: r.singular.into(),
        short_names: r.short_names.iter().map(|s| (*s).into()).collect(),
        categories: r.categories.iter().map(|s| (*s).into()).collect(),
        prefix: built_in_prefix(group, name),
        strategy: Behaviour::BuiltIn(strategy),
        types: Tables::BuiltIn,
        versions,
        storage,
        stored: storage,
        built_in: true,
        reset_fields,
        cache: Arc::new(Cache::default()),
        conversion: None,
        info,
    })
}

fn endpoint(group: &str, version: &str, r: &api::Resource, resource: Option<Arc<Resource>>) -> Endpoint {
    let own = |list: &[&str]| list.iter().map(|s| (*s).into()).collect();
    let api_version = r.kind.api_version();
    let index = resource
        .as_ref()
        .and_then(|res| res.versions.iter().position(|v| v.api_version == api_version))
        .unwrap_or_default();
    Endpoint {
        group: group.into(),
        version: version.into(),
        name: r.name.into(),
        kind: r.kind.clone(),
        namespaced: r.namespaced,
        verbs: own(&r.verbs),
        storage_version_hash: if resource.is_some() {
            r.storage_version_hash()
        } else {
            String::new()
        },
        resource,
        index,
        singular: r.singular.into(),
        short_names: own(&r.short_names),
        categories: own(&r.categories),
        subresources: r
            .subresources
            .iter()
            .map(|s| SubEndpoint {
                name: s.name.into(),
                kind: s.kind.clone(),
                verbs: own(&s.verbs),
            })
            .collect(),
        warning: None,
        custom: None,
    }
}
