//! The schema of a custom resource, read off its definition: what upstream calls a structural schema.
//!
//! ```text
//! openAPIV3Schema ─► Schema ─► types      decoding, pruning, defaulting, applying (machinery's tables)
//!                        ├───► validate   OpenAPI validation with upstream's messages, ratcheting
//!                        ├───► lists      sets and maps have no item twice
//!                        ├───► metadata   embedded objects are objects
//!                        └───► rules      x-kubernetes-validations (CEL)
//! ```
//!
//! **Invariant:** a [`Schema`] is only read; patterns are compiled when they are first met, because most schemas of
//! a cluster are never asked.

pub mod declared;
mod formats;
pub mod lists;
pub mod metadata;
pub mod paths;
pub mod rules;
mod types;
pub mod validate;

pub use formats::is_known as is_known_format;
pub use types::{root, types};

use crate::fields::{flag, int, list, present, text, texts};
use compact_str::CompactString;
use machinery::Value;
use regex::Regex;
use std::sync::OnceLock;

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// Empty: any type. An int-or-string has two.
    pub types: Vec<CompactString>,
    pub format: CompactString,
    pub nullable: bool,
    pub default: Option<Value>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<CompactString>,
    pub one_of_values: Vec<Value>,
    /// Sorted by name.
    pub properties: Vec<(CompactString, Schema)>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    pub int_or_string: bool,
    pub preserve_unknown: bool,
    pub embedded_resource: bool,
    pub list_type: ListType,
    pub list_map_keys: Vec<CompactString>,
    pub atomic_map: bool,
    pub rules: Vec<Rule>,
}

/// `additionalProperties`.
#[derive(Debug)]
pub enum Additional {
    Allowed(bool),
    Schema(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// An entry of `x-kubernetes-validations`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: CompactString,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// A regular expression, compiled when it is first used.
#[derive(Debug)]
pub struct Pattern {
    pub text: String,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            compiled: OnceLock::new(),
        }
    }

    /// The expression, or why it is none.
    pub fn regex(&self) -> Result<&Regex, &str> {
        self.compiled
            .get_or_init(|| Regex::new(&self.text).map_err(|error| error.to_string()))
            .as_ref()
            .map_err(String::as_str)
    }
}

impl Schema {
    /// Reads an `openAPIV3Schema`.
    pub fn parse(schema: &Value) -> Self {
        let number = |field: &str| schema.get(field).and_then(Value::as_f64);
        let children = |field: &str| list(schema, field).iter().map(Self::parse).collect();
        let child = |field: &str| present(schema, field).map(|s| Box::new(Self::parse(s)));
        let int_or_string = flag(schema, "x-kubernetes-int-or-string");
        let ty = text(schema, "type");
        let types = if int_or_string {
            vec!["integer".into(), "string".into()]
        } else if ty.is_empty() {
            Vec::new()
        } else {
            vec![ty.into()]
        };
        let properties = present(schema, "properties").and_then(Value::as_object);
        let names = |field: &str| texts(schema, field).map(CompactString::from).collect();
        Self {
            format: known_format(text(schema, "format"), &types),
            types,
            nullable: flag(schema, "nullable"),
            default: present(schema, "default").cloned(),
            maximum: number("maximum"),
            exclusive_maximum: flag(schema, "exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag(schema, "exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: int(schema, "maxLength"),
            min_length: int(schema, "minLength"),
            pattern: Some(text(schema, "pattern"))
                .filter(|p| !p.is_empty())
                .map(Pattern::new),
            max_items: int(schema, "maxItems"),
            min_items: int(schema, "minItems"),
            unique_items: flag(schema, "uniqueItems"),
            max_properties: int(schema, "maxProperties"),
            min_properties: int(schema, "minProperties"),
            required: names("required"),
            one_of_values: list(schema, "enum").to_vec(),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.as_str().into(), Self::parse(schema)))
                .collect(),
            additional: present(schema, "additionalProperties").map(|additional| match additional {
                Value::Bool(allowed) => Additional::Allowed(*allowed),
                schema => Additional::Schema(Box::new(Self::parse(schema))),
            }),
            items: child("items"),
            all_of: children("allOf"),
            any_of: children("anyOf"),
            one_of: children("oneOf"),
            not: child("not"),
            int_or_string,
            preserve_unknown: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag(schema, "x-kubernetes-embedded-resource"),
            list_type: match text(schema, "x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: names("x-kubernetes-list-map-keys"),
            atomic_map: text(schema, "x-kubernetes-map-type") == "atomic",
            rules: list(schema, "x-kubernetes-validations")
                .iter()
                .map(Rule::parse)
                .collect(),
        }
    }

    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties
            .binary_search_by(|(known, _)| known.as_str().cmp(name))
            .ok()
            .map(|at| &self.properties[at].1)
    }

    /// The schema of a field: its own, or that of all other fields.
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.property(name).or(match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        })
    }

    pub fn has_type(&self, ty: &str) -> bool {
        self.types.iter().any(|known| known == ty)
    }

    /// Whether it or anything below it has rules.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
            || self.properties.iter().any(|(_, schema)| schema.has_rules())
            || self.items.as_ref().is_some_and(|schema| schema.has_rules())
            || matches!(&self.additional, Some(Additional::Schema(schema)) if schema.has_rules())
    }
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let own = |field: &str| text(rule, field).to_owned();
        Self {
            rule: own("rule"),
            message: own("message"),
            message_expression: own("messageExpression"),
            reason: text(rule, "reason").into(),
            field_path: own("fieldPath"),
            optional_old_self: rule.get("optionalOldSelf").and_then(Value::as_bool),
        }
    }
}

/// The format, if it is one that is checked for the type.
fn known_format(format: &str, types: &[CompactString]) -> CompactString {
    let known = match types {
        [] => formats::is_known(format),
        [ty] if ty == "string" => formats::is_known(format),
        [ty] if ty == "integer" => matches!(format, "int32" | "int64"),
        [ty] if ty == "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known {
        format.into()
    } else {
        CompactString::default()
    }
}
