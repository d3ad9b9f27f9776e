//! What can go wrong at the kubelet's edge.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connecting to the container runtime at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: cri::ConnectError,
    },
    #[error("{operation}: the container runtime did not answer in time")]
    RuntimeSilent { operation: &'static str },
    /// The runtime refused; its message is the one the user sees.
    #[error("{}", words(status))]
    Runtime {
        operation: &'static str,
        status: Box<tonic::Status>,
    },
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation}")]
    Kernel {
        operation: &'static str,
        #[source]
        source: linux::Error,
    },
    #[error("{operation} {subject}")]
    Api {
        operation: &'static str,
        subject: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("listening on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the kubelet's certificates")]
    Tls(#[source] wire::tls::TlsError),
    /// A thing of the pod that cannot be had as asked; upstream's words.
    #[error("{0}")]
    Pod(String),
}

/// A refusal's message; its code where it has none.
fn words(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

impl Error {
    pub fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }

    pub fn kernel(operation: &'static str) -> impl FnOnce(linux::Error) -> Self {
        move |source| Self::Kernel { operation, source }
    }

    /// A refusal of the runtime as upstream's client prints it; other errors in full.
    pub fn rpc_text(&self) -> String {
        match self {
            Self::Runtime { status, .. } => {
                let code = format!("{:?}", status.code());
                let code = if code == "Ok" { "OK".to_owned() } else { code };
                format!("rpc error: code = {code} desc = {}", status.message())
            }
            other => other.full(),
        }
    }

    /// The error with its causes, for a message a person reads.
    pub fn full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Whether the runtime said that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Runtime { status, .. } if status.code() == tonic::Code::NotFound)
    }
}
