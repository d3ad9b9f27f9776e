//! Whether a definition can be served: its names, its versions, and that its schemas are structural and their rules
//! sound.
//!
//! ```text
//! spec ─► versions ─► schema (OpenAPI) ─► structure ─► defaults ─► rules and their cost
//!     └─► names, conversion, columns, scale, selectable fields
//! ```
//!
//! What all versions share is told once, as a field of `spec`, as upstream does. An update is not held to what the
//! stored definition breaks already.

mod conversion;
mod defaults;
mod schema;
mod structure;

use crate::apiextensions::definition::condition_is_true;
use crate::apiextensions::structural::Schema;
use crate::apiextensions::structural::paths::{self, Notation};
use crate::fields::{flag, list, list_at, present, text, text_at, texts};
use machinery::field::{Error, ErrorList, Path, quote};
use machinery::{Value, meta, names};
pub(super) use schema::unknown_formats;
use std::collections::HashSet;

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const MOST_SELECTABLE: usize = 8;

/// What must hold; what did not hold in the stored definition need not.
#[derive(Debug, Clone, Copy)]
struct Strictness<'a> {
    /// The stored definition.
    old: Option<&'a Value>,
    known_review: bool,
    schemas: bool,
    known_types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
    certificates: bool,
}

impl<'a> Strictness<'a> {
    fn new() -> Self {
        Self {
            old: None,
            known_review: true,
            schemas: true,
            known_types: true,
            structural: true,
            pruned_defaults: true,
            atomic_sets: true,
            map_keys: true,
            certificates: false,
        }
    }

    fn of(old: &'a Value) -> Self {
        let schemas = || {
            let versions = list_at(old, &["spec", "versions"]).iter();
            versions.map(|version| version.get_path(&["schema", "openAPIV3Schema"]))
        };
        let none = |wrong: &dyn Fn(&Value) -> bool| {
            !schemas()
                .flatten()
                .any(|whole| schema::any(whole, &mut |part| wrong(part)))
        };
        let whole = |wrong: &dyn Fn(&Value) -> bool| !schemas().flatten().any(wrong);
        Self {
            old: Some(old),
            known_review: conversion::knows_review(old),
            schemas: schemas().all(|schema| schema.is_some_and(|schema| !schema.is_null())),
            known_types: none(&|part| schema::has_unknown_type(part)),
            structural: whole(&|schema| {
                schema::unsupported(schema).is_some()
                    || !structure::validate(schema, &Path::root()).is_empty()
            }),
            pruned_defaults: whole(&|schema| !defaults::are_pruned(schema)),
            atomic_sets: none(&|part| schema::has_granular_items(part)),
            map_keys: none(&|part| !schema::map_keys(part, &Path::root()).is_empty()),
            certificates: condition_is_true(old, "Established") && !conversion::has_bad_bundle(old),
        }
    }

    /// Whether the schema of a version is what it was.
    fn is_unchanged(&self, version: &Value) -> bool {
        let Some(old) = self.old else { return false };
        let name = text(version, "name");
        let before = list_at(old, &["spec", "versions"])
            .iter()
            .find(|old| text(old, "name") == name);
        before.is_some_and(|before| same(before.get("schema"), version.get("schema")))
    }
}

pub(super) fn validate(crd: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let plural = text_at(crd, &["spec", "names", "plural"]);
    let group = text_at(crd, &["spec", "group"]);
    if meta::name(crd) != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Error::invalid(
            &Path::new("metadata").child("name"),
            meta::name(crd),
            why,
        ));
    }
    everything(crd, &Strictness::new(), &mut errors);
    errors
}

pub(super) fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    everything(new, &Strictness::of(old), &mut errors);
    errors
}

/// The names a status says are accepted.
pub(super) fn validate_status(crd: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let names = crd.get_path(&["status", "acceptedNames"]);
    let at = Path::new("status").child("acceptedNames");
    validate_names(names.unwrap_or(&Value::Null), &at, &mut errors);
    errors
}

fn everything(crd: &Value, strict: &Strictness<'_>, errors: &mut ErrorList) {
    validate_spec(crd, strict, errors);
    if let Some(old) = strict.old {
        unchangeable(crd, old, errors);
    }
    errors.extend(validate_status(crd));
    stored_versions(crd, errors);
    approval(crd, strict.old, errors);
    let was_kept = strict
        .old
        .is_some_and(|old| old.get_path(&["spec", "preserveUnknownFields"]) == Some(&Value::Bool(true)));
    if keeps_unknown(crd) && !was_kept {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(
            &Path::new("spec").child("preserveUnknownFields"),
            true,
            why,
        ));
    }
}

fn keeps_unknown(crd: &Value) -> bool {
    crd.get_path(&["spec", "preserveUnknownFields"]) == Some(&Value::Bool(true))
}

/// What decides where objects are, and what they are called there.
fn unchangeable(new: &Value, old: &Value, errors: &mut ErrorList) {
    let mut field = |path: &[&str]| {
        let (new, old) = (text_at(new, path), text_at(old, path));
        if new != old {
            let at = path[1..]
                .iter()
                .fold(Path::new(path[0]), |at, name| at.child(name));
            errors.push(Error::invalid(&at, new, "field is immutable"));
        }
    };
    if condition_is_true(old, "Established") {
        field(&["spec", "scope"]);
        field(&["spec", "names", "kind"]);
    }
    field(&["spec", "group"]);
    field(&["spec", "names", "plural"]);
}

fn validate_spec(crd: &Value, strict: &Strictness<'_>, errors: &mut ErrorList) {
    let spec = Path::new("spec");
    let group = text_at(crd, &["spec", "group"]);
    let at = spec.child("group");
    if group.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        let wrong = names::dns1123_subdomain(group);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at, group, wrong.join(",")));
        } else if !group.contains('.') {
            let why = "should be a domain with at least one dot";
            errors.push(Error::invalid(&at, group, why));
        }
    }
    let at = spec.child("scope");
    match text_at(crd, &["spec", "scope"]) {
        "" => errors.push(Error::required(&at, "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(&at, other, &["Cluster", "Namespaced"])),
    }
    let versions = list_at(crd, &["spec", "versions"]);
    let mut strict = *strict;
    let schema_of = |version: &'_ Value| version.get_path(&["schema", "openAPIV3Schema"]).cloned();
    let schemas: Vec<Option<Value>> = versions
        .iter()
        .map(|version| schema_of(version).filter(|schema| !schema.is_null()))
        .collect();
    if !keeps_unknown(crd) || schemas.iter().flatten().any(schema::has_extensions) {
        strict.structural = true;
    }
    for (index, version) in versions.iter().enumerate() {
        let why = match (strict.schemas, flag(version, "served")) {
            (true, _) => "",
            (false, true) if !keeps_unknown(crd) => "because otherwise all fields are pruned",
            (false, _) => continue,
        };
        if schemas[index].is_none() {
            let at = spec.child("versions").index(index);
            errors.push(Error::required(&at.child("schema").child("openAPIV3Schema"), why));
        }
    }
    if keeps_unknown(crd) && schemas.iter().flatten().any(schema::has_defaults) {
        let why = "must be false in order to use defaults in the schema";
        errors.push(Error::invalid(&spec.child("preserveUnknownFields"), true, why));
    }
    validate_versions(versions, &spec, &strict, errors);
    let names = crd.get_path(&["spec", "names"]).unwrap_or(&Value::Null);
    let at = spec.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, field).is_empty() {
            errors.push(Error::required(&at.child(field), ""));
        }
    }
    validate_names(names, &at, errors);
    if let Some(first) = versions.first() {
        Part::Shared.of_version(versions, first, &spec, &strict, errors);
    }
    conversion::validate(crd, &strict, &spec.child("conversion"), errors);
}

fn validate_versions(versions: &[Value], spec: &Path, strict: &Strictness<'_>, errors: &mut ErrorList) {
    let all = spec.child("versions");
    let mut seen = HashSet::new();
    let mut unique = true;
    for (index, version) in versions.iter().enumerate() {
        let (name, at) = (text(version, "name"), all.index(index));
        unique &= seen.insert(name);
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at.child("name"), name, wrong.join(",")));
        }
        deprecation(version, &at.child("deprecationWarning"), errors);
        Part::Own.of_version(versions, version, &at, strict, errors);
    }
    if !unique {
        let why = "must contain unique version names";
        errors.push(Error::invalid(&all, versions.to_vec(), why));
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(Error::invalid(&all, versions.to_vec(), why));
    }
}

/// What versions say is judged with them where they differ, and once where they agree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Own,
    Shared,
}

impl Part {
    fn of_version(
        self,
        versions: &[Value],
        version: &Value,
        at: &Path,
        strict: &Strictness<'_>,
        errors: &mut ErrorList,
    ) {
        let shared = |field: &str| {
            versions
                .iter()
                .all(|other| same(other.get(field), versions[0].get(field)))
        };
        let here = |field: &str| shared(field) == (self == Self::Shared);
        let has_status = |version: &Value| version.get_path(&["subresources", "status"]).is_some();
        let whole = version
            .get_path(&["schema", "openAPIV3Schema"])
            .filter(|schema| !schema.is_null());
        if let Some(whole) = whole
            && here("schema")
        {
            let judging = schema::Judging {
                strict,
                has_status: if self == Self::Shared {
                    versions.iter().any(has_status)
                } else {
                    has_status(version)
                },
                unchanged: strict.is_unchanged(version),
            };
            let name = if self == Self::Shared {
                "validation"
            } else {
                "schema"
            };
            schema::validate(whole, &judging, &at.child(name), errors);
        }
        if here("subresources")
            && let Some(scale) = version.get_path(&["subresources", "scale"])
        {
            validate_scale(scale, &at.child("subresources"), errors);
        }
        if here("additionalPrinterColumns") {
            let at = at.child("additionalPrinterColumns");
            for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
                validate_column(column, &at.index(index), errors);
            }
        }
        if here("selectableFields") && !list(version, "selectableFields").is_empty() {
            let at = at.child("selectableFields");
            match (whole, here("schema"), self) {
                (Some(whole), true, _) => selectable_fields(version, whole, strict, &at, errors),
                (_, _, Self::Own) => errors.push(Error::invalid(
                    &at,
                    "",
                    "may only be set when `version.schema.openAPIV3Schema` is not included",
                )),
                (_, _, Self::Shared) => errors.push(Error::invalid(
                    &at,
                    "",
                    "may only be set when validations.schema is included",
                )),
            }
        }
    }
}

/// Whether two fields say the same; an empty one says what a missing one does.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    let said = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    match (said(a), said(b)) {
        (None, None) => true,
        (Some(a), Some(b)) => a.semantic_eq(&b),
        (Some(only), None) | (None, Some(only)) => {
            matches!(&only, Value::Array(items) if items.is_empty())
        }
    }
}

fn deprecation(version: &Value, at: &Path, errors: &mut ErrorList) {
    let Some(warning) = present(version, "deprecationWarning").and_then(Value::as_str) else {
        return;
    };
    let mut refuse = |why: &str| errors.push(Error::invalid(at, warning, why));
    if !flag(version, "deprecated") {
        refuse("can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        refuse("must be <= 256 characters long");
    }
    if warning.is_empty() {
        refuse("must not be an empty string");
    }
    let hidden = |c: char| c.is_control() || (c.is_whitespace() && c != ' ');
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| hidden(*c)) {
        refuse(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

fn validate_names(names: &Value, at: &Path, errors: &mut ErrorList) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(names, field);
        if name.is_empty() {
            continue;
        }
        let kind = matches!(field, "kind" | "listKind");
        let wrong = if kind {
            names::dns1035_label(&name.to_lowercase())
        } else {
            names::dns1035_label(name)
        };
        if wrong.is_empty() {
            continue;
        }
        let wrong = wrong.join(",");
        let why = if kind {
            format!("may have mixed case, but should otherwise match: {wrong}")
        } else {
            wrong
        };
        errors.push(Error::invalid(&at.child(field), name, why));
    }
    let mut labels = |field: &str| {
        for (index, name) in texts(names, field).enumerate() {
            let wrong = names::dns1035_label(name);
            if !wrong.is_empty() {
                let at = at.child(field).index(index);
                errors.push(Error::invalid(&at, name, wrong.join(",")));
            }
        }
    };
    labels("shortNames");
    labels("categories");
    let list_kind = text(names, "listKind");
    if !list_kind.is_empty() && text(names, "kind") == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(Error::invalid(&at.child("listKind"), list_kind, why));
    }
}

fn validate_column(column: &Value, at: &Path, errors: &mut ErrorList) {
    if text(column, "name").is_empty() {
        errors.push(Error::required(&at.child("name"), ""));
    }
    let among = |value: &str, known: &str| known.split(',').any(|known| known == value);
    let kind = text(column, "type");
    let why = format!("must be one of {COLUMN_TYPES}");
    if kind.is_empty() {
        errors.push(Error::required(&at.child("type"), why));
    } else if !among(kind, COLUMN_TYPES) {
        errors.push(Error::invalid(&at.child("type"), kind, why));
    }
    let format = text(column, "format");
    if !format.is_empty() && !among(format, COLUMN_FORMATS) {
        let why = format!("must be one of {COLUMN_FORMATS}");
        errors.push(Error::invalid(&at.child("format"), format, why));
    }
    let path = text(column, "jsonPath");
    let at = at.child("JSONPath");
    if path.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        simple_path(path, &at, errors);
    }
}

/// Whether it can be one; nothing more is asked of it.
fn simple_path(path: &str, at: &Path, errors: &mut ErrorList) -> bool {
    if path.starts_with('.') {
        return true;
    }
    let why = "must be a simple json path starting with .";
    errors.push(Error::invalid(at, path, why));
    false
}

fn validate_scale(scale: &Value, at: &Path, errors: &mut ErrorList) {
    let mut field = |name: &str, below: &[&str], why: &str, required: bool| {
        let (path, at) = (text(scale, name), at.child(&format!("scale.{name}")));
        if path.is_empty() {
            if required {
                errors.push(Error::required(&at, ""));
            }
        } else if simple_path(path, &at, errors) && !below.iter().any(|below| path.starts_with(below)) {
            errors.push(Error::invalid(&at, path, why));
        }
    };
    field(
        "specReplicasPath",
        &[".spec."],
        "should be a json path under .spec",
        true,
    );
    field(
        "statusReplicasPath",
        &[".status."],
        "should be a json path under .status",
        true,
    );
    field(
        "labelSelectorPath",
        &[".spec.", ".status."],
        "should be a json path under either .spec or .status",
        false,
    );
}

fn selectable_fields(
    version: &Value,
    whole: &Value,
    strict: &Strictness<'_>,
    at: &Path,
    errors: &mut ErrorList,
) {
    let schema = Schema::parse(whole);
    let fields = list(version, "selectableFields");
    let mut seen = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let (path, at) = (text(field, "jsonPath"), at.index(index).child("jsonPath"));
        if path.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let (found, schema) = match paths::resolve(path, &schema, Notation::Dots) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(&at, path, format!("is an invalid path: {why}")));
                continue;
            }
        };
        let root = found.as_str().split(['.', '[']).next();
        if root == Some("metadata") {
            errors.push(Error::invalid(&at, path, "must not point to fields in metadata"));
        }
        let simple = ["string", "boolean", "integer"];
        if schema.int_or_string || !simple.iter().any(|ty| schema.has_type(ty)) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(Error::invalid(&at, path, why));
        }
        if !seen.insert(found.as_str().to_owned()) {
            errors.push(Error::duplicate(&at, path));
        }
    }
    let before = strict.old.and_then(|old| {
        let mut versions = list_at(old, &["spec", "versions"]).iter();
        versions.find(|old| text(old, "name") == text(version, "name"))
    });
    let were_too_many = before.is_some_and(|before| {
        let old = list(before, "selectableFields");
        old.len() > MOST_SELECTABLE && old == fields
    });
    if seen.len() > MOST_SELECTABLE && !were_too_many {
        errors.push(Error::too_many(at, seen.len(), MOST_SELECTABLE));
    }
}

fn stored_versions(crd: &Value, errors: &mut ErrorList) {
    let at = Path::new("status").child("storedVersions");
    let stored = list_at(crd, &["status", "storedVersions"]);
    if stored.is_empty() {
        let why = "must have at least one stored version";
        errors.push(Error::invalid(&at, Value::Array(Vec::new()), why));
        return;
    }
    let versions = list_at(crd, &["spec", "versions"]);
    let is_stored = |name: &str| stored.iter().any(|stored| stored.as_str() == Some(name));
    for version in versions {
        let name = text(version, "name");
        if flag(version, "storage") && !is_stored(name) {
            let why = format!("must have the storage version {name}");
            errors.push(Error::invalid(&at, stored.to_vec(), why));
        }
    }
    for (index, stored) in stored.iter().enumerate() {
        let name = stored.as_str().unwrap_or_default();
        if !versions.iter().any(|version| text(version, "name") == name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(Error::invalid(&at.index(index), name, why));
        }
    }
}

/// Groups of the project itself are approved by it.
fn approval(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let group = text_at(crd, &["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')));
    if !protected {
        return;
    }
    let said = |crd: &Value| meta::annotation(crd, APPROVAL).unwrap_or_default().to_owned();
    let state = |said: &str| {
        let url = said.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && !rest.split('/').next().unwrap_or("").is_empty()
        });
        match said {
            "" => Approval::Missing,
            said if said.starts_with("unapproved") => Approval::Bypassed,
            _ if url => Approval::Approved,
            _ => Approval::Invalid,
        }
    };
    let new = said(crd);
    if old.is_some_and(|old| state(&said(old)) == state(&new)) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(APPROVAL);
    let annotation = quote(APPROVAL);
    let more = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state(&new) {
        Approval::Approved | Approval::Bypassed => {}
        Approval::Missing => errors.push(Error::required(
            &at,
            format!("protected groups must have approval annotation {annotation}, {more}"),
        )),
        Approval::Invalid => errors.push(Error::invalid(
            &at,
            new,
            format!(
                "protected groups must have approval annotation {annotation} with either a URL or a reason starting with \"unapproved\", {more}"
            ),
        )),
    }
}

#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

#[cfg(test)]
mod tests;
