//! The `scale` subresource: an object's replicas as an `autoscaling/v1` Scale.
//!
//! Who manages the replicas is told both ways: the object's managers are shown on the Scale, and a write to the
//! Scale is credited on the object.

use super::Exchange;
use super::patch::{self, Input};
use crate::cache::Entry;
use crate::registry::update::Change;
use crate::registry::{Registry, Resource, stored_error};
use crate::request::Verb;
use crate::request::query::{FieldValidation, WriteOptions};
use crate::respond;
use crate::routes::Endpoint;
use http::header::USER_AGENT;
use http::{Response, StatusCode};
use machinery::apply::{self, FieldManager, ResetFields, SameFields};
use machinery::field::{Error, Path};
use machinery::gvk::GroupVersionKind;
use machinery::schema::TypeId;
use machinery::selector::{LabelSelector, Operator};
use machinery::status::ApiError;
use machinery::{Map, Value, codec, meta};
use resources::strategy::Scale;
use std::sync::Arc;
use wire::body::Body;

const KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");
const API_VERSION: &str = "autoscaling/v1";

pub(super) async fn scale(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(false, false)?;
    let Some(paths) = resource.strategy.scale() else {
        return Err(ApiError::not_found_path());
    };
    let answer = |entry: &Entry| -> Result<Response<Body>, ApiError> {
        let object = entry.value(resource).map_err(stored_error)?;
        Ok(respond::value(
            StatusCode::OK,
            &output,
            &scale_of(resource, &object, &paths),
        ))
    };
    match exchange.info.verb {
        Verb::Get => {
            let registry = &exchange.core.registry;
            let entry = registry
                .get(resource, &exchange.info.namespace, &exchange.info.name, false)
                .await?;
            answer(&entry)
        }
        Verb::Update | Verb::Patch => {
            let kind = if exchange.info.verb == Verb::Update {
                "UpdateOptions"
            } else {
                "PatchOptions"
            };
            let options = exchange.write_options(kind)?;
            let ty = api::kind(&GroupVersionKind::new(KIND.0, KIND.1, KIND.2))
                .ok_or_else(|| ApiError::internal("no Scale in the tables"))?;
            let input = read(&mut exchange, &options, ty).await?;
            let manager = options.manager(exchange.headers().get(USER_AGENT));
            let options_object = exchange.options_object(kind, &options);
            let write = exchange.write(endpoint, resource, &options, &options_object, &manager);
            let change = Scaling {
                registry: &exchange.core.registry,
                input,
                paths: paths.clone(),
                resource,
                version: &resource.versions[endpoint.index].api_version,
                name: &exchange.info.name,
                manager: &manager,
                options: &options,
                ty,
            };
            let updated = exchange.core.registry.update(&write, &change, &exchange).await?;
            answer(&updated.entry)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// What the client sent.
enum Sent {
    Whole(Value),
    Part(Input),
}

struct Scaling<'a> {
    registry: &'a Registry,
    input: Sent,
    paths: Scale,
    resource: &'a Resource,
    version: &'a str,
    name: &'a str,
    manager: &'a str,
    options: &'a WriteOptions,
    ty: TypeId,
}

async fn read(exchange: &mut Exchange, options: &WriteOptions, ty: TypeId) -> Result<Sent, ApiError> {
    if exchange.info.verb == Verb::Update {
        let kind = GroupVersionKind::new(KIND.0, KIND.1, KIND.2);
        return Ok(Sent::Whole(exchange.decode_other(&kind, options).await?.0));
    }
    let kind = patch::media_type(exchange);
    patch::check_media_type(exchange, &kind, true)?;
    patch::check_options(exchange, options, &kind)?;
    let bytes = exchange.body().await?;
    Ok(Sent::Part(patch::read(
        &kind,
        &bytes,
        api::types(),
        ty,
        options,
        &exchange.notes,
    )?))
}

impl Change for Scaling<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let Some(live) = live else {
            return Err(ApiError::not_found(&self.resource.group_resource, self.name));
        };
        let current = scale_of(self.resource, live, &self.paths);
        let wanted = self.wanted(&current)?;
        let replicas = wanted
            .get_path(&["spec", "replicas"])
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if replicas < 0 {
            let at = Path::new("spec").child("replicas");
            let errors = vec![Error::invalid(
                &at,
                replicas,
                "must be greater than or equal to 0",
            )];
            return Err(ApiError::invalid(KIND.0, KIND.2, self.name, errors));
        }
        let mut new = live.clone();
        new.set_path(&steps(&self.paths.replicas), replicas);
        // A version sent with the Scale is a precondition on the object.
        meta::set_text(&mut new, "resourceVersion", meta::resource_version(&wanted));
        let uid = meta::uid(&wanted);
        if !uid.is_empty() {
            meta::set_text(&mut new, "uid", uid);
        }
        let path = managed_path(&self.paths);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let paths = replicas_paths(self.resource, &path);
        let credited = apply::scale::to_parent(managed(live), managed(&wanted), self.version, &paths);
        meta::set(
            &mut new,
            "managedFields",
            credited.map_err(ApiError::internal)?.unwrap_or_default(),
        );
        Ok(new)
    }

    fn tracks_itself(&self) -> bool {
        true
    }
}

impl Scaling<'_> {
    /// The Scale as the client wants it, with its managers.
    fn wanted(&self, current: &Value) -> Result<Value, ApiError> {
        let reset = ResetFields::default();
        let manager = FieldManager {
            types: api::types(),
            id: self.ty,
            version: API_VERSION,
            kind: KIND.2,
            subresource: "scale",
            built_in: true,
            reset: &reset,
            versions: &SameFields,
        };
        let now = self.registry.clock.now();
        let mut wanted = match &self.input {
            Sent::Whole(scale) => scale.clone(),
            Sent::Part(Input::Apply(config)) => {
                let force = self.options.force.unwrap_or(false);
                return Ok(manager
                    .apply(Some(current), config, self.manager, force, now)?
                    .object);
            }
            Sent::Part(Input::Patch(patch)) => {
                let patched = patch.apply(api::types(), self.ty, current)?;
                let decoded = codec::json::conform(&patched, api::types(), self.ty)
                    .map_err(|e| patch.unfit(&patched, &e.to_string()))?;
                if self.options.field_validation == FieldValidation::Strict && !decoded.findings.is_empty() {
                    let why = format!("strict decoding error: {}", decoded.findings.join(", "));
                    return Err(patch.unfit(&patched, &why));
                }
                decoded.value
            }
        };
        manager.update(Some(current), &mut wanted, self.manager, now);
        Ok(wanted)
    }
}

fn replicas_paths<'p>(resource: &'p Resource, path: &'p [&'p str]) -> Vec<(&'p str, Option<&'p [&'p str]>)> {
    resource
        .versions
        .iter()
        .map(|v| (v.api_version.as_str(), Some(path)))
        .collect()
}

/// The fields on the way to a dotted path.
fn steps(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

/// Where managers have the replicas.
fn managed_path(paths: &Scale) -> Vec<String> {
    paths
        .replicas
        .split('.')
        .map(|step| format!("f:{step}"))
        .collect()
}

fn managed(object: &Value) -> Option<&Value> {
    meta::metadata(object)?.get("managedFields")
}

fn scale_of(resource: &Resource, object: &Value, paths: &Scale) -> Value {
    let mut scale = Value::object();
    crate::object::set_kind(&mut scale, API_VERSION, KIND.2);
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get_path(&["metadata", field]) {
            scale.set_path(&["metadata", field], value.clone());
        }
    }
    let path = managed_path(paths);
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if let Ok(Some(managers)) = apply::scale::to_scale(managed(object), &replicas_paths(resource, &path)) {
        meta::set(&mut scale, "managedFields", managers);
    }
    let number = |path: &str| object.get_path(&steps(path)).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = Map::new();
    if number(&paths.replicas) != 0 {
        spec.insert("replicas", number(&paths.replicas));
    }
    scale.set_path(&["spec"], spec);
    let mut status = Map::new();
    status.insert("replicas", number(&paths.status_replicas));
    let selector = match object.get_path(&steps(&paths.selector)) {
        Some(Value::String(text)) => text.to_string(),
        // A replication controller's selector is the labels themselves.
        Some(Value::Object(map))
            if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") =>
        {
            selector_text(&LabelSelector::from_map(map))
        }
        Some(selector) => LabelSelector::from_object(Some(selector))
            .map(|s| selector_text(&s))
            .unwrap_or_default(),
        None => String::new(),
    };
    if !selector.is_empty() {
        status.insert("selector", selector);
    }
    scale.set_path(&["status"], status);
    scale
}

/// A selector as texts have it.
fn selector_text(selector: &LabelSelector) -> String {
    let mut terms: Vec<String> = Vec::with_capacity(selector.requirements.len());
    for r in &selector.requirements {
        let (key, values) = (&r.key, r.values.join(","));
        terms.push(match r.operator {
            Operator::In if r.values.len() == 1 => format!("{key}={values}"),
            Operator::In => format!("{key} in ({values})"),
            Operator::NotIn => format!("{key} notin ({values})"),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
            Operator::GreaterThan => format!("{key}>{values}"),
            Operator::LessThan => format!("{key}<{values}"),
        });
    }
    terms.join(",")
}
