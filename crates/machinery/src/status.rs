//! The one error that reaches a client: metav1 `Status`, with upstream's reasons, codes and words.

use crate::field::{self, ErrorList};
use crate::gvk::GroupResource;
use crate::value::{Map, Value};
use std::fmt;

/// Upstream's machine-readable reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The name on the wire; empty for [`Reason::Unknown`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::StoreReadError => "StorageReadError",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    /// The reason of a name on the wire, if it is one of upstream's.
    pub fn from_name(name: &str) -> Option<Self> {
        const ALL: [Reason; 19] = [
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Invalid,
            Reason::ServerTimeout,
            Reason::StoreReadError,
            Reason::Timeout,
            Reason::TooManyRequests,
            Reason::BadRequest,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::InternalError,
            Reason::Expired,
            Reason::ServiceUnavailable,
        ];
        ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// One cause of a failure: a field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// What failed, for machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    /// Zero: the client is not told when to come again.
    pub retry_after_seconds: u32,
    /// Where a list that expired can go on, if not empty; it stands in the metadata.
    pub continue_token: String,
}

/// A failed request, as the client will see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
}

impl ApiError {
    /// An error with nothing but its code, reason and words.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(code: u16, reason: Reason, message: String, resource: &GroupResource, name: &str) -> Self {
        Self::new(code, reason, message).with_details(Details {
            name: name.to_owned(),
            group: resource.group.to_string(),
            kind: resource.resource.to_string(),
            ..Details::default()
        })
    }

    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        let message = format!("{resource} {} not found", field::quote(name));
        Self::about(404, Reason::NotFound, message, resource, name)
    }

    /// The path itself is unknown.
    pub fn not_found_path() -> Self {
        Self::new(
            404,
            Reason::NotFound,
            "the server could not find the requested resource",
        )
        .with_details(Details::default())
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        let message = format!("{resource} {} already exists", field::quote(name));
        Self::about(409, Reason::AlreadyExists, message, resource, name)
    }

    /// `generateName` collided again and again.
    pub fn generate_name_conflict(resource: &GroupResource, name: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            field::quote(name)
        );
        let mut error = Self::about(409, Reason::AlreadyExists, message, resource, name);
        if let Some(details) = &mut error.details {
            details.retry_after_seconds = retry_after_seconds;
        }
        error
    }

    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {resource} {}: {why}",
            field::quote(name)
        );
        Self::about(409, Reason::Conflict, message, resource, name)
    }

    /// Somebody else changed the object first.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Server-side apply met fields of other managers.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        Self::new(409, Reason::Conflict, message).with_details(Details {
            causes,
            ..Details::default()
        })
    }

    /// The object is not valid; `kind` is the kind, not the resource, as upstream has it.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: impl Into<ErrorList>) -> Self {
        let errors = errors.into();
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let message = format!(
            "{qualified} {} is invalid: {}",
            field::quote(name),
            field::aggregate(&errors)
        );
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body(),
                field: error.field.as_str().to_owned(),
            })
            .collect();
        Self::new(422, Reason::Invalid, message).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        })
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = if resource.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", field::quote(name))
        };
        Self::about(403, Reason::Forbidden, message, resource, name)
    }

    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {}",
            field::quote(&resource.to_string())
        );
        Self::about(405, Reason::MethodNotAllowed, message, resource, "")
    }

    /// The HTTP method means nothing at this path.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
        .with_details(Details::default())
    }

    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, Reason::NotAcceptable, message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    /// A resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message).with_details(Details {
            retry_after_seconds,
            ..Details::default()
        })
    }

    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}")).with_details(Details {
            retry_after_seconds,
            ..Details::default()
        })
    }

    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        let mut error = Self::about(500, Reason::ServerTimeout, message, resource, operation);
        if let Some(details) = &mut error.details {
            details.retry_after_seconds = retry_after_seconds;
        }
        error
    }

    /// Something broke on our side; `why` is shown, so it must name no secret.
    pub fn internal(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        let causes = vec![Cause {
            reason: String::new(),
            message: why.clone(),
            field: String::new(),
        }];
        Self::new(
            500,
            Reason::InternalError,
            format!("Internal error occurred: {why}"),
        )
        .with_details(Details {
            causes,
            ..Details::default()
        })
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut status: Map = [
            ("apiVersion", Value::from("v1")),
            ("code", Value::from(i64::from(self.code))),
            ("kind", Value::from("Status")),
            ("message", Value::from(self.message.as_str())),
            ("metadata", Value::object()),
            ("status", Value::from("Failure")),
        ]
        .into_iter()
        .collect();
        if self.reason != Reason::Unknown {
            status.insert("reason", self.reason.as_str());
        }
        if let Some(details) = &self.details {
            if !details.continue_token.is_empty() {
                let metadata: Map = [("continue", details.continue_token.as_str())]
                    .into_iter()
                    .collect();
                status.insert("metadata", metadata);
            }
            let shown = details.to_value();
            // Errors that say nothing but where to go on have no details.
            if details.continue_token.is_empty() || shown.as_object().is_some_and(|m| !m.is_empty()) {
                status.insert("details", shown);
            }
        }
        Value::Object(status)
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        crate::codec::json::encode(&self.to_value(), &mut out);
        out
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        let mut text = |key: &str, value: &str| {
            if !value.is_empty() {
                map.insert(key, value);
            }
        };
        text("name", &self.name);
        text("group", &self.group);
        text("kind", &self.kind);
        text("uid", &self.uid);
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds", i64::from(self.retry_after_seconds));
        }
        if !self.causes.is_empty() {
            let causes: Vec<Map> = self.causes.iter().map(Cause::to_map).collect();
            map.insert("causes", causes);
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_map(&self) -> Map {
        [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key, value.as_str()))
        .collect()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    #[test]
    fn messages_read_as_upstream() {
        let deployments = GroupResource::new("apps", "deployments");
        assert_eq!(
            ApiError::not_found(&deployments, "x").message,
            r#"deployments.apps "x" not found"#
        );
        assert_eq!(
            ApiError::modified(&GroupResource::new("", "pods"), "p").message,
            "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply your changes \
             to the latest version and try again"
        );
        let one = [Error::required(&Path::new("spec"), "")];
        assert_eq!(
            ApiError::invalid("apps", "Deployment", "x", one.clone()).message,
            r#"Deployment.apps "x" is invalid: spec: Required value"#
        );
        let two = [one[0].clone(), Error::forbidden(&Path::new("a"), "no")];
        let error = ApiError::invalid("", "Pod", "x", two);
        assert_eq!(
            error.message,
            r#"Pod "x" is invalid: [spec: Required value, a: Forbidden: no]"#
        );
        assert_eq!(error.details.unwrap().causes[1].message, "Forbidden: no");
    }
}
