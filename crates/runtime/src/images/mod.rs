//! Images: a content store, unpacked layers, and records that tie names to both.
//!
//! ```text
//! <root>/content/blobs/sha256/<digest>   manifests, configurations, layers as they came
//! <root>/layers/<chain id>/fs            a layer unpacked, once, whatever images use it
//! <root>/images.json                     the records; what no record names is garbage
//! ```
//!
//! **Invariant:** a record is written only when everything it names is in place and has been checked. An
//! import or pull that fails leaves blobs and layers at most, which the next collection removes.

mod archive;
mod content;
mod hosts;
mod integrity;
mod layers;
mod pull;
mod record;
mod reference;
mod source;
mod store;
mod tree;

use std::io;
use std::path::Path;

pub use hosts::Registries;
pub use integrity::Finding;
pub use pull::Credentials;
pub use record::{ImageConfig, ImageRecord};
pub use reference::{Digest, Reference};
pub use store::{FsInfo, Images};

/// Where progress lines go.
pub type Progress = std::sync::Arc<dyn Fn(String) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid reference format: {0:?}")]
    InvalidReference(String),
    #[error("not an image archive: {0}")]
    NotAnArchive(String),
    #[error("malformed image: {0}")]
    Malformed(String),
    #[error("{what} does not match its digest: expected {expected}, got {actual}")]
    Digest {
        what: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("image {0:?}: not found")]
    NotFound(String),
    #[error("registry configuration {path}: {reason}")]
    Hosts { path: String, reason: String },
    #[error("failed to pull and unpack image {image:?}: {reason}")]
    Pull {
        image: String,
        reason: String,
        kind: PullFailure,
    },
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
}

/// What the kubelet may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFailure {
    NotFound,
    Denied,
    Other,
}

pub(crate) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> ImageError {
    ImageError::Io {
        operation,
        path: path.display().to_string(),
        source,
    }
}

/// An error with its causes in one line, for people; what an outer message repeats is not said twice.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A system error's text as other systems' tools write it: in lower case, without Rust's "(os error 2)".
pub(crate) fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
