//! The strategy of every custom kind: what upstream does the same way for all of them, and what a version's
//! definition says.
//!
//! ```text
//! validate: OpenAPI schema ► scale ► embedded objects ► lists ► x-kubernetes-validations
//! ```

mod columns;
mod json_path;

pub use json_path::JsonPath;

use super::definition::{CustomSchema, Definition, Version};
use super::structural::{lists, metadata, validate};
use crate::strategy::{Context, Scale, Strategy, Subresource, bump_generation, keep};
use columns::Columns;
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::field::{Error, ErrorList, ErrorType, Path};
use machinery::{Value, meta, names};
use std::sync::{Arc, OnceLock};

/// A custom kind in one of its versions.
pub struct CustomResource {
    pub definition: Arc<Definition>,
    /// Index of the definition's versions.
    pub version: usize,
    pub schema: Arc<CustomSchema>,
    columns: OnceLock<Columns>,
    selectors: OnceLock<Vec<JsonPath>>,
}

impl CustomResource {
    pub fn new(definition: Arc<Definition>, version: usize, schema: Arc<CustomSchema>) -> Self {
        Self {
            definition,
            version,
            schema,
            columns: OnceLock::new(),
            selectors: OnceLock::new(),
        }
    }

    fn version(&self) -> &Version {
        &self.definition.versions[self.version]
    }

    fn columns_of(&self) -> &Columns {
        self.columns.get_or_init(|| Columns::new(&self.version().columns))
    }

    /// Everything but the schema itself.
    fn validate_rest(&self, object: &Value, old: Option<&Value>, mut errors: ErrorList) -> ErrorList {
        let Some(schema) = self.schema.schema() else {
            return errors;
        };
        errors.extend(metadata::validate(schema, object));
        let wrong_before = old.is_some_and(|old| !lists::validate(schema, old).is_empty());
        if !wrong_before {
            errors.extend(lists::validate(schema, object));
        }
        self.validate_rules(object, old, errors)
    }

    /// The rules in CEL, unless what was found before makes them pointless.
    fn validate_rules(&self, object: &Value, old: Option<&Value>, mut errors: ErrorList) -> ErrorList {
        let (Some(schema), Some(rules)) = (self.schema.schema(), self.schema.rules()) else {
            return errors;
        };
        if blocks_rules(&errors) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(Error::invalid(&Path::root(), Value::Null, why));
        } else {
            errors.extend(rules.validate(schema, object, old));
        }
        errors
    }

    fn validate_scale(&self, object: &Value, with_spec: bool, errors: &mut ErrorList) {
        let Some(scale) = &self.version().scale else {
            return;
        };
        let at = |path: &str| Path::new(&format!(".{path}"));
        let mut count = |path: &str| {
            let value = object.get_path(&path.split('.').collect::<Vec<_>>());
            let wrong = match value {
                None | Some(Value::Null) => None,
                Some(Value::Int(count)) if *count < 0 => Some("should be a non-negative integer".to_owned()),
                Some(Value::Int(count)) if *count > i64::from(i32::MAX) => {
                    Some(format!("should be less than or equal to {}", i32::MAX))
                }
                Some(Value::Int(_)) => None,
                Some(_) => Some(format!(".{path} accessor error: the value is not an integer")),
            };
            if let Some(wrong) = wrong {
                errors.push(Error::invalid(
                    &at(path),
                    value.cloned().unwrap_or_default(),
                    wrong,
                ));
            }
        };
        if with_spec {
            count(&scale.replicas);
        }
        count(&scale.status_replicas);
    }
}

impl Strategy for CustomResource {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        if self.version().has_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        meta::set(object, "generation", 1);
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = match self.schema.schema() {
            Some(schema) => validate::validate(schema, object, ""),
            None => ErrorList::new(),
        };
        self.validate_scale(object, true, &mut errors);
        self.validate_rest(object, None, errors)
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        finalizer_warnings(object, None)
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        if self.version().has_status {
            keep(new, old, "status");
        }
        if !same_but_metadata(new, old) {
            bump_generation(new, old);
        }
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = match self.schema.schema() {
            Some(schema) => validate::validate_update(schema, new, Some(old), ""),
            None => ErrorList::new(),
        };
        self.validate_scale(new, true, &mut errors);
        self.validate_rest(new, Some(old), errors)
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        finalizer_warnings(new, Some(old))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn selectable_field(&self, field: &str) -> Option<usize> {
        if !self.version().selectable.iter().any(|known| known == field) {
            return None;
        }
        self.definition.selectable.iter().position(|known| known == field)
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        let paths = self.selectors.get_or_init(|| {
            let fields = self.definition.selectable.iter();
            fields
                .map(|field| JsonPath::parse(&format!(".{field}")).unwrap_or_default())
                .collect()
        });
        paths
            .iter()
            .map(|path| match path.find(object).first() {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => CompactString::from(if *flag { "true" } else { "false" }),
                Some(Value::Int(number)) => compact_str::format_compact!("{number}"),
                _ => CompactString::default(),
            })
            .collect()
    }

    fn column_definitions(&self) -> Vec<Value> {
        self.columns_of().definitions.clone()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.columns_of().row(object, now)
    }

    fn subresource(&self, name: &str) -> Option<&dyn Subresource> {
        (name == "status").then_some(self as &dyn Subresource)
    }

    fn scale(&self) -> Option<Scale> {
        self.version().scale.clone()
    }
}

/// The `status` subresource.
impl Subresource for CustomResource {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        let status = new.get("status").cloned();
        let managed = meta::metadata(new).and_then(|m| m.get("managedFields")).cloned();
        let mut kept = old.clone();
        if let Some(managed) = managed {
            meta::set(&mut kept, "managedFields", managed);
        }
        let map = kept.make_object();
        match status {
            Some(status) => {
                map.insert("status", status);
            }
            None => {
                map.remove("status");
            }
        }
        *new = kept;
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(schema) = self.schema.schema() {
            if let (Some(schema), Some(status)) = (schema.property("status"), new.get("status")) {
                errors.extend(validate::validate_update(
                    schema,
                    status,
                    old.get("status"),
                    "status",
                ));
            }
            let wrong = lists::validate(schema, new);
            if !wrong.is_empty() && lists::validate(schema, old).is_empty() {
                errors.extend(wrong);
            }
        }
        self.validate_scale(new, false, &mut errors);
        self.validate_rules(new, Some(old), errors)
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:metadata"], &["f:spec"]]
    }
}

fn same_but_metadata(new: &Value, old: &Value) -> bool {
    let fields = |object: &Value| -> Value {
        let fields = object.as_object().into_iter().flatten();
        let rest = fields.filter(|(name, _)| name.as_str() != "metadata");
        Value::Object(rest.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    fields(new).semantic_eq(&fields(old))
}

/// Some findings say that an object is so wrong that rules would only confuse.
pub fn blocks_rules(errors: &ErrorList) -> bool {
    errors.iter().any(|error| {
        matches!(
            error.kind,
            ErrorType::NotSupported
                | ErrorType::Required
                | ErrorType::TooLong
                | ErrorType::TooMany
                | ErrorType::TypeInvalid
        )
    })
}

/// Finalizers that may collide with somebody else's.
fn finalizer_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let mut added: Vec<&str> = meta::finalizers(object)
        .filter(|finalizer| !old.is_some_and(|old| meta::finalizers(old).any(|known| known == *finalizer)))
        .collect();
    added.sort_unstable();
    let mut warnings = Vec::new();
    for finalizer in added {
        let at = |why: &str| {
            format!(
                "metadata.finalizers: {}: {why}",
                machinery::field::quote(finalizer)
            )
        };
        warnings.extend(names::qualified_name(finalizer).iter().map(|why| at(why)));
        if finalizer.contains('/') || STANDARD.contains(&finalizer) {
            continue;
        }
        warnings.push(at(if finalizer.contains('.') {
            "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        } else {
            "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        }));
    }
    warnings
}
