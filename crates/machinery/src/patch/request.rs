//! A patch as it comes in a request: decoded once, applied as often as the write is retried.

use super::{PatchError, go, json::JsonPatch, merge, strategic};
use crate::codec::json;
use crate::field::{Error, Path};
use crate::schema::{TypeId, Types};
use crate::status::ApiError;
use crate::{Map, Value};

/// Which patch a request's content type names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

impl PatchKind {
    /// The kind a content type without parameters names; apply is not among them.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// A decoded patch.
#[derive(Debug, Clone)]
pub struct Patch {
    body: Body,
    /// What strict field validation finds in the patch itself: duplicate fields, fields that no operation has. Those
    /// the result has stand behind them.
    pub findings: Vec<String>,
}

#[derive(Debug, Clone)]
enum Body {
    Json(JsonPatch),
    Merge(Value),
    Strategic(Map),
}

impl Patch {
    /// Decodes a body. `validates` is true unless field validation is `Ignore`: upstream then reads the patch twice, and
    /// its errors read otherwise.
    pub fn decode(kind: PatchKind, bytes: &[u8], validates: bool) -> Result<Self, PatchError> {
        let decoded = json::decode_any(bytes).map_err(|error| {
            PatchError::BadRequest(match kind {
                PatchKind::Strategic => error.to_string(),
                _ if validates => format!("error decoding patch: {error}"),
                PatchKind::Json => error.to_string(),
                PatchKind::Merge => merge::NO_PATCH.to_owned(),
            })
        })?;
        let mut findings = decoded.findings;
        let body = match kind {
            PatchKind::Json => {
                let patch = JsonPatch::from_value(decoded.value)?;
                findings
                    .iter_mut()
                    .for_each(|finding| finding.insert_str(0, "json patch "));
                findings.extend(patch.unknown_fields());
                Body::Json(patch)
            }
            PatchKind::Merge => match decoded.value {
                value @ Value::Object(_) => Body::Merge(value),
                other if validates && !other.is_null() => {
                    return Err(PatchError::BadRequest(format!(
                        "error decoding patch: {}",
                        no_map(&other)
                    )));
                }
                other => Body::Merge(other),
            },
            PatchKind::Strategic => match decoded.value {
                Value::Object(map) => Body::Strategic(map),
                Value::Null => Body::Strategic(Map::new()),
                other => return Err(PatchError::BadRequest(no_map(&other))),
            },
        };
        Ok(Self { body, findings })
    }

    /// The live object with the patch applied. The result is still to be shaped by its type
    /// ([`json::conform`]), which may find that it does not fit ([`Patch::unfit`]), and to be defaulted.
    pub fn apply(&self, types: &Types, id: TypeId, live: &Value) -> Result<Value, PatchError> {
        match &self.body {
            Body::Json(patch) => patch.apply(live),
            Body::Merge(patch) => merge::apply(live.clone(), patch.clone()),
            Body::Strategic(patch) => {
                let live = live.as_object().cloned().unwrap_or_default();
                strategic::apply(types, id, live, patch.clone()).map(Value::Object)
            }
        }
    }

    /// The error for a result that does not fit its type, or has findings where none are allowed.
    pub fn unfit(&self, patched: &Value, why: &str) -> ApiError {
        let shown = match &self.body {
            Body::Strategic(patch) => go::display_map(patch),
            _ => String::from_utf8_lossy(&json::to_vec(patched)).into_owned(),
        };
        let error = Error::invalid(&Path::new("patch"), shown.as_str(), why);
        ApiError::invalid("", "", "", vec![error])
    }
}

fn no_map(value: &Value) -> String {
    format!(
        "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
        go::json_kind(value)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: PatchKind, text: &str, validates: bool) -> String {
        Patch::decode(kind, text.as_bytes(), validates)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_is_no_patch_is_refused_in_upstreams_words() {
        use PatchKind::{Json, Merge, Strategic};
        for (kind, text, validates, want) in [
            (Merge, "{", false, "Invalid JSON Patch"),
            (
                Merge,
                "{",
                true,
                "error decoding patch: unexpected end of JSON input",
            ),
            (Json, "{", false, "unexpected end of JSON input"),
            (Strategic, "{", true, "unexpected end of JSON input"),
            (
                Merge,
                "[]",
                true,
                "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
            (
                Strategic,
                "3",
                true,
                "json: cannot unmarshal number into Go value of type map[string]interface {}",
            ),
        ] {
            assert_eq!(refused(kind, text, validates), want);
        }
    }

    #[test]
    fn a_patch_is_validated_itself() {
        let patch = Patch::decode(
            PatchKind::Json,
            br#"[{"op":"add","op":"test","path":"/a","x":1}]"#,
            true,
        )
        .unwrap();
        assert_eq!(
            patch.findings,
            [
                r#"json patch duplicate field "[0].op""#,
                r#"json patch unknown field "[0].x""#
            ]
        );
        let error = patch.unfit(&Value::from("x"), "no");
        assert_eq!(
            (error.code, error.message.as_str()),
            (422, r#" "" is invalid: patch: Invalid value: "\"x\"": no"#)
        );
    }
}
