//! A version's schema: what OpenAPI allows and what Kubernetes allows of it, and its rules, which are only looked at
//! where nothing else is wrong.

use super::{Strictness, defaults, structure};
use crate::apiextensions::structural::paths::{self, Notation};
use crate::apiextensions::structural::rules::{self, Judged};
use crate::apiextensions::structural::{Schema, declared};
use crate::fields::{entries, flag, list, present, text, texts};
use machinery::field::{Error, ErrorList, Path, quote};
use machinery::{Map, Value, codec};

/// What one rule of a definition may cost.
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// Rules named when all of them cost too much.
const MOST_NAMED: usize = 4;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// What the root may say where `status` is judged by itself, as upstream lists it, and as definitions spell it.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// How a schema is to be judged.
pub(super) struct Judging<'a> {
    pub strict: &'a Strictness<'a>,
    pub has_status: bool,
    /// It is as it was: what its rules cost was judged then.
    pub unchanged: bool,
}

/// Judges a whole schema.
pub(super) fn validate(whole: &Value, judging: &Judging<'_>, at: &Path, errors: &mut ErrorList) {
    let before = errors.len();
    let here = at.child("openAPIV3Schema");
    if judging.has_status {
        root_with_status(whole, &here, errors);
    }
    if flag(whole, "nullable") {
        let why = "nullable cannot be true at the root";
        errors.push(Error::forbidden(&at.child("openAPIV3Schema.nullable"), why));
    }
    let mut with_rules = false;
    let mut unsupported_field = None;
    if judging.strict.structural {
        unsupported_field = unsupported(whole);
        if unsupported_field.is_none() {
            let wrong = structure::validate(whole, &here);
            let wrong = if wrong.is_empty() {
                defaults::validate(whole, judging.strict.pruned_defaults, &here)
            } else {
                wrong
            };
            with_rules = wrong.is_empty();
            errors.extend(wrong);
        }
    }
    let mut walk = Walk {
        judging,
        with_rules,
        cost: Cost::default(),
        about_rules: ErrorList::new(),
        wrong: ErrorList::new(),
    };
    let context = Context {
        root: true,
        defaults: Ok(()),
        inside_meta: false,
        uncorrelatable: None,
        rules: with_rules.then_some(Some(1)),
    };
    walk.schema(whole, &here, &context);
    errors.extend(walk.wrong);
    errors.extend(walk.about_rules);
    if let Some(why) = unsupported_field.filter(|_| errors.len() == before) {
        errors.push(Error::invalid(&here, "", why));
    }
    if walk.cost.total > SCHEMA_LIMIT {
        for path in walk.cost.named() {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(Error::forbidden(path, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(
            &here,
            too_dear(what, walk.cost.total, SCHEMA_LIMIT),
        ));
    }
}

fn root_with_status(whole: &Value, at: &Path, errors: &mut ErrorList) {
    let fields = whole.as_object().into_iter().flatten();
    let said = fields.filter(|(_, value)| {
        !value.is_empty() && !matches!(value, Value::Bool(false)) && *value != Value::Int(0)
    });
    let mut unknown = said.filter(|(name, _)| !AT_ROOT.iter().any(|(_, known)| known == &name.as_str()));
    let ty = text(whole, "type");
    if !ty.is_empty() && ty != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(Error::invalid(&Path::new(&format!("{at}.type")), ty, why));
    } else if unknown.next().is_some() {
        let known: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            known.join(" ")
        );
        errors.push(Error::invalid(at, whole.clone(), why));
    }
}

/// What holds for a schema because of where it stands.
#[derive(Clone)]
struct Context {
    root: bool,
    /// Or why there may be none here.
    defaults: Result<(), String>,
    inside_meta: bool,
    /// The nearest schema above of whose values nobody can say what stood there before.
    uncorrelatable: Option<Path>,
    /// How many values there can be, if the schemas above say; nothing where rules are not looked at.
    rules: Option<Option<u64>>,
}

struct Walk<'a> {
    judging: &'a Judging<'a>,
    with_rules: bool,
    cost: Cost,
    wrong: ErrorList,
    about_rules: ErrorList,
}

impl Walk<'_> {
    /// Judges a schema and everything below it.
    fn schema(&mut self, schema: &Value, at: &Path, context: &Context) {
        let before = self.wrong.len();
        self.own(schema, at, context);
        let below = Context {
            root: false,
            ..context.clone()
        };
        let bare = Context {
            rules: None,
            ..below.clone()
        };
        let rules = context.rules.map(|above| {
            let own = limit_below(schema);
            above.zip(own).map(|(above, own)| above.saturating_mul(own))
        });
        let counted = Context { rules, ..below };
        if let Some(others) = present(schema, "additionalProperties") {
            let at = at.child("additionalProperties");
            let empty = entries(schema, "properties").is_empty();
            if !empty && others != &Value::Bool(true) {
                let why = "additionalProperties and properties are mutual exclusive";
                self.wrong.push(Error::forbidden(&at, why));
            }
            if others.as_object().is_some() {
                let mut context = counted.clone();
                if context.inside_meta {
                    context.defaults =
                        Err("inside additionalProperties applying to object metadata".to_owned());
                }
                self.schema(others, &at, &context);
            }
        }
        for (name, property) in entries(schema, "properties") {
            let mut inner = counted.clone();
            let of_meta = matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
            if of_meta && (context.root || flag(schema, "x-kubernetes-embedded-resource")) {
                inner.inside_meta = true;
                if context.root {
                    inner.defaults = Err(format!("in top-level {name}"));
                }
            }
            self.schema(property, &at.child("properties").key(name), &inner);
        }
        if let Some(not) = present(schema, "not") {
            self.schema(not, &at.child("not"), &bare);
        }
        for field in ["allOf", "oneOf", "anyOf"] {
            for (index, part) in list(schema, field).iter().enumerate() {
                self.schema(part, &at.child(field).index(index), &bare);
            }
        }
        for (name, part) in entries(schema, "definitions") {
            self.schema(part, &at.child("definitions").key(name), &bare);
        }
        if let Some(items) = present(schema, "items") {
            let mut context = counted;
            if text(schema, "x-kubernetes-list-type") != "map" {
                context.uncorrelatable.get_or_insert_with(|| at.clone());
            }
            let at = at.child("items");
            match items {
                Value::Array(all) => {
                    for (index, one) in all.iter().enumerate() {
                        self.schema(one, &at.index(index), &context);
                    }
                }
                one => self.schema(one, &at, &context),
            }
        }
        self.extensions(schema, at);
        self.rules(schema, at, context, before);
    }

    fn own(&mut self, schema: &Value, at: &Path, context: &Context) {
        let ty = text(schema, "type");
        if self.judging.strict.known_types && has_unknown_type(schema) {
            self.wrong
                .push(Error::not_supported(&at.child("type"), ty, &TYPES));
        }
        if let (Some(_), Err(why)) = (schema.get("default"), &context.defaults) {
            let why = format!("must not be set {why}");
            self.wrong.push(Error::forbidden(&at.child("default"), why));
        }
        let unsupported = [
            ("id", "id"),
            ("additionalItems", "additionalItems"),
            ("patternProperties", "patternProperties"),
            ("definitions", "definitions"),
            ("dependencies", "dependencies"),
            ("$ref", "$ref"),
        ];
        for (field, name) in unsupported {
            if present(schema, field).is_some_and(|value| !value.is_empty() || field == "dependencies") {
                let why = format!("{name} is not supported");
                self.wrong.push(Error::forbidden(&at.child(field), why));
            }
        }
        if ty == "null" {
            let why = "type cannot be set to null, use nullable as an alternative";
            self.wrong.push(Error::forbidden(&at.child("type"), why));
        }
        if matches!(schema.get("items"), Some(Value::Array(items)) if !items.is_empty()) {
            let why = "items must be a schema object and not an array";
            self.wrong.push(Error::forbidden(&at.child("items"), why));
        }
        if context.inside_meta && flag(schema, "x-kubernetes-embedded-resource") {
            let why = "must not be used inside of resource meta";
            let at = at.child("x-kubernetes-embedded-resource");
            self.wrong.push(Error::forbidden(&at, why));
        }
        if flag(schema, "uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.wrong.push(Error::forbidden(&at.child("uniqueItems"), why));
        }
    }

    /// What Kubernetes adds to OpenAPI.
    fn extensions(&mut self, schema: &Value, at: &Path) {
        if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let at = at.child("x-kubernetes-preserve-unknown-fields");
            self.wrong
                .push(Error::invalid(&at, false, "must be true or undefined"));
        }
        let ty = text(schema, "type");
        let must_be = |wanted: &str, field: &str| {
            let why = format!("must be {wanted} if {field} is specified");
            let at = at.child("type");
            if ty.is_empty() {
                Error::required(&at, why)
            } else {
                Error::invalid(&at, ty, why)
            }
        };
        let map_type = present(schema, "x-kubernetes-map-type").and_then(Value::as_str);
        if let Some(map_type) = map_type {
            if ty != "object" {
                self.wrong.push(must_be("object", "x-kubernetes-map-type"));
            }
            if !["atomic", "granular"].contains(&map_type) {
                let at = at.child("x-kubernetes-map-type");
                self.wrong
                    .push(Error::not_supported(&at, map_type, &["atomic", "granular"]));
            }
        }
        let list_type = present(schema, "x-kubernetes-list-type").and_then(Value::as_str);
        if list_type.is_some() && ty != "array" {
            self.wrong.push(must_be("array", "x-kubernetes-list-type"));
        } else if self.judging.strict.atomic_sets && has_granular_items(schema) {
            let items = schema.get("items").unwrap_or(&Value::Null);
            let field = if text(items, "type") == "array" {
                "x-kubernetes-list-type"
            } else {
                "x-kubernetes-map-type"
            };
            let shown = items.get("x-kubernetes-list-type").cloned().unwrap_or_default();
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            self.wrong
                .push(Error::invalid(&at.child("items").child(field), shown, why));
        }
        if let Some(other) = list_type.filter(|known| !["atomic", "set", "map"].contains(known)) {
            let at = at.child("x-kubernetes-list-type");
            self.wrong
                .push(Error::not_supported(&at, other, &["atomic", "set", "map"]));
        }
        self.list_keys(schema, list_type, at);
        if self.judging.strict.map_keys {
            self.wrong.extend(map_keys(schema, at));
        }
    }

    fn list_keys(&mut self, schema: &Value, list_type: Option<&str>, at: &Path) {
        let keys: Vec<&str> = texts(schema, "x-kubernetes-list-map-keys").collect();
        if !keys.is_empty() {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            let at = at.child("x-kubernetes-list-type");
            match list_type {
                None => self.wrong.push(Error::required(&at, why)),
                Some("map") => {}
                Some(other) => self.wrong.push(Error::invalid(&at, other, why)),
            }
        }
        if list_type != Some("map") {
            return;
        }
        let keys_at = at.child("x-kubernetes-list-map-keys");
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.wrong.push(Error::required(&keys_at, why));
        }
        let items_at = at.child("items");
        let items = match present(schema, "items") {
            None => {
                let why = "must have a schema if x-kubernetes-list-type is map";
                self.wrong.push(Error::required(&items_at, why));
                return;
            }
            Some(items @ Value::Array(_)) => {
                let why = "must only have a single schema if x-kubernetes-list-type is map";
                self.wrong.push(Error::invalid(&items_at, items.clone(), why));
                return;
            }
            Some(items) => items,
        };
        let ty = text(items, "type");
        if ty != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            self.wrong.push(Error::invalid(&items_at.child("type"), ty, why));
            return;
        }
        for (index, key) in keys.iter().enumerate() {
            match items.get_path(&["properties", key]) {
                Some(property) if ["array", "object"].contains(&text(property, "type")) => {
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let at = items_at.child("properties").key(key).child("type");
                    self.wrong.push(Error::invalid(&at, ty, why));
                }
                Some(_) => {}
                None => {
                    let why = "entries must all be names of item properties";
                    self.wrong.push(Error::invalid(&keys_at, named(&keys), why));
                }
            }
            if keys[..index].contains(key) {
                let why = "must not contain duplicate entries";
                self.wrong.push(Error::invalid(&keys_at, named(&keys), why));
            }
        }
    }

    /// The rules as texts; then, if nothing is wrong here and below, as expressions.
    fn rules(&mut self, schema: &Value, at: &Path, context: &Context, before: usize) {
        let rules = list(schema, "x-kubernetes-validations");
        if rules.is_empty() {
            return;
        }
        let at = at.child("x-kubernetes-validations");
        let parsed = Schema::parse(schema);
        for (index, rule) in rules.iter().enumerate() {
            rule_text(rule, &parsed, &at.index(index), &mut self.wrong);
        }
        let Some(values) = context
            .rules
            .filter(|_| self.with_rules && self.wrong.len() == before)
        else {
            return;
        };
        let root = context.root || parsed.embedded_resource;
        let Some(judged) = rules::judge(&parsed, root) else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            self.about_rules.push(Error::internal(&at, why));
            return;
        };
        let values = values.unwrap_or_else(|| declared::most_in_request(&parsed));
        for (index, (rule, judged)) in rules.iter().zip(judged).enumerate() {
            self.rule(rule, &judged, values, context, &at.index(index));
        }
    }

    fn rule(&mut self, rule: &Value, judged: &Judged, values: u64, context: &Context, at: &Path) {
        let out = &mut self.about_rules;
        let rule_at = at.child("rule");
        let dear = |what: &str, cost: u64| {
            (!self.judging.unchanged && cost > RULE_LIMIT).then(|| too_dear(what, cost, RULE_LIMIT))
        };
        let cost = judged.cost.saturating_mul(values);
        if let Some(why) = dear("estimated rule cost", cost) {
            out.push(Error::forbidden(&rule_at, why));
        }
        self.cost.add(&rule_at, cost);
        if let Some(why) = &judged.wrong {
            out.push(about_rule(&rule_at, rule, why));
        }
        let message_at = at.child("messageExpression");
        match &judged.message {
            Some(Err(why)) => out.push(about_rule(&message_at, rule, why)),
            Some(Ok(cost)) => {
                if let Some(why) = dear("estimated messageExpression cost", *cost) {
                    out.push(Error::forbidden(&message_at, why));
                }
                self.cost.add(&message_at, *cost);
            }
            None => {}
        }
        if judged.uses_old {
            if let Some(path) = &context.uncorrelatable {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {path}"
                );
                out.push(Error::invalid(&rule_at, text(rule, "rule"), why));
            }
        } else if let Some(optional) = rule.get("optionalOldSelf").and_then(Value::as_bool) {
            let why = "may not be set if oldSelf is not used in rule";
            out.push(Error::invalid(&at.child("optionalOldSelf"), optional, why));
        }
    }
}

fn rule_text(rule: &Value, schema: &Schema, at: &Path, errors: &mut ErrorList) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let (expression, message) = (text(rule, "rule").trim(), text(rule, "message"));
    let message_at = at.child("message");
    if expression.is_empty() {
        errors.push(Error::required(&at.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(
            &message_at,
            message,
            "must be non-empty if specified",
        ));
    } else if breaks(message.trim()) {
        errors.push(Error::invalid(
            &message_at,
            message,
            "must not contain line breaks",
        ));
    } else if breaks(expression) && message.trim().is_empty() {
        let why = "message must be specified if rule contains line breaks";
        errors.push(Error::required(&message_at, why));
    }
    let made = text(rule, "messageExpression");
    if !made.is_empty() && made.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.push(Error::required(&at.child("messageExpression"), why));
    }
    let reason = present(rule, "reason").and_then(Value::as_str);
    if let Some(other) = reason.filter(|reason| !REASONS.contains(reason)) {
        errors.push(Error::not_supported(&at.child("reason"), other, &REASONS));
    }
    let path = text(rule, "fieldPath");
    if path.is_empty() {
        return;
    }
    let mut refuse = |why: &str| errors.push(Error::invalid(&at.child("fieldPath"), path, why));
    if path.trim().is_empty() {
        refuse("must be non-empty if specified");
    }
    if breaks(path) {
        refuse("must not contain line breaks");
    }
    if paths::resolve(path, schema, Notation::Any).is_err() {
        refuse("must be a valid path");
    }
}

/// A finding that shows the whole rule, field by field as upstream keeps it.
fn about_rule(at: &Path, rule: &Value, why: &str) -> Error {
    let shown = |field: &str| {
        let value = rule.get(field).cloned().unwrap_or_default();
        String::from_utf8_lossy(&codec::json::to_vec(&value)).into_owned()
    };
    let own = |field: &str| match rule.get(field) {
        Some(value) if !value.is_null() => String::from_utf8_lossy(&codec::json::to_vec(value)).into_owned(),
        _ => "\"\"".to_owned(),
    };
    let detail = format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}: {why}",
        own("rule"),
        own("message"),
        own("messageExpression"),
        shown("reason"),
        own("fieldPath"),
        shown("optionalOldSelf"),
    );
    Error::invalid(at, Value::Null, detail).without_value()
}

/// What the rules of a schema cost together, and the dearest of them.
#[derive(Default)]
struct Cost {
    total: u64,
    dearest: Vec<(Path, u64)>,
}

impl Cost {
    fn add(&mut self, at: &Path, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.dearest.push((at.clone(), cost));
        }
    }

    fn named(&mut self) -> impl Iterator<Item = &Path> {
        self.dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        self.dearest.iter().take(MOST_NAMED).map(|(path, _)| path)
    }
}

fn too_dear(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// How often a value below can stand where one of the schema stands, if the schema says.
fn limit_below(schema: &Value) -> Option<u64> {
    let field = match text(schema, "type") {
        "array" => "maxItems",
        "object" if present(schema, "additionalProperties").is_some() => "maxProperties",
        _ => return Some(1),
    };
    let most = crate::fields::int(schema, field)?;
    Some(u64::try_from(most).unwrap_or(0))
}

fn named(keys: &[&str]) -> Vec<Value> {
    keys.iter().map(|key| Value::from(*key)).collect()
}

/// Whether a schema, or one within it, is as asked.
pub(super) fn any(schema: &Value, asked: &mut dyn FnMut(&Value) -> bool) -> bool {
    if asked(schema) {
        return true;
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        if list(schema, field).iter().any(|part| any(part, asked)) {
            return true;
        }
    }
    for field in ["properties", "patternProperties", "definitions", "dependencies"] {
        let mut parts = entries(schema, field).iter();
        if parts.any(|(_, part)| part.as_object().is_some() && any(part, asked)) {
            return true;
        }
    }
    for field in ["items", "not", "additionalProperties", "additionalItems"] {
        let found = match schema.get(field) {
            Some(Value::Array(parts)) => parts.iter().any(|part| any(part, asked)),
            Some(part @ Value::Object(_)) => any(part, asked),
            _ => false,
        };
        if found {
            return true;
        }
    }
    false
}

pub(super) fn has_defaults(schema: &Value) -> bool {
    any(schema, &mut |part| part.get("default").is_some())
}

pub(super) fn has_extensions(schema: &Value) -> bool {
    any(schema, &mut |part| {
        flag(part, "x-kubernetes-embedded-resource")
            || present(part, "x-kubernetes-preserve-unknown-fields").is_some()
            || flag(part, "x-kubernetes-int-or-string")
            || !list(part, "x-kubernetes-list-map-keys").is_empty()
            || present(part, "x-kubernetes-list-type").is_some()
            || !list(part, "x-kubernetes-validations").is_empty()
    })
}

pub(super) fn has_unknown_type(schema: &Value) -> bool {
    let ty = text(schema, "type");
    !ty.is_empty() && !TYPES.contains(&ty)
}

/// Whether it is a set of what can change in part.
pub(super) fn has_granular_items(schema: &Value) -> bool {
    let Some(items) = schema.get("items").filter(|items| items.as_object().is_some()) else {
        return false;
    };
    let said = |field: &str| present(items, field).and_then(Value::as_str);
    text(schema, "x-kubernetes-list-type") == "set"
        && match text(items, "type") {
            "array" => said("x-kubernetes-list-type").is_some_and(|kind| kind != "atomic"),
            "object" => said("x-kubernetes-map-type") != Some("atomic"),
            _ => false,
        }
}

/// Items of sets and maps are there, and so are their keys.
pub(super) fn map_keys(schema: &Value, at: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = text(schema, "x-kubernetes-list-type");
    let Some(items) = schema.get("items").filter(|items| items.as_object().is_some()) else {
        return errors;
    };
    if kind != "set" && kind != "map" {
        return errors;
    }
    let at = at.child("items");
    if flag(items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.push(Error::forbidden(&at.child("nullable"), why));
    }
    if kind != "map" {
        return errors;
    }
    for key in texts(schema, "x-kubernetes-list-map-keys") {
        let Some(property) = items.get_path(&["properties", key]) else {
            continue;
        };
        let at = at.child("properties").key(key);
        let required = texts(items, "required").any(|name| name == key);
        if !required && property.get("default").is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&at.child("default"), why));
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&at.child("nullable"), why));
        }
    }
    errors
}

/// A field no structural schema can have.
pub(super) fn unsupported(schema: &Value) -> Option<String> {
    let mut found = None;
    any(schema, &mut |part| {
        found = unsupported_here(part);
        found.is_some()
    });
    found
}

fn unsupported_here(schema: &Value) -> Option<String> {
    let said = |field: &str| {
        schema
            .get(field)
            .is_some_and(|value| !value.is_empty() || matches!(value, Value::Bool(_)))
    };
    let fields = [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ];
    for (field, name) in fields {
        if said(field) {
            return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
        }
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let field = "x-kubernetes-preserve-unknown-fields";
        return Some(format!("internal error: '{field}' must be true or undefined"));
    }
    matches!(schema.get("items"), Some(Value::Array(items)) if !items.is_empty())
        .then(|| "OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned())
}

/// Formats in a definition that nobody judges values by.
pub(in super::super) fn unknown_formats(crd: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for version in crate::fields::list_at(crd, &["spec", "versions"]) {
        let Some(schema) = version.get_path(&["schema", "openAPIV3Schema"]) else {
            continue;
        };
        any(schema, &mut |part| {
            let format = text(part, "format");
            if !format.is_empty() && Schema::parse(&only_format(part)).format.is_empty() {
                found.push(format!("unrecognized format {}", quote(format)));
            }
            false
        });
    }
    found
}

fn only_format(schema: &Value) -> Value {
    let mut only = Map::new();
    for field in ["format", "type"] {
        if let Some(value) = schema.get(field) {
            only.insert(field, value.clone());
        }
    }
    only.into()
}
