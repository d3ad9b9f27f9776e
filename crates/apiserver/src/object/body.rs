//! Request bodies to objects, with upstream's words for what is wrong.

use super::{set_kind, text};
use crate::request::Encoding;
use crate::request::query::FieldValidation;
use access::admission::Notes;
use machinery::codec;
use machinery::gvk::{GroupVersion, GroupVersionKind};
use machinery::schema::{TypeId, Types};
use machinery::status::ApiError;
use machinery::{Value, defaults};

/// What a body is expected to be.
#[derive(Clone, Copy)]
pub struct DecodeContext<'a> {
    pub types: &'a Types,
    pub ty: TypeId,
    pub gvk: &'a GroupVersionKind,
    pub validation: FieldValidation,
    pub notes: &'a Notes,
    /// Fill in the tables' defaults.
    pub defaults: bool,
}

/// Decodes a body to an object of the expected kind.
pub fn decode_body(bytes: &[u8], encoding: Encoding, context: &DecodeContext<'_>) -> Result<Value, ApiError> {
    let expected = context.gvk;
    let (mut object, findings) = match encoding {
        Encoding::Json => {
            let (api_version, kind) =
                codec::json::peek_kind(bytes).map_err(|e| unrecognized(expected, &e.to_string(), bytes))?;
            check_kind(expected, &api_version, &kind, bytes)?;
            let decoded = codec::json::decode(bytes, context.types, context.ty)
                .map_err(|e| cannot_be_handled(expected, &kind, &e.to_string(), bytes))?;
            (decoded.value, decoded.findings)
        }
        Encoding::Yaml => {
            let decoded = codec::yaml::decode(bytes, context.types, context.ty)
                .map_err(|e| unrecognized(expected, &format!("error converting YAML to JSON: {e}"), bytes))?;
            check_kind(
                expected,
                text(&decoded.value, "apiVersion"),
                text(&decoded.value, "kind"),
                bytes,
            )?;
            (decoded.value, decoded.findings)
        }
        Encoding::Protobuf => {
            let failed = |e: String| unrecognized(expected, &e, b"");
            let envelope = codec::proto::open_envelope(bytes).map_err(|e| failed(e.to_string()))?;
            check_kind(expected, &envelope.api_version, &envelope.kind, b"")?;
            let value = codec::proto::decode(envelope.raw, context.types, context.ty)
                .map_err(|e| cannot_be_handled(expected, &envelope.kind, &e.to_string(), b""))?;
            (value, Vec::new())
        }
        Encoding::Cbor => {
            let value = codec::cbor::decode_any(bytes).map_err(|e| {
                unrecognized(
                    expected,
                    &format!("unable to determine group/version/kind: {e}"),
                    bytes,
                )
            })?;
            let kind = text(&value, "kind");
            check_kind(expected, text(&value, "apiVersion"), kind, bytes)?;
            let decoded = codec::json::conform(&value, context.types, context.ty)
                .map_err(|e| cannot_be_handled(expected, kind, &e.to_string(), bytes))?;
            (decoded.value, decoded.findings)
        }
    };
    if !object.is_null() && object.as_object().is_none() {
        return Err(unrecognized(expected, "the body is not an object", bytes));
    }
    judge_findings(expected, findings, context)?;
    set_kind(&mut object, &expected.api_version(), &expected.kind);
    if context.defaults {
        defaults::apply(context.types, context.ty, &mut object);
    }
    Ok(object)
}

/// Decodes options sent as a body (`DeleteOptions`), of any group.
pub fn decode_options(bytes: &[u8], encoding: Encoding) -> Result<Value, ApiError> {
    let Some(ty) = api::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions") else {
        return Err(ApiError::internal("no DeleteOptions in the tables"));
    };
    let bad = |e: String| ApiError::bad_request(e);
    match encoding {
        Encoding::Json => codec::json::decode(bytes, api::types(), ty)
            .map(|d| d.value)
            .map_err(|e| bad(e.to_string())),
        Encoding::Yaml => codec::yaml::decode(bytes, api::types(), ty)
            .map(|d| d.value)
            .map_err(|e| bad(e.to_string())),
        Encoding::Protobuf => {
            let envelope = codec::proto::open_envelope(bytes).map_err(|e| bad(e.to_string()))?;
            codec::proto::decode(envelope.raw, api::types(), ty).map_err(|e| bad(e.to_string()))
        }
        Encoding::Cbor => codec::cbor::decode(bytes, api::types(), ty)
            .map(|d| d.value)
            .map_err(|e| bad(e.to_string())),
    }
}

/// Unknown and repeated fields, as the client wants them met.
pub fn judge_findings(
    expected: &GroupVersionKind,
    findings: Vec<String>,
    context: &DecodeContext<'_>,
) -> Result<(), ApiError> {
    if findings.is_empty() {
        return Ok(());
    }
    match context.validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            for finding in findings {
                context.notes.warn(finding);
            }
            Ok(())
        }
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", findings.join(", "));
            Err(cannot_be_handled(expected, &expected.kind, &why, b""))
        }
    }
}

/// The body says what it is; that must be what is expected here.
fn check_kind(
    expected: &GroupVersionKind,
    api_version: &str,
    kind: &str,
    body: &[u8],
) -> Result<(), ApiError> {
    if !api_version.is_empty() && api_version != expected.api_version() {
        let given = GroupVersion::parse(api_version).ok_or_else(|| {
            unrecognized(
                expected,
                &format!("unexpected GroupVersion string: {api_version}"),
                body,
            )
        })?;
        if !kind.is_empty() && api::kind(&given.with_kind(kind)).is_none() {
            return Err(not_registered(expected, &given, kind));
        }
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version()
        )));
    }
    if !kind.is_empty() && kind != expected.kind {
        let given = expected.group_version();
        if api::kind(&given.with_kind(kind)).is_none() {
            return Err(not_registered(expected, &given, kind));
        }
        let version = &expected.version;
        return Err(cannot_be_handled(
            expected,
            kind,
            &format!(
                "converting ({version}.{kind}) to ({}.{}): unknown conversion",
                expected.group, expected.kind
            ),
            body,
        ));
    }
    Ok(())
}

fn not_registered(expected: &GroupVersionKind, given: &GroupVersion, kind: &str) -> ApiError {
    let why = format!(
        "no kind {kind:?} is registered for version {:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        given.to_string()
    );
    ApiError::bad_request(format!(
        "{kind} in version {:?} cannot be handled as a {}: {why}",
        given.version, expected.kind
    ))
}

fn cannot_be_handled(expected: &GroupVersionKind, kind: &str, why: &str, body: &[u8]) -> ApiError {
    if kind.is_empty() {
        return unrecognized(expected, why, body);
    }
    ApiError::bad_request(format!(
        "{kind} in version {:?} cannot be handled as a {}: {why}",
        expected.version, expected.kind
    ))
}

fn unrecognized(expected: &GroupVersionKind, why: &str, body: &[u8]) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({})",
        expected.kind,
        summary(body)
    ))
}

/// The beginning of a body: text if it looks like JSON, hexadecimal otherwise.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(MOST)]).into_owned();
            if body.len() > MOST {
                format!("{shown} ...")
            } else {
                shown
            }
        }
        Some(_) => {
            let shown = hex::encode(&body[..body.len().min(MOST)]);
            if body.len() > MOST {
                format!("{shown} ...")
            } else {
                shown
            }
        }
    }
}
