//! A CustomResourceDefinition as far as serving its kind needs it, read once when it changes.
//!
//! Schemas are not held: they are read again from where the definition itself is kept, when a custom object is first
//! asked for ([`CustomSchema`]), so that a definition nobody uses costs little.

use super::structural::rules::Rules;
use super::structural::{self, Schema};
use crate::fields::{flag, list, list_at, present, text, text_at, texts};
use crate::strategy::Scale;
use compact_str::CompactString;
use machinery::schema::Types;
use machinery::{Value, meta};
use std::sync::OnceLock;

/// A definition whose names may differ from what it asks for: these are the accepted ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub name: CompactString,
    pub uid: CompactString,
    pub group: CompactString,
    pub plural: CompactString,
    pub singular: CompactString,
    pub kind: CompactString,
    pub list_kind: CompactString,
    pub short_names: Vec<CompactString>,
    pub categories: Vec<CompactString>,
    pub namespaced: bool,
    pub versions: Vec<Version>,
    /// Fields of any version that can be selected by.
    pub selectable: Vec<CompactString>,
    pub established: bool,
    pub terminating: bool,
    /// What is stored is converted by somebody else.
    pub webhook: bool,
    /// Counts the changes of the specification.
    pub generation: i64,
}

/// One version of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub name: CompactString,
    pub served: bool,
    pub storage: bool,
    /// What users of the version are told.
    pub warning: Option<CompactString>,
    pub has_status: bool,
    pub scale: Option<Scale>,
    pub columns: Vec<Column>,
    pub selectable: Vec<CompactString>,
}

/// An entry of `additionalPrinterColumns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: CompactString,
    pub kind: CompactString,
    pub format: CompactString,
    pub description: CompactString,
    pub priority: i64,
    pub path: CompactString,
}

impl Definition {
    pub fn parse(crd: &Value) -> Self {
        let names = |field: &str| text_at(crd, &["status", "acceptedNames", field]).into();
        let many = |field: &str| {
            let names = crd.get_path(&["status", "acceptedNames"]);
            names.map_or_else(Vec::new, |names| {
                texts(names, field).map(CompactString::from).collect()
            })
        };
        let group = text_at(crd, &["spec", "group"]);
        let kind = text_at(crd, &["status", "acceptedNames", "kind"]);
        let versions: Vec<Version> = list_at(crd, &["spec", "versions"])
            .iter()
            .map(|version| Version::parse(version, group, kind))
            .collect();
        let mut selectable: Vec<CompactString> = Vec::new();
        for field in versions.iter().flat_map(|version| &version.selectable) {
            if !selectable.contains(field) {
                selectable.push(field.clone());
            }
        }
        Self {
            name: meta::name(crd).into(),
            uid: meta::uid(crd).into(),
            group: group.into(),
            plural: names("plural"),
            singular: names("singular"),
            kind: kind.into(),
            list_kind: names("listKind"),
            short_names: many("shortNames"),
            categories: many("categories"),
            namespaced: text_at(crd, &["spec", "scope"]) == "Namespaced",
            versions,
            selectable,
            established: condition_is_true(crd, "Established"),
            terminating: condition_is_true(crd, "Terminating"),
            webhook: text_at(crd, &["spec", "conversion", "strategy"]) == "Webhook",
            generation: meta::generation(crd),
        }
    }

    /// The version objects are stored in.
    pub fn storage(&self) -> usize {
        self.versions
            .iter()
            .position(|version| version.storage)
            .unwrap_or_default()
    }
}

impl Version {
    fn parse(version: &Value, group: &str, kind: &str) -> Self {
        let name = text(version, "name");
        let warning = flag(version, "deprecated").then(|| match text(version, "deprecationWarning") {
            "" => format!("{group}/{name} {kind} is deprecated").into(),
            warning => warning.into(),
        });
        let subresources = present(version, "subresources");
        let path = |scale: &Value, field: &str| -> CompactString {
            text(scale, field).trim_start_matches('.').into()
        };
        Self {
            name: name.into(),
            served: flag(version, "served"),
            storage: flag(version, "storage"),
            warning,
            has_status: subresources.is_some_and(|s| present(s, "status").is_some()),
            scale: subresources.and_then(|s| present(s, "scale")).map(|scale| Scale {
                replicas: path(scale, "specReplicasPath"),
                status_replicas: path(scale, "statusReplicasPath"),
                selector: path(scale, "labelSelectorPath"),
            }),
            columns: list(version, "additionalPrinterColumns")
                .iter()
                .map(Column::parse)
                .collect(),
            selectable: list(version, "selectableFields")
                .iter()
                .map(|field| path(field, "jsonPath"))
                .collect(),
        }
    }
}

impl Column {
    fn parse(column: &Value) -> Self {
        let own = |field: &str| text(column, field).into();
        Self {
            name: own("name"),
            kind: own("type"),
            format: own("format"),
            description: own("description"),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: own("jsonPath"),
        }
    }
}

/// Whether a definition's condition holds.
pub fn condition_is_true(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|condition| text(condition, "status") == "True")
}

pub fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    list_at(crd, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, "type") == kind)
}

/// The `openAPIV3Schema` of a version.
pub fn schema_of<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    let version = list_at(crd, &["spec", "versions"])
        .iter()
        .find(|candidate| text(candidate, "name") == version)?;
    present(version.get("schema")?, "openAPIV3Schema")
}

/// The schema of one version in all its forms, made when first needed.
pub struct CustomSchema {
    source: Box<dyn Fn() -> Option<Value> + Send + Sync>,
    schema: OnceLock<Option<Schema>>,
    types: OnceLock<Types>,
    rules: OnceLock<Option<Rules>>,
}

impl CustomSchema {
    /// `source` reads the version's `openAPIV3Schema`.
    pub fn new(source: impl Fn() -> Option<Value> + Send + Sync + 'static) -> Self {
        Self {
            source: Box::new(source),
            schema: OnceLock::new(),
            types: OnceLock::new(),
            rules: OnceLock::new(),
        }
    }

    pub fn schema(&self) -> Option<&Schema> {
        self.schema
            .get_or_init(|| (self.source)().as_ref().map(Schema::parse))
            .as_ref()
    }

    pub fn types(&self) -> &Types {
        self.types.get_or_init(|| structural::types(self.schema()))
    }

    /// Its rules, if there are any.
    pub fn rules(&self) -> Option<&Rules> {
        self.rules
            .get_or_init(|| self.schema().and_then(Rules::of))
            .as_ref()
    }

    /// As it was written.
    pub fn text(&self) -> Option<Value> {
        (self.source)()
    }
}

impl std::fmt::Debug for CustomSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CustomSchema")
            .field("made", &self.schema.get().is_some())
            .finish_non_exhaustive()
    }
}
