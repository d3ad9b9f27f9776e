//! `AdmissionReview`: what a webhook is asked, and what its answer means.

use super::Hook;
use crate::admission::Attributes;
use crate::admission::matching::Hit;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::status::{ApiError, Cause, Details, Reason};
use machinery::user::UserInfo;
use machinery::{Map, Value, codec};

const GROUP: &str = "admission.k8s.io";
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// How much of a strange answer is shown.
const EXCERPT: usize = 256;

/// A review to be sent.
pub(super) struct Review {
    pub uid: String,
    pub version: String,
    pub body: Vec<u8>,
}

/// A review that came back in order.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The status of a no.
    pub refusal: Option<Value>,
    /// A JSON patch.
    pub patch: Option<Vec<u8>>,
    pub annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// The review of a request, in the first version the webhook and we both know.
pub(super) fn request(
    hook: &Hook,
    hit: &Hit,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<Review, String> {
    let version = hook
        .review_versions
        .iter()
        .find(|version| VERSIONS.contains(&version.as_str()))
        .ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")?;
    let uid = uuid::Uuid::new_v4().to_string();
    let view = |object: Option<&Value>| match object {
        Some(object) => attributes.view(object, hit).map_err(|error| error.message),
        None => Ok(Value::Null),
    };
    let mut request = fields(hit, attributes);
    request.insert("object", view(object)?);
    request.insert("oldObject", view(attributes.old)?);
    request.insert("uid", uid.as_str());
    let review: Map = [
        ("apiVersion", Value::from(format!("{GROUP}/{version}"))),
        ("kind", "AdmissionReview".into()),
        ("request", Value::Object(request)),
    ]
    .into_iter()
    .collect();
    Ok(Review {
        uid,
        version: version.clone(),
        body: codec::json::to_vec(&Value::Object(review)),
    })
}

/// A request without its objects.
pub(in crate::admission) fn fields(hit: &Hit, attributes: &Attributes<'_>) -> Map {
    let target = &attributes.target;
    let triple = |names: [&str; 3], values: [&str; 3]| -> Value {
        let pairs = names.into_iter().zip(values);
        Value::Object(pairs.map(|(name, value)| (name, Value::from(value))).collect())
    };
    let of_kind = ["group", "kind", "version"];
    let of_resource = ["group", "resource", "version"];
    let mut request: Map = [
        ("dryRun", Value::from(attributes.dry_run)),
        (
            "kind",
            triple(of_kind, [&hit.kind_group, &hit.kind, &hit.kind_version]),
        ),
        ("operation", attributes.operation.as_str().into()),
        ("options", attributes.options.clone()),
        (
            "requestKind",
            triple(of_kind, [target.kind_group, target.kind, target.kind_version]),
        ),
        (
            "requestResource",
            triple(of_resource, [target.group, target.resource, target.version]),
        ),
        (
            "resource",
            triple(of_resource, [&hit.group, &hit.resource, &hit.version]),
        ),
        ("userInfo", user(attributes.user)),
    ]
    .into_iter()
    .collect();
    for (field, text) in [
        ("name", target.name),
        ("namespace", target.namespace),
        ("subResource", target.subresource),
        ("requestSubResource", target.subresource),
    ] {
        if !text.is_empty() {
            request.insert(field, text);
        }
    }
    request
}

fn user(user: &UserInfo) -> Value {
    let mut map = Map::new();
    map.insert("username", user.name.as_str());
    if !user.uid.is_empty() {
        map.insert("uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        map.insert("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra = user
            .extra
            .iter()
            .map(|(key, values)| (key.as_str(), Value::from(values.clone())));
        map.insert("extra", extra.collect::<Map>());
    }
    map.into()
}

/// Reads an answer; what is not one to this review is an error.
pub(super) fn answer(body: &[u8], version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
    let review = codec::json::decode_any(body)
        .map_err(|error| error.to_string())?
        .value;
    let text = |path: &[&str]| review.get_str_path(path);
    let response = review
        .get("response")
        .filter(|response| response.as_object().is_some())
        .ok_or("webhook response was absent")?;
    let strict = version == "v1";
    if strict {
        let given = text(&["response", "uid"]).unwrap_or_default();
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
        let (api, kind) = (
            text(&["apiVersion"]).unwrap_or_default(),
            text(&["kind"]).unwrap_or_default(),
        );
        if api != format!("{GROUP}/v1") || kind != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {api}, Kind={kind}"
            ));
        }
    }
    let patch = text(&["response", "patch"]).filter(|patch| !patch.is_empty());
    let patch_type = text(&["response", "patchType"]);
    let patch = match (mutating, patch, patch_type) {
        (true, None, None) | (false, None, None) => None,
        (true, Some(_), None) if strict => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        (true, None, Some(_)) if strict => {
            return Err("webhook returned response.patchType but not response.patch".to_owned());
        }
        (true, Some(_), Some(other)) if strict && other != "JSONPatch" => {
            return Err(format!(
                "webhook returned invalid response.patchType of {other:?}"
            ));
        }
        (true, patch, _) => patch,
        (false, Some(_), _) if strict => {
            return Err("validating webhook may not return response.patch".to_owned());
        }
        (false, None, Some(_)) if strict => {
            return Err("validating webhook may not return response.patchType".to_owned());
        }
        (false, ..) => None,
    };
    let patch = match patch {
        Some(patch) => Some(STANDARD.decode(patch).map_err(|error| error.to_string())?),
        None => None,
    };
    let annotations = response.get("auditAnnotations").and_then(Value::as_object);
    let warnings = response
        .get("warnings")
        .and_then(Value::as_array)
        .unwrap_or_default();
    let allowed = response.get("allowed").and_then(Value::as_bool).unwrap_or(false);
    let status = response.get("status").cloned().unwrap_or_default();
    Ok(Answer {
        refusal: (!allowed).then_some(status),
        patch,
        annotations: annotations
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())))
            .collect(),
        warnings: warnings
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    })
}

/// What the client is told of a no.
pub(super) fn denied(name: &str, status: &Value) -> ApiError {
    let text = |path: &[&str]| status.get_str_path(path).unwrap_or_default();
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (text(&["message"]), text(&["reason"])) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status.get("code").and_then(Value::as_i64).unwrap_or(0);
    let code = u16::try_from(code)
        .ok()
        .filter(|code| (400..600).contains(code))
        .unwrap_or(400);
    let reason = Reason::from_name(text(&["reason"])).unwrap_or(Reason::Unknown);
    let mut error = ApiError::new(code, reason, message);
    if let Some(details) = status
        .get("details")
        .filter(|details| details.as_object().is_some())
    {
        let text = |field: &str| {
            details
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let causes = details
            .get("causes")
            .and_then(Value::as_array)
            .unwrap_or_default();
        error = error.with_details(Details {
            name: text("name"),
            group: text("group"),
            kind: text("kind"),
            uid: text("uid"),
            causes: causes.iter().map(cause).collect(),
            retry_after_seconds: details
                .get("retryAfterSeconds")
                .and_then(Value::as_i64)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
            ..Details::default()
        });
    }
    error
}

fn cause(cause: &Value) -> Cause {
    let text = |field: &str| {
        cause
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Cause {
        reason: text("reason"),
        message: text("message"),
        field: text("field"),
    }
}

/// An answer that is no success, in words.
pub(super) fn http_failure(code: u16, body: &[u8]) -> String {
    let status = codec::json::decode_any(body).ok().map(|decoded| decoded.value);
    let said = status
        .as_ref()
        .filter(|status| status.get_str_path(&["kind"]) == Some("Status"))
        .and_then(|status| status.get_str_path(&["message"]));
    match said {
        Some(message) => message.to_owned(),
        None if code >= 500 => {
            let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]).into_owned();
            format!(
                "an error on the server ({:?}) has prevented the request from succeeding",
                text.trim_end()
            )
        }
        None if code == 404 => "the server could not find the requested resource".to_owned(),
        None => {
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}
