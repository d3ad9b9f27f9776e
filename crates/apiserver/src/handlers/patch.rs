//! PATCH: JSON patch, merge patch, strategic merge patch, server-side apply.

use super::Exchange;
use crate::object::{self, DecodeContext, judge_findings};
use crate::registry::update::Change;
use crate::registry::{Registry, Resource, Write};
use crate::request::negotiate::unsupported_media_type;
use crate::request::query::{FieldValidation, WriteOptions};
use crate::routes::Endpoint;
use access::admission::Notes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Response, StatusCode};
use machinery::field::{Error, ErrorList, Path};
use machinery::patch;
use machinery::status::ApiError;
use machinery::{Value, codec, defaults};
use std::sync::Arc;
use wire::body::Body;

/// Which patch a body is.
enum Patch {
    Json(patch::json::JsonPatch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

/// A patch on its way to an object.
struct Patching<'a> {
    registry: &'a Registry,
    resource: &'a Arc<Resource>,
    endpoint: &'a Endpoint,
    write: &'a Write<'a>,
    patch: Patch,
    options: &'a WriteOptions,
    notes: &'a Notes,
}

pub(super) async fn patch(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let kind = media_type(&exchange);
    let types = supported(resource);
    if !types.contains(&kind.as_str()) {
        return Err(unsupported_media_type(&types.join(", ")));
    }
    let output = exchange.output(true, false)?;
    let bytes = exchange.body().await?;
    let options = exchange.write_options("PatchOptions")?;
    check_options(&exchange, &options, &kind)?;
    let patch = read_patch(&kind, &bytes, endpoint, &exchange, &options, resource)?;
    drop(bytes);
    let manager = options.manager(exchange.headers().get(USER_AGENT));
    let options_object = exchange.options_object("PatchOptions", &options);
    let write = exchange.write(endpoint, resource, &options, &options_object, &manager);
    let patching = Patching {
        registry: &exchange.core.registry,
        resource,
        endpoint,
        write: &write,
        patch,
        options: &options,
        notes: &exchange.notes,
    };
    let updated = exchange
        .core
        .registry
        .update(&write, &patching, &exchange)
        .await?;
    let code = if updated.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    exchange.entry(code, endpoint, resource, &updated.entry, &output)
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn supported(resource: &Resource) -> Vec<&'static str> {
    if resource.built_in {
        vec![JSON, MERGE, STRATEGIC, APPLY]
    } else {
        vec![JSON, MERGE, APPLY]
    }
}

fn media_type(exchange: &Exchange) -> String {
    let value = exchange
        .headers()
        .get(CONTENT_TYPE)
        .map(|v| String::from_utf8_lossy(v.as_bytes()));
    value
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn check_options(exchange: &Exchange, options: &WriteOptions, kind: &str) -> Result<(), ApiError> {
    let mut errors = ErrorList::new();
    if kind == APPLY {
        if options.field_manager.is_empty() {
            errors.push(Error::required(
                &Path::new("fieldManager"),
                "is required for apply patch",
            ));
        }
    } else if exchange.query.raw("force").is_some() {
        errors.push(Error::forbidden(
            &Path::new("force"),
            "may not be specified for non-apply patch",
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", errors))
    }
}

fn read_patch(
    kind: &str,
    bytes: &[u8],
    endpoint: &Endpoint,
    exchange: &Exchange,
    options: &WriteOptions,
    resource: &Resource,
) -> Result<Patch, ApiError> {
    if kind == APPLY {
        return read_apply(bytes, endpoint, exchange, options, resource).map(Patch::Apply);
    }
    let decoded = codec::json::decode_any(bytes)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    for finding in decoded.findings {
        match options.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => exchange.notes.warn(finding),
            FieldValidation::Strict => {
                return Err(invalid_patch(bytes, &format!("strict decoding error: {finding}")));
            }
        }
    }
    Ok(match kind {
        JSON => Patch::Json(patch::json::JsonPatch::from_value(decoded.value)?),
        MERGE => Patch::Merge(decoded.value),
        _ => Patch::Strategic(decoded.value),
    })
}

fn read_apply(
    bytes: &[u8],
    endpoint: &Endpoint,
    exchange: &Exchange,
    options: &WriteOptions,
    resource: &Resource,
) -> Result<Value, ApiError> {
    let ty = resource.versions[endpoint.index].ty;
    let decoded = codec::yaml::decode(bytes, &resource.types, ty)
        .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
    match options.field_validation {
        _ if decoded.findings.is_empty() => {}
        FieldValidation::Ignore => {}
        FieldValidation::Warn => decoded.findings.into_iter().for_each(|f| exchange.notes.warn(f)),
        FieldValidation::Strict => {
            let why = decoded.findings.join(", ");
            return Err(ApiError::bad_request(format!(
                "error strict decoding YAML: error unmarshaling JSON: while decoding JSON: {why}"
            )));
        }
    }
    Ok(decoded.value)
}

fn invalid_patch(bytes: &[u8], why: &str) -> ApiError {
    let shown = String::from_utf8_lossy(bytes);
    let error = Error::invalid(&Path::new("patch"), &*shown, why);
    ApiError::invalid("", "", "", vec![error])
}

impl Change for Patching<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let version = self.endpoint.index;
        let current = live.map(|l| object::convert(self.resource, l.clone(), version));
        if let Patch::Apply(config) = &self.patch {
            return self.apply_config(live, config);
        }
        let Some(current) = current else {
            return Err(ApiError::not_found(
                &self.resource.group_resource,
                self.write.name,
            ));
        };
        let ty = self.resource.versions[version].ty;
        let patched = match &self.patch {
            Patch::Json(patch) => {
                for finding in patch.unknown_fields() {
                    if self.options.field_validation == FieldValidation::Warn {
                        self.notes.warn(finding);
                    }
                }
                patch.apply(&current)?
            }
            Patch::Merge(patch) => patch::merge::apply(current, patch.clone())?,
            Patch::Strategic(patch) => {
                let (Value::Object(current), Value::Object(patch)) = (current, patch.clone()) else {
                    return Err(ApiError::bad_request(
                        "error decoding patch: the patch is not an object",
                    ));
                };
                Value::Object(patch::strategic::apply(&self.resource.types, ty, current, patch)?)
            }
            Patch::Apply(_) => unreachable!("returned above"),
        };
        self.finish(patched)
    }

    fn may_create(&self) -> bool {
        matches!(self.patch, Patch::Apply(_))
    }

    fn tracks_itself(&self) -> bool {
        matches!(self.patch, Patch::Apply(_))
    }
}

impl Patching<'_> {
    /// The patched document as an object of the storage version.
    fn finish(&self, patched: Value) -> Result<Value, ApiError> {
        let version = &self.resource.versions[self.endpoint.index];
        let invalid = |why: String| invalid_patch(&codec::json::to_vec(&patched), &why);
        let decoded = codec::json::conform(&patched, &self.resource.types, version.ty)
            .map_err(|e| invalid(e.to_string()))?;
        let context = DecodeContext {
            types: &self.resource.types,
            ty: version.ty,
            gvk: &self.endpoint.kind,
            validation: self.options.field_validation,
            notes: self.notes,
            defaults: true,
        };
        if self.options.field_validation == FieldValidation::Strict && !decoded.findings.is_empty() {
            return Err(invalid(format!(
                "strict decoding error: {}",
                decoded.findings.join(", ")
            )));
        }
        judge_findings(&self.endpoint.kind, decoded.findings, &context)?;
        let kept = |key: &str| object::text(&decoded.value, key).to_owned();
        let (api_version, kind) = (kept("apiVersion"), kept("kind"));
        if api_version != version.api_version || kind != version.kind {
            return Err(ApiError::bad_request(format!(
                "the kind of the patched object ({api_version}, {kind}) is not the kind of the endpoint ({}, {})",
                version.api_version, version.kind
            )));
        }
        Ok(self.complete(decoded.value))
    }

    fn complete(&self, mut object: Value) -> Value {
        let ty = self.resource.versions[self.endpoint.index].ty;
        defaults::apply(&self.resource.types, ty, &mut object);
        let mut object = object::convert(self.resource, object, self.resource.storage);
        self.resource.strategy.default(&mut object);
        object
    }

    fn apply_config(&self, live: Option<&Value>, config: &Value) -> Result<Value, ApiError> {
        let version = &self.resource.versions[self.endpoint.index];
        let reset = self.write.reset_fields();
        let mut manager = self.write.field_manager(&reset);
        manager.id = version.ty;
        manager.version = &version.api_version;
        let live = live.map(|l| object::convert(self.resource, l.clone(), self.endpoint.index));
        let now = self.registry.clock.now();
        let force = self.options.force.unwrap_or(false);
        let applied = manager.apply(live.as_ref(), config, &self.options.field_manager, force, now)?;
        Ok(self.complete(applied.object))
    }
}
