//! Which objects a list or watch is about.

use super::event::{Entry, Meta};
use crate::object::StoredError;
use crate::registry::{Resource, stored_error};
use crate::request::query::ListOptions;
use compact_str::CompactString;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::status::ApiError;
use std::sync::Arc;

/// The selection of a list or watch.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: all namespaces.
    pub namespace: CompactString,
    /// Exactly this name.
    pub name: Option<CompactString>,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

/// Watchers are woken by group: of one object, of one value of an indexed field, of a namespace, or of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Group {
    All,
    Namespace(CompactString),
    /// Namespace and name.
    Object(CompactString, CompactString),
    /// The first selectable field that is indexed has this value.
    Indexed(CompactString),
}

/// The field many watchers select one value of: every kubelet its own pods.
const INDEXED_FIELD: &str = "spec.nodeName";

/// Where the indexed field stands in the selectable fields of a resource.
pub(super) fn indexed_field(resource: &Resource) -> Option<usize> {
    resource
        .strategy
        .selectable_fields()
        .iter()
        .position(|f| *f == INDEXED_FIELD)
}

impl Filter {
    /// The selection a request asks for; refuses fields the kind does not know.
    pub fn new(
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &ListOptions,
    ) -> Result<Self, ApiError> {
        let mut fields = options.fields.clone();
        for requirement in fields.iter_mut().flat_map(|f| &mut f.requirements) {
            requirement.field = resource.strategy.canonical_field(&requirement.field).into();
            check_field(resource, &requirement.field)?;
        }
        let exact = |field| {
            fields
                .as_ref()
                .and_then(|f| f.exact(field))
                .map(CompactString::from)
        };
        let mut namespace = CompactString::from(namespace);
        if namespace.is_empty()
            && resource.info.namespaced
            && let Some(only) = exact("metadata.namespace")
            && !only.contains('/')
        {
            namespace = only;
        }
        let name = if name.is_empty() {
            exact("metadata.name")
        } else {
            Some(name.into())
        };
        Ok(Self {
            namespace,
            name,
            labels: options.labels.clone(),
            fields,
        })
    }

    /// Everything, or everything in a namespace.
    pub fn all(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            ..Self::default()
        }
    }

    /// Everything in a namespace (or in all) whose selectable field has this value.
    pub fn with_field(namespace: &str, field: &str, value: &str) -> Self {
        Self {
            // A field selector of one equality can always be read.
            fields: FieldSelector::parse(&format!("{field}={value}")).ok(),
            ..Self::all(namespace)
        }
    }

    pub fn matches(&self, resource: &Resource, meta: &Meta) -> bool {
        (self.namespace.is_empty() || self.namespace == meta.namespace)
            && self.name.as_ref().is_none_or(|n| *n == meta.name)
            && self
                .labels
                .as_ref()
                .is_none_or(|l| l.matches_with(|key| meta.label(key)))
            && self
                .fields
                .as_ref()
                .is_none_or(|f| f.matches_with(|field| field_value(resource, meta, field)))
    }

    pub fn matches_entry(&self, resource: &Resource, entry: &Entry) -> bool {
        self.matches(resource, &entry.meta)
    }

    /// Whether it asks for what only a webhook can tell of what is stored: labels and fields of a version it makes.
    pub fn reads_converted(&self, resource: &Resource) -> bool {
        let named = |field: &str| matches!(field, "metadata.name" | "metadata.namespace");
        let fields = self.fields.iter().flat_map(|fields| &fields.requirements);
        resource.conversion.is_some()
            && (self.labels.is_some() || fields.into_iter().any(|r| !named(&r.field)))
    }

    /// The part of it that can be told of every version alike.
    pub fn unconverted(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            ..Self::default()
        }
    }

    /// As [`Self::matches_entry`], of the object in the resource's own version, whoever makes it.
    pub fn matches_converted(&self, resource: &Resource, entry: &Entry) -> Result<bool, StoredError> {
        if !self.reads_converted(resource) {
            return Ok(self.matches_entry(resource, entry));
        }
        if !self.unconverted().matches_entry(resource, entry) {
            return Ok(false);
        }
        let object = entry.value(resource)?;
        Ok(self.matches(resource, &Meta::of(resource, &object)))
    }

    /// Those of the entries that it matches in the resource's own version.
    pub fn converted(
        &self,
        resource: &Resource,
        entries: Vec<Arc<Entry>>,
    ) -> Result<Vec<Arc<Entry>>, ApiError> {
        let mut kept = Vec::new();
        for entry in entries {
            if self.matches_converted(resource, &entry).map_err(stored_error)? {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    /// No object in the namespace is left out.
    pub fn is_everything(&self) -> bool {
        self.name.is_none() && self.labels.is_none() && self.fields.is_none()
    }

    pub(super) fn group(&self, resource: &Resource) -> Group {
        if let Some(name) = &self.name
            && (!self.namespace.is_empty() || !resource.info.namespaced)
        {
            return Group::Object(self.namespace.clone(), name.clone());
        }
        if indexed_field(resource).is_some()
            && let Some(value) = self.fields.as_ref().and_then(|f| f.exact(INDEXED_FIELD))
        {
            return Group::Indexed(value.into());
        }
        if self.namespace.is_empty() {
            Group::All
        } else {
            Group::Namespace(self.namespace.clone())
        }
    }
}

fn field_value<'a>(resource: &Resource, meta: &'a Meta, field: &str) -> &'a str {
    match field {
        "metadata.name" => &meta.name,
        "metadata.namespace" => &meta.namespace,
        _ => {
            let at = resource.strategy.selectable_field(field);
            at.and_then(|at| meta.fields.get(at)).map_or("", |v| v.as_str())
        }
    }
}

fn check_field(resource: &Resource, field: &str) -> Result<(), ApiError> {
    let always = field == "metadata.name" || (field == "metadata.namespace" && resource.info.namespaced);
    if always || resource.strategy.selectable_field(field).is_some() {
        return Ok(());
    }
    let known = resource.strategy.selectable_fields();
    Err(ApiError::bad_request(if known.is_empty() && resource.built_in {
        format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }))
}
