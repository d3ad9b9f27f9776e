//! A definition made into resources and endpoints.

use super::conversion::Conversion;
use crate::cache::{Cache, Entry, Reflector};
use crate::registry::{Behaviour, Resource, Tables, Version};
use crate::routes::{Endpoint, SubEndpoint};
use access::Objects;
use base64::Engine as _;
use compact_str::{CompactString, format_compact};
use machinery::Value;
use machinery::apply::ResetFields;
use machinery::gvk::{GroupResource, GroupVersionKind};
use resources::KindInfo;
use resources::apiextensions::definition::schema_of;
use resources::apiextensions::{CustomResource, CustomSchema, Definition, structural};
use sha2::Digest as _;
use std::sync::Arc;

const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
/// Of a kind whose definition is being deleted, nothing new is made.
const LAST_VERBS: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];
const SUB_VERBS: [&str; 3] = ["get", "patch", "update"];

/// An established kind.
pub(super) struct Kind {
    pub(super) definition: Arc<Definition>,
    /// One a version, in the definition's order.
    pub(super) resources: Vec<Arc<Resource>>,
    schemas: Vec<Arc<CustomSchema>>,
    /// Served versions and their endpoints.
    pub(super) endpoints: Vec<(CompactString, Arc<Endpoint>)>,
}

impl Kind {
    /// Makes a kind of a definition. `source` is the definition where it is cached: schemas are read from there.
    pub(super) fn new(
        definition: Definition,
        source: &Arc<Entry>,
        crds: &Arc<Resource>,
        objects: &Arc<dyn Objects>,
    ) -> Self {
        let definition = Arc::new(definition);
        let schemas: Vec<Arc<CustomSchema>> = definition
            .versions
            .iter()
            .map(|version| {
                let (source, crds, name) = (Arc::clone(source), Arc::clone(crds), version.name.clone());
                Arc::new(CustomSchema::new(move || {
                    let crd = source.value(&crds).ok()?;
                    schema_of(&crd, &name).cloned()
                }))
            })
            .collect();
        let cache = Arc::new(Cache::default());
        let conversion = definition.webhook.then(|| {
            let crd = source.value(crds).unwrap_or_else(|error| {
                tracing::error!(%error, definition = %definition.name, "a definition cannot be read");
                Value::Null
            });
            let webhook = crd.get_path(&["spec", "conversion", "webhook"]);
            Arc::new(Conversion::new(
                webhook.unwrap_or(&Value::Null),
                Arc::clone(objects),
            ))
        });
        let resources = (0..definition.versions.len())
            .map(|at| Arc::new(resource(&definition, at, &schemas[at], &cache, &conversion)))
            .collect();
        let mut kind = Self {
            definition,
            resources,
            schemas,
            endpoints: Vec::new(),
        };
        kind.publish();
        kind
    }

    /// The resource of the stored version, which the reflector knows.
    pub(super) fn stored(&self) -> &Arc<Resource> {
        &self.resources[self.definition.storage()]
    }

    pub(super) fn register(&self, reflector: &Reflector) {
        reflector.register(self.stored());
    }

    pub(super) fn unregister(&self, reflector: &Reflector) {
        reflector.unregister(self.stored());
    }

    /// Takes over a definition that differs only in what is told of the kind.
    pub(super) fn retell(&mut self, definition: Definition) {
        self.definition = Arc::new(definition);
        self.publish();
    }

    fn publish(&mut self) {
        let definition = &self.definition;
        let served = definition.versions.iter().enumerate().filter(|(_, v)| v.served);
        self.endpoints = served
            .map(|(at, version)| {
                let endpoint = endpoint(definition, at, &self.resources[at], &self.schemas[at]);
                (version.name.clone(), Arc::new(endpoint))
            })
            .collect();
    }
}

/// Whether a definition that changed can keep its resources.
pub(super) fn keeps_resources(old: &Definition, new: &Definition) -> bool {
    Definition {
        terminating: old.terminating,
        ..new.clone()
    } == *old
}

fn resource(
    definition: &Arc<Definition>,
    at: usize,
    schema: &Arc<CustomSchema>,
    cache: &Arc<Cache>,
    conversion: &Option<Arc<Conversion>>,
) -> Resource {
    let version = &definition.versions[at];
    let info = KindInfo {
        group: definition.group.clone(),
        kind: definition.kind.clone(),
        resource: definition.plural.clone(),
        namespaced: definition.namespaced,
        has_status: version.has_status,
    };
    let reset: &[&[&str]] = if version.has_status { &[&["f:status"]] } else { &[] };
    let versions = definition.versions.iter().map(|version| Version {
        version: version.name.clone(),
        api_version: format_compact!("{}/{}", definition.group, version.name),
        kind: definition.kind.clone(),
        ty: structural::root(),
    });
    Resource {
        group_resource: GroupResource::new(&definition.group, &definition.plural),
        singular: definition.singular.clone(),
        short_names: definition.short_names.clone(),
        categories: definition.categories.clone(),
        prefix: format!("/registry/{}/{}/", definition.group, definition.plural),
        strategy: Behaviour::Own(Arc::new(CustomResource::new(
            Arc::clone(definition),
            at,
            Arc::clone(schema),
        ))),
        types: Tables::Custom(Arc::clone(schema)),
        versions: versions.collect(),
        storage: at,
        stored: definition.storage(),
        built_in: false,
        reset_fields: ResetFields::new(reset.iter().copied()),
        cache: Arc::clone(cache),
        conversion: conversion.clone(),
        info,
    }
}

fn endpoint(
    definition: &Definition,
    at: usize,
    resource: &Arc<Resource>,
    schema: &Arc<CustomSchema>,
) -> Endpoint {
    let version = &definition.versions[at];
    let kind = GroupVersionKind::new(&definition.group, &version.name, &definition.kind);
    let texts = |list: &[&str]| list.iter().map(|text| CompactString::from(*text)).collect();
    let mut subresources = Vec::new();
    if version.has_status {
        subresources.push(SubEndpoint {
            name: "status".into(),
            kind: kind.clone(),
            verbs: texts(&SUB_VERBS),
        });
    }
    if version.scale.is_some() {
        subresources.push(SubEndpoint {
            name: "scale".into(),
            kind: GroupVersionKind::new("autoscaling", "v1", "Scale"),
            verbs: texts(&SUB_VERBS),
        });
    }
    Endpoint {
        group: definition.group.clone(),
        version: version.name.clone(),
        name: definition.plural.clone(),
        kind,
        namespaced: definition.namespaced,
        verbs: texts(if definition.terminating {
            &LAST_VERBS
        } else {
            &VERBS
        }),
        storage_version_hash: storage_version_hash(definition),
        resource: Some(Arc::clone(resource)),
        index: at,
        singular: definition.singular.clone(),
        short_names: definition.short_names.clone(),
        categories: definition.categories.clone(),
        subresources,
        warning: version.warning.clone(),
        custom: Some(crate::routes::Custom {
            list_kind: definition.list_kind.clone(),
            schema: Arc::clone(schema),
            tag: format_compact!("{}-{}", definition.uid, definition.generation),
        }),
    }
}

fn storage_version_hash(definition: &Definition) -> String {
    let Some(version) = definition.versions.get(definition.storage()) else {
        return String::new();
    };
    let digest = sha2::Sha256::digest(format!(
        "{}/{}/{}",
        definition.group, version.name, definition.kind
    ));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}
