//! Definitions and paths of OpenAPI documents, read off the tables.

use super::custom;
use super::prose::{self, Prose};
use crate::routes::{Endpoint, Table, VersionTable};
use machinery::gvk::GroupVersionKind;
use machinery::schema::{Field, ListKind, Shape, TypeId, Types};
use machinery::{Map, Value};
use std::collections::BTreeSet;

/// Where definitions are referred to.
#[derive(Clone, Copy)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let mut map = Map::new();
        let root = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        map.insert("$ref", format!("{root}{name}"));
        match self {
            Self::V2 => map.into(),
            // Beside a reference nothing else may stand in version 3.0.
            Self::V3 => {
                let mut outer = Map::new();
                outer.insert("allOf", vec![Value::from(map)]);
                outer.into()
            }
        }
    }
}

/// The whole of version 2.
pub(super) fn v2(table: &Table) -> Value {
    let text = prose::text();
    let mut builder = Builder::new(Dialect::V2, Prose::of(&text));
    let mut paths = Map::new();
    for group in &table.groups {
        for version in &group.versions {
            for endpoint in &version.endpoints {
                builder.endpoint(endpoint, &mut paths);
            }
        }
    }
    let mut document = Map::new();
    document.insert("swagger", "2.0");
    document.insert("info", info());
    document.insert("paths", paths);
    document.insert("definitions", builder.finish());
    document.into()
}

/// Version 3 of one group and version.
pub(super) fn v3(_group: &str, version: &VersionTable) -> Value {
    let text = prose::text();
    let mut builder = Builder::new(Dialect::V3, Prose::of(&text));
    let mut paths = Map::new();
    for endpoint in &version.endpoints {
        builder.endpoint(endpoint, &mut paths);
    }
    let mut components = Map::new();
    components.insert("schemas", builder.finish());
    let mut document = Map::new();
    document.insert("openapi", "3.0.0");
    document.insert("info", info());
    document.insert("paths", paths);
    document.insert("components", components);
    document.into()
}

fn info() -> Map {
    let mut info = Map::new();
    info.insert("title", "Kubernetes");
    info.insert("version", crate::paths::GIT_VERSION);
    info
}

/// Gathers definitions as they are referred to.
struct Builder<'a> {
    dialect: Dialect,
    prose: Prose<'a>,
    types: &'static Types,
    wanted: Vec<TypeId>,
    seen: BTreeSet<TypeId>,
    kinds: std::collections::BTreeMap<TypeId, Vec<GroupVersionKind>>,
    /// Definitions of custom kinds.
    custom: Map,
}

impl<'a> Builder<'a> {
    fn new(dialect: Dialect, prose: Prose<'a>) -> Self {
        let mut kinds: std::collections::BTreeMap<TypeId, Vec<GroupVersionKind>> =
            std::collections::BTreeMap::new();
        for kind in api::kinds() {
            kinds.entry(kind.ty).or_default().push(kind.gvk);
        }
        for list in kinds.values_mut() {
            list.sort();
        }
        Self {
            dialect,
            prose,
            types: api::types(),
            wanted: Vec::new(),
            seen: BTreeSet::new(),
            kinds,
            custom: Map::new(),
        }
    }

    /// A resource's paths, one item for the collection and one for the object.
    fn endpoint(&mut self, endpoint: &Endpoint, paths: &mut Map) {
        let name = match (&endpoint.custom, api::kind(&endpoint.kind)) {
            (Some(custom), _) => self.custom_kind(endpoint, custom),
            (None, Some(ty)) => {
                self.want(ty);
                self.name_of(ty).unwrap_or_default().to_owned()
            }
            (None, None) => return,
        };
        let list_name = match endpoint.custom {
            Some(_) => format!("{name}List"),
            None => name.clone(),
        };
        let root = if endpoint.group.is_empty() {
            "/api".to_owned()
        } else {
            format!("/apis/{}", endpoint.group)
        };
        let scope = if endpoint.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{root}/{}{scope}/{}", endpoint.version, endpoint.name);
        let has = |verb: &str| endpoint.has_verb(verb);
        let mut at_collection = Map::new();
        if has("list") {
            at_collection.insert(
                "get",
                self.operation(endpoint, &endpoint.kind, "list", "get", &list_name),
            );
        }
        if has("create") {
            at_collection.insert(
                "post",
                self.operation(endpoint, &endpoint.kind, "post", "post", &name),
            );
        }
        if has("deletecollection") {
            at_collection.insert(
                "delete",
                self.operation(endpoint, &endpoint.kind, "deletecollection", "delete", &name),
            );
        }
        if !at_collection.is_empty() {
            paths.insert(collection.as_str(), at_collection);
        }
        let verbs: Vec<&str> = endpoint.verbs.iter().map(|v| v.as_str()).collect();
        self.object_paths(
            endpoint,
            &endpoint.kind,
            format!("{collection}/{{name}}"),
            &verbs,
            &name,
            paths,
        );
        for sub in &endpoint.subresources {
            let name = match api::kind(&sub.kind) {
                _ if endpoint.custom.is_some() && sub.kind == endpoint.kind => name.clone(),
                Some(ty) => {
                    self.want(ty);
                    self.name_of(ty).unwrap_or_default().to_owned()
                }
                None => continue,
            };
            let verbs: Vec<&str> = sub.verbs.iter().map(|v| v.as_str()).collect();
            self.object_paths(
                endpoint,
                &sub.kind,
                format!("{collection}/{{name}}/{}", sub.name),
                &verbs,
                &name,
                paths,
            );
            if verbs.contains(&"create")
                && let Some(item) = paths.get_mut(&format!("{collection}/{{name}}/{}", sub.name))
            {
                let operation = self.operation(endpoint, &sub.kind, "post", "post", &name);
                item.make_object().insert("post", operation);
            }
        }
    }

    fn object_paths(
        &mut self,
        endpoint: &Endpoint,
        kind: &GroupVersionKind,
        path: String,
        verbs: &[&str],
        name: &str,
        paths: &mut Map,
    ) {
        let mut item = Map::new();
        for (verb, action, method) in [
            ("get", "get", "get"),
            ("update", "put", "put"),
            ("patch", "patch", "patch"),
            ("delete", "delete", "delete"),
        ] {
            if verbs.contains(&verb) {
                item.insert(method, self.operation(endpoint, kind, action, method, name));
            }
        }
        if !item.is_empty() || verbs.contains(&"create") {
            paths.insert(path, item);
        }
    }

    fn operation(
        &self,
        endpoint: &Endpoint,
        kind: &GroupVersionKind,
        action: &str,
        method: &str,
        name: &str,
    ) -> Map {
        let mut operation = Map::new();
        operation.insert("x-kubernetes-action", action);
        operation.insert("x-kubernetes-group-version-kind", kind_value(kind));
        operation.insert(
            "operationId",
            format!(
                "{action}{}{}{}",
                endpoint.group, endpoint.version, endpoint.kind.kind
            ),
        );
        let mut parameters: Vec<Value> = Vec::new();
        if matches!(method, "post" | "put" | "patch") {
            // Clients ask here whether the server validates fields and takes dry runs.
            for name in ["dryRun", "fieldManager", "fieldValidation"] {
                parameters.push(self.query_parameter(name));
            }
        }
        if method == "delete" {
            parameters.push(self.query_parameter("dryRun"));
        }
        operation.insert("parameters", parameters);
        let mut ok = Map::new();
        ok.insert("description", "OK");
        if !name.is_empty() {
            match self.dialect {
                Dialect::V2 => {
                    ok.insert("schema", self.dialect.reference(name));
                }
                Dialect::V3 => {
                    let mut media = Map::new();
                    let mut reference = Map::new();
                    reference.insert("$ref", format!("#/components/schemas/{name}"));
                    media.insert("schema", reference);
                    let mut content = Map::new();
                    content.insert("application/json", media);
                    ok.insert("content", content);
                }
            }
        }
        let mut responses = Map::new();
        responses.insert("200", ok);
        operation.insert("responses", responses);
        operation
    }

    fn query_parameter(&self, name: &str) -> Value {
        let mut map = Map::new();
        map.insert("in", "query");
        map.insert("name", name);
        match self.dialect {
            Dialect::V2 => {
                map.insert("type", "string");
                map.insert("uniqueItems", true);
            }
            Dialect::V3 => {
                let mut schema = Map::new();
                schema.insert("type", "string");
                map.insert("schema", schema);
            }
        }
        map.into()
    }

    /// Adds the definitions of a custom kind; the name of its objects'.
    fn custom_kind(&mut self, endpoint: &Endpoint, custom: &crate::routes::Custom) -> String {
        let v2 = matches!(self.dialect, Dialect::V2);
        let mut reference = |name: &str| {
            if let Some(ty) = api::by_name(name) {
                self.want(ty);
            }
            self.dialect.reference(name)
        };
        let name = custom::definition_name(&endpoint.kind);
        let object = custom::object(&endpoint.kind, custom.schema.text(), v2, &mut reference);
        let item = self.dialect.reference(&name);
        let mut reference = |name: &str| {
            if let Some(ty) = api::by_name(name) {
                self.want(ty);
            }
            self.dialect.reference(name)
        };
        let list = custom::list(&endpoint.kind, &custom.list_kind, item, &mut reference);
        self.custom.insert(name.as_str(), object);
        self.custom.insert(format!("{name}List"), list);
        name
    }

    fn want(&mut self, ty: TypeId) {
        if self.seen.insert(ty) {
            self.wanted.push(ty);
        }
    }

    fn name_of(&self, ty: TypeId) -> Option<&'static str> {
        self.types
            .as_struct(ty)
            .map(|s| s.name.as_str())
            .filter(|n| !n.is_empty())
    }

    /// Every definition referred to, and those they refer to.
    fn finish(mut self) -> Map {
        let mut definitions = Map::new();
        while let Some(ty) = self.wanted.pop() {
            let Some(name) = self.name_of(ty) else { continue };
            let definition = self.definition(ty);
            definitions.insert(name, definition);
        }
        for (name, definition) in self.custom.iter() {
            definitions.insert(name.clone(), definition.clone());
        }
        definitions
    }

    fn definition(&mut self, ty: TypeId) -> Value {
        let mut map = Map::new();
        let Some(definition) = self.types.as_struct(ty) else {
            return map.into();
        };
        map.insert("type", "object");
        if let Some(said) = self.prose.definition(&definition.name) {
            map.insert("description", said);
        }
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in definition.fields() {
            if field.required {
                required.push(Value::from(field.name.as_str()));
            }
            let mut property = self.property(field);
            if let Some(said) = self.prose.field(&definition.name, &field.name) {
                property.make_object().insert("description", said);
            }
            properties.insert(field.name.as_str(), property);
        }
        if !properties.is_empty() {
            map.insert("properties", properties);
        }
        if !required.is_empty() {
            map.insert("required", required);
        }
        if definition.atomic {
            map.insert("x-kubernetes-map-type", "atomic");
        }
        if let Some(kinds) = self.kinds.get(&ty) {
            map.insert(
                "x-kubernetes-group-version-kind",
                kinds.iter().map(|k| kind_value(k).into()).collect::<Vec<Value>>(),
            );
        }
        map.into()
    }

    fn property(&mut self, field: &Field) -> Value {
        let mut schema = self.schema(field.ty);
        let map = schema.make_object();
        if let Some(default) = &field.default {
            map.insert("default", default.clone());
        }
        let mut strategies = Vec::new();
        if field.patch.merge {
            strategies.push("merge");
        }
        if field.patch.retain_keys {
            strategies.push("retainKeys");
        }
        if field.patch.replace {
            strategies.push("replace");
        }
        if !strategies.is_empty() {
            map.insert("x-kubernetes-patch-strategy", strategies.join(","));
        }
        if let Some(key) = &field.merge_key {
            map.insert("x-kubernetes-patch-merge-key", key.as_str());
        }
        schema
    }

    fn schema(&mut self, ty: TypeId) -> Value {
        let plain = |kind: &str, format: Option<&str>| -> Value {
            let mut map = Map::new();
            map.insert("type", kind);
            if let Some(format) = format {
                map.insert("format", format);
            }
            map.into()
        };
        match self.types.shape(ty) {
            Shape::Bool => plain("boolean", None),
            Shape::Int32 => plain("integer", Some("int32")),
            Shape::Int64 => plain("integer", Some("int64")),
            Shape::Double => plain("number", Some("double")),
            Shape::String | Shape::Quantity | Shape::Duration => plain("string", None),
            Shape::Bytes => plain("string", Some("byte")),
            Shape::IntOrString => plain("string", Some("int-or-string")),
            Shape::Time | Shape::MicroTime => plain("string", Some("date-time")),
            Shape::RawExtension | Shape::FieldsV1 => plain("object", None),
            Shape::Struct(s) => {
                self.want(ty);
                self.dialect.reference(&s.name)
            }
            Shape::List(list) => {
                let mut map = Map::new();
                map.insert("type", "array");
                map.insert("items", self.schema(list.item));
                match &list.kind {
                    ListKind::Atomic => {
                        map.insert("x-kubernetes-list-type", "atomic");
                    }
                    ListKind::Set => {
                        map.insert("x-kubernetes-list-type", "set");
                    }
                    ListKind::Map(keys) => {
                        map.insert("x-kubernetes-list-type", "map");
                        let keys: Vec<Value> = keys.iter().map(|k| Value::from(k.as_str())).collect();
                        map.insert("x-kubernetes-list-map-keys", keys);
                    }
                }
                map.into()
            }
            Shape::Map(entries) => {
                let mut map = Map::new();
                map.insert("type", "object");
                map.insert("additionalProperties", self.schema(entries.value));
                if entries.atomic {
                    map.insert("x-kubernetes-map-type", "atomic");
                }
                map.into()
            }
            // Anything goes.
            _ => Value::object(),
        }
    }
}

pub(super) fn kind_value(kind: &GroupVersionKind) -> Map {
    let mut map = Map::new();
    map.insert("group", kind.group.as_str());
    map.insert("kind", kind.kind.as_str());
    map.insert("version", kind.version.as_str());
    map
}
