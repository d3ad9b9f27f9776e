//! What can go wrong between a component and the API.

/// The result of a client operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One failed client operation; the variant names it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("loading kubeconfig {path}")]
    Kubeconfig {
        path: String,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("building a client for {server}")]
    Client {
        server: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("requesting {path}")]
    Request {
        path: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("building the request for {path}")]
    BuildRequest {
        path: String,
        #[source]
        source: http::Error,
    },
    #[error("reading the answer to {path}")]
    Read {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("decoding the answer to {path}")]
    Decode {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    /// The server answered with a `Status` that is an error.
    #[error("{path}: {} ({})", .status.message, .status.reason)]
    Status {
        path: String,
        status: Box<kube::core::Status>,
    },
}

impl Error {
    /// The HTTP code of the server's answer, if it was the server that refused.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status.code),
            Self::Request { source, .. } | Self::Client { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What a server's refusal means to a caller that retries.
pub trait ApiErrorExt {
    /// The object does not exist.
    fn is_not_found(&self) -> bool;
    /// Somebody else changed the object meanwhile.
    fn is_conflict(&self) -> bool;
    /// An object of that name exists already.
    fn is_already_exists(&self) -> bool;
    /// The server refuses this caller, or the namespace is going away.
    fn is_forbidden(&self) -> bool;
    /// The object was judged invalid.
    fn is_invalid(&self) -> bool;
    /// Creation was refused because the namespace is being deleted.
    fn is_namespace_terminating(&self) -> bool;
}

impl ApiErrorExt for kube::Error {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 404)
    }
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 409 && s.reason != "AlreadyExists")
    }
    fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 409 && s.reason == "AlreadyExists")
    }
    fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 403)
    }
    fn is_invalid(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 422)
    }
    fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 403
            && s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
    }
}
