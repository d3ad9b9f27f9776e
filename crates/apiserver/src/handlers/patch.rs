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
use machinery::codec::json::Decoded;
use machinery::field::{Error, ErrorList, Path};
use machinery::patch::{Patch, PatchKind};
use machinery::schema::{TypeId, Types};
use machinery::status::ApiError;
use machinery::{Value, codec, defaults};
use std::sync::Arc;
use wire::body::Body;

const APPLY: &str = "application/apply-patch+yaml";
const APPLY_CBOR: &str = "application/apply-patch+cbor";
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What a PATCH brings.
pub(super) enum Input {
    Patch(Patch),
    /// The configuration of a server-side apply.
    Apply(Value),
}

/// A patch on its way to an object.
struct Patching<'a> {
    registry: &'a Registry,
    resource: &'a Arc<Resource>,
    endpoint: &'a Endpoint,
    write: &'a Write<'a>,
    input: Input,
    options: &'a WriteOptions,
    notes: &'a Notes,
}

pub(super) async fn patch(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let kind = media_type(&exchange);
    check_media_type(&exchange, &kind, resource.built_in)?;
    let output = exchange.output(true, false)?;
    let bytes = exchange.body().await?;
    let options = exchange.write_options("PatchOptions")?;
    check_options(&exchange, &options, &kind)?;
    let ty = resource.versions[endpoint.index].ty;
    let input = read(&kind, &bytes, &resource.types, ty, &options, &exchange.notes)?;
    drop(bytes);
    let manager = options.manager(exchange.headers().get(USER_AGENT));
    let options_object = exchange.options_object("PatchOptions", &options);
    let write = exchange.write(endpoint, resource, &options, &options_object, &manager);
    let patching = Patching {
        registry: &exchange.core.registry,
        resource,
        endpoint,
        write: &write,
        input,
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

/// Only built-in kinds have what a strategic merge goes by; only some servers speak CBOR.
pub(super) fn check_media_type(exchange: &Exchange, kind: &str, built_in: bool) -> Result<(), ApiError> {
    let mut types = vec![JSON, MERGE];
    types.extend(built_in.then_some(STRATEGIC));
    types.push(APPLY);
    types.extend(exchange.core.features.cbor.then_some(APPLY_CBOR));
    if types.contains(&kind) {
        return Ok(());
    }
    Err(unsupported_media_type(&types.join(", ")))
}

/// The content type, without its parameters.
pub(super) fn media_type(exchange: &Exchange) -> String {
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

pub(super) fn check_options(exchange: &Exchange, options: &WriteOptions, kind: &str) -> Result<(), ApiError> {
    let mut errors = ErrorList::new();
    if matches!(kind, APPLY | APPLY_CBOR) {
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

/// Reads the body of a PATCH to an object of type `ty`.
pub(super) fn read(
    kind: &str,
    bytes: &[u8],
    types: &Types,
    ty: TypeId,
    options: &WriteOptions,
    notes: &Notes,
) -> Result<Input, ApiError> {
    let Some(kind) = PatchKind::of_media_type(kind) else {
        let read = if kind == APPLY_CBOR {
            read_cbor(bytes, types, ty)?
        } else {
            read_yaml(bytes, types, ty)?
        };
        return judge_apply(read, options, notes).map(Input::Apply);
    };
    let validation = options.field_validation;
    let patch = Patch::decode(kind, bytes, validation != FieldValidation::Ignore)?;
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => patch.findings.iter().for_each(|f| notes.warn(f)),
        FieldValidation::Strict if patch.findings.is_empty() => {}
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", patch.findings.join(", "));
            return Err(ApiError::bad_request(why));
        }
    }
    Ok(Input::Patch(patch))
}

fn read_yaml(bytes: &[u8], types: &Types, ty: TypeId) -> Result<Decoded, ApiError> {
    // What a custom kind's schema does not know is refused by the merge, in its own words.
    let decoded = match types.is_lenient(ty) {
        true => codec::yaml::to_json(bytes).and_then(|json| Ok(codec::json::decode_any(&json)?)),
        false => codec::yaml::decode(bytes, types, ty),
    };
    decoded.map_err(|e| {
        ApiError::bad_request(match e {
            codec::yaml::YamlError::Duplicate { .. } => format!("error strict decoding YAML: {e}"),
            e => format!("error decoding YAML: {e}"),
        })
    })
}

fn read_cbor(bytes: &[u8], types: &Types, ty: TypeId) -> Result<Decoded, ApiError> {
    let decoded = match types.is_lenient(ty) {
        true => codec::cbor::decode_any(bytes).map(|value| Decoded {
            value,
            findings: Vec::new(),
        }),
        false => codec::cbor::decode(bytes, types, ty),
    };
    // Upstream's word for it, whatever the encoding.
    decoded.map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))
}

fn judge_apply(decoded: Decoded, options: &WriteOptions, notes: &Notes) -> Result<Value, ApiError> {
    match options.field_validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => decoded.findings.into_iter().for_each(|f| notes.warn(f)),
        FieldValidation::Strict if decoded.findings.is_empty() => {}
        FieldValidation::Strict => {
            let why = decoded.findings.join(", ");
            return Err(ApiError::bad_request(format!(
                "error strict decoding YAML: {why}"
            )));
        }
    }
    Ok(decoded.value)
}

impl Change for Patching<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let current = live.map(|l| object::convert(self.resource, l.clone(), self.endpoint.index));
        match (&self.input, current) {
            (Input::Apply(config), current) => self.apply_config(current.as_ref(), config),
            (Input::Patch(_), None) => Err(ApiError::not_found(
                &self.resource.group_resource,
                self.write.name,
            )),
            (Input::Patch(patch), Some(current)) => self.apply_patch(patch, &current),
        }
    }

    fn may_create(&self) -> bool {
        matches!(self.input, Input::Apply(_))
    }

    fn tracks_itself(&self) -> bool {
        matches!(self.input, Input::Apply(_))
    }
}

impl Patching<'_> {
    /// The patched document as an object of the storage version.
    fn apply_patch(&self, patch: &Patch, current: &Value) -> Result<Value, ApiError> {
        let version = &self.resource.versions[self.endpoint.index];
        let patched = patch.apply(&self.resource.types, version.ty, current)?;
        let decoded = codec::json::conform(&patched, &self.resource.types, version.ty)
            .map_err(|e| patch.unfit(&patched, &e.to_string()))?;
        let strict = self.options.field_validation == FieldValidation::Strict;
        if strict && !decoded.findings.is_empty() {
            let why = format!("strict decoding error: {}", decoded.findings.join(", "));
            return Err(patch.unfit(&patched, &why));
        }
        let context = DecodeContext {
            types: &self.resource.types,
            ty: version.ty,
            gvk: &self.endpoint.kind,
            validation: self.options.field_validation,
            notes: self.notes,
            defaults: true,
        };
        judge_findings(&self.endpoint.kind, decoded.findings, &context)?;
        let (api_version, kind) = (
            object::text(&decoded.value, "apiVersion"),
            object::text(&decoded.value, "kind"),
        );
        if api_version != version.api_version || kind != version.kind {
            return Err(ApiError::bad_request(format!(
                "the kind of the patched object ({api_version}, {kind}) is not the kind of the endpoint ({}, {})",
                version.api_version, version.kind
            )));
        }
        Ok(self.complete(decoded.value))
    }

    fn apply_config(&self, live: Option<&Value>, config: &Value) -> Result<Value, ApiError> {
        let reset = self.write.reset_fields();
        let versions = self.write.other_versions();
        let manager = self.write.field_manager(&reset, &versions);
        let now = self.registry.clock.now();
        let force = self.options.force.unwrap_or(false);
        let applied = manager.apply(live, config, &self.options.field_manager, force, now)?;
        Ok(self.complete(applied.object))
    }

    fn complete(&self, mut object: Value) -> Value {
        let ty = self.resource.versions[self.endpoint.index].ty;
        defaults::apply(&self.resource.types, ty, &mut object);
        let mut object = object::convert(self.resource, object, self.resource.storage);
        self.resource.strategy.default(&mut object);
        object
    }
}
