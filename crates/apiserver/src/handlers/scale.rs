//! The `scale` subresource: an object's replicas as an `autoscaling/v1` Scale.

use super::Exchange;
use crate::cache::Entry;
use crate::registry::update::Change;
use crate::registry::{Resource, stored_error};
use crate::request::query::WriteOptions;
use crate::request::{Verb, negotiate};
use crate::respond;
use crate::routes::Endpoint;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Response, StatusCode};
use machinery::field::{Error, Path};
use machinery::gvk::GroupVersionKind;
use machinery::selector::{LabelSelector, Operator};
use machinery::status::ApiError;
use machinery::{Map, Value, codec, meta, patch};
use resources::strategy::Scale;
use std::sync::Arc;
use wire::body::Body;

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
            &scale_of(&object, &paths),
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
            let input = read(&mut exchange, &options).await?;
            let manager = options.manager(exchange.headers().get(USER_AGENT));
            let options_object = exchange.options_object(kind, &options);
            let write = exchange.write(endpoint, resource, &options, &options_object, &manager);
            let change = Scaling {
                input,
                paths,
                resource,
                name: &exchange.info.name,
            };
            let updated = exchange.core.registry.update(&write, &change, &exchange).await?;
            answer(&updated.entry)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// What the client sent.
enum Input {
    Whole(Value),
    Json(patch::json::JsonPatch),
    Merge(Value),
}

struct Scaling<'a> {
    input: Input,
    paths: Scale,
    resource: &'a Resource,
    name: &'a str,
}

fn scale_kind() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

async fn read(exchange: &mut Exchange, options: &WriteOptions) -> Result<Input, ApiError> {
    if exchange.info.verb == Verb::Update {
        return Ok(Input::Whole(
            exchange.decode_other(&scale_kind(), options).await?.0,
        ));
    }
    let kind = exchange
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
    let bytes = exchange.body().await?;
    let decode = |bytes: &[u8]| {
        codec::json::decode_any(bytes)
            .map(|d| d.value)
            .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
    };
    match kind.as_str() {
        "application/json-patch+json" => {
            Ok(Input::Json(patch::json::JsonPatch::from_value(decode(&bytes)?)?))
        }
        // A Scale has no lists, so both merge patches mean the same.
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            Ok(Input::Merge(decode(&bytes)?))
        }
        "application/apply-patch+yaml" => {
            let json = codec::yaml::to_json(&bytes)
                .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
            Ok(Input::Merge(decode(&json)?))
        }
        _ => Err(negotiate::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

impl Change for Scaling<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let Some(live) = live else {
            return Err(ApiError::not_found(&self.resource.group_resource, self.name));
        };
        let current = scale_of(live, &self.paths);
        let wanted = match &self.input {
            Input::Whole(scale) => scale.clone(),
            Input::Json(patch) => patch.apply(&current)?,
            Input::Merge(patch) => patch::merge::apply(current, patch.clone())?,
        };
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
            return Err(ApiError::invalid("autoscaling", "Scale", self.name, errors));
        }
        let mut new = live.clone();
        new.set_path(self.paths.replicas, replicas);
        // A version sent with the Scale is a precondition on the object.
        meta::set_text(&mut new, "resourceVersion", meta::resource_version(&wanted));
        let uid = meta::uid(&wanted);
        if !uid.is_empty() {
            meta::set_text(&mut new, "uid", uid);
        }
        Ok(new)
    }
}

fn scale_of(object: &Value, paths: &Scale) -> Value {
    let mut scale = Value::object();
    crate::object::set_kind(&mut scale, "autoscaling/v1", "Scale");
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get_path(&["metadata", field]) {
            scale.set_path(&["metadata", field], value.clone());
        }
    }
    let number = |path: &[&str]| object.get_path(path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = Map::new();
    if number(paths.replicas) != 0 {
        spec.insert("replicas", number(paths.replicas));
    }
    scale.set_path(&["spec"], spec);
    let mut status = Map::new();
    status.insert("replicas", number(paths.status_replicas));
    let selector = match object.get_path(paths.selector) {
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
